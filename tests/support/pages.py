"""Programs on loopback that answer GET with what a test says, and count who asked."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread

from tests.support.patience import PATIENCE_S


@dataclass(eq=False)
class Page:
    """An address with one page."""

    body: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "text/plain"})
    address: str = ""
    asked: int = 0
    _changed: Condition = field(default_factory=Condition)

    def answered(self) -> None:
        with self._changed:
            self.asked += 1
            self._changed.notify_all()

    def wait(self, more: int = 1) -> None:
        """Until it was asked so many times more.

        Raises:
            TimeoutError: it was not.
        """
        with self._changed:
            wanted = self.asked + more
            if not self._changed.wait_for(lambda: self.asked >= wanted, PATIENCE_S):
                raise TimeoutError(f"{self.address} was asked {self.asked} times, not {wanted}")


@contextmanager
def served(page: Page) -> Iterator[Page]:
    """The page under an address of its own, until the end."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            content = page.body.encode()
            self.send_response(page.status)
            for name, value in page.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            page.answered()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        page.address = f"127.0.0.1:{server.server_port}"
        try:
            yield page
        finally:
            server.shutdown()
            thread.join()
