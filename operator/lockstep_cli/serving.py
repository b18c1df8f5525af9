"""A page for the browser of this machine: made when somebody looks, and again when it is old.

`commands/dashboard` calls it. Invariant: it listens on the loopback alone and answers no other name
than that of this machine, so that no page from elsewhere reads it.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from lockstep_cli.errors import CliError

HOST = "127.0.0.1"
OLD_S = 4.0
"""A page of a job that runs is made anew after so long."""
_NAMES = frozenset((HOST, "localhost"))

Make = Callable[[], tuple[str, bool]]
"""Makes the page, and says whether it changes no more."""


@dataclass(slots=True)
class Kept:
    """The newest page."""

    make: Make
    say: Callable[[str], None]
    """Tells people what went wrong."""
    clock: Callable[[], float] = time.monotonic
    _html: bytes = b""
    _ended: bool = False
    _made_s: float = 0.0
    _trouble: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def first(self) -> None:
        """Makes it.

        Raises:
            CliError: it cannot be made.
        """
        html, self._ended = self.make()
        self._html, self._made_s = html.encode(), self.clock()

    def page(self) -> bytes:
        """It, not older than a few seconds; the last one when no other can be made."""
        with self._lock:
            if not self._ended and self.clock() - self._made_s >= OLD_S:
                try:
                    self.first()
                    self._trouble = ""
                except CliError as error:
                    self._made_s = self.clock()
                    self._tell(str(error))
            return self._html

    def _tell(self, trouble: str) -> None:
        """Once, as long as it is the same."""
        if trouble != self._trouble:
            self.say(f"the page stays as it was: {trouble}")
        self._trouble = trouble


class _Handler(BaseHTTPRequestHandler):
    kept: Kept

    def do_GET(self) -> None:
        """The page, and nothing else."""
        host = (self.headers.get("Host") or "").rpartition(":")[0]
        if host not in _NAMES:
            self.send_error(HTTPStatus.FORBIDDEN, "ask this machine by its own name: localhost")
        elif self.path.partition("?")[0] != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            self._answer(self.kept.page())

    def _answer(self, content: bytes) -> None:
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        if self.headers.get("If-None-Match") == tag:
            self.send_response(HTTPStatus.NOT_MODIFIED)
            self.send_header("ETag", tag)
            self.end_headers()
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("ETag", tag)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a page that refreshes would fill the terminal."""


def server_of(kept: Kept, port: int) -> ThreadingHTTPServer:
    """A server that waits to be run; port 0 is any that is free.

    Raises:
        CliError: the port is taken.
    """
    handler = type("Handler", (_Handler,), {"kept": kept})
    try:
        server = ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        raise CliError(
            f"port {port} cannot be had: {error.strerror}: choose another with --port"
        ) from error
    server.daemon_threads = True
    return server
