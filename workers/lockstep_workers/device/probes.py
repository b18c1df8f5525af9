"""A device's /metrics, /healthz and /readyz: the standard library's server, since it shares a
fraction of a core with the training and must answer before torch is imported."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry

from lockstep_api import names
from lockstep_serving.exporting import CONTENT_TYPE, page
from lockstep_workers.device.threads import start_thread

Ready = Callable[[], bool]


_MOST_CONNECTIONS = 32
_SILENCE_S = 20.0


class _Server(ThreadingHTTPServer):
    """A thread a connection, but not as many as a stranger likes."""

    daemon_threads = True
    request_queue_size = _MOST_CONNECTIONS

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Closes the connection at once when too many are open."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that breaks off is no news."""


class ProbeServer:
    """Answers probes and scrapes in threads of its own."""

    def __init__(self, host: str, port: int, *, registry: CollectorRegistry, ready: Ready) -> None:
        """Listens at once; `ready` decides what /readyz says."""
        self._server = _Server((host, port), _handler(registry, ready))
        self.port = self._server.server_address[1]
        self._thread = start_thread(self._server.serve_forever, "probes")

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(registry: CollectorRegistry, ready: Ready) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _SILENCE_S  # the base class closes a connection that is silent for so long

        def do_GET(self) -> None:
            """Answers one request."""
            path = self.path.partition("?")[0]
            if path == names.METRICS_ROUTE:
                self._answer(200, page(registry), content_type=CONTENT_TYPE)
            elif path == names.HEALTH_ROUTE:
                self._answer(200, b"ok\n", content_type="text/plain")
            elif path == names.READY_ROUTE:
                status, text = (
                    (200, b"ok\n") if ready() else (503, b"no session with the cloud pod\n")
                )
                self._answer(status, text, content_type="text/plain")
            else:
                self._answer(404, b"not found\n", content_type="text/plain")

        def _answer(self, status: int, body: bytes, *, content_type: str) -> None:
            self.send_response(status)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Probes are not logged."""

    return Handler
