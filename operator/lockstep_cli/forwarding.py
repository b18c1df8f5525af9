"""A port-forward for one question: HTTP to a port of a pod, as `kubectl port-forward` brings it.

`prometheus` asks. The kubelet hands it to the pod's own loopback, where no NetworkPolicy stands in
the way. Invariant: on nothing is waited for longer than was said; an answer that broke off is never
taken for a whole one.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any

from lockstep_cli.channels import Entrance, opened
from lockstep_cli.cluster import Cluster
from lockstep_cli.errors import CliError, Denied, Unreachable

_PROTOCOL = "v4.channel.k8s.io"
_DATA, _ERROR = 0, 1
_MOST_SAID = 300
"""Of a refusal, in characters."""


class NotOpened(Unreachable):
    """There is no port-forward: nothing was asked."""


@dataclass(frozen=True, slots=True)
class Port:
    """A TCP port of a pod."""

    namespace: str
    pod: str
    number: int

    def __str__(self) -> str:
        """As messages have it."""
        return f"port {self.number} of pod {self.namespace}/{self.pod}"


def answer_of(cluster: Cluster, port: Port, *, target: str, patience_s: float) -> str:
    """What a GET of `target` (path and query) is answered.

    Raises:
        Denied: the port-forward is not allowed.
        NotOpened: it fails for another reason.
        CliError: nothing, or a refusal, is answered.
    """
    from websocket import WebSocketException  # noqa: PLC0415 - comes with the kubernetes package

    with _forward(cluster, port, patience_s=patience_s) as socket:
        try:
            status, body = _asked(socket, port, target=target)
        except (WebSocketException, HTTPException, OSError) as error:
            raise Unreachable(f"no answer from {port}: {_words(error)}: try again") from error
    text = body.decode(errors="replace")
    if status >= 400:
        raise CliError(f"{port} answers HTTP {status}: {text[:_MOST_SAID]}")
    return text


@contextmanager
def _forward(cluster: Cluster, port: Port, *, patience_s: float) -> Iterator[Any]:
    """The websocket of a port-forward; it ends with the program, too."""
    from websocket import WebSocketException  # noqa: PLC0415 - comes with the kubernetes package

    query = (("ports", str(port.number)),)
    entrance = Entrance(port.namespace, port.pod, "portforward", query, _PROTOCOL)
    try:
        socket = opened(cluster, entrance, timeout_s=patience_s)
    except Denied:
        raise
    except (CliError, WebSocketException, OSError) as error:
        raise NotOpened(f"no port-forward to {port}: {_words(error)}") from error
    reading = _Reading(socket)
    cluster.reading.add(reading)
    try:
        yield socket
    finally:
        cluster.reading.discard(reading)
        socket.shutdown()


def _asked(socket: Any, port: Port, *, target: str) -> tuple[int, bytes]:
    """Status and body."""
    connection = HTTPConnection("localhost", port.number)
    connection.sock = _Pipe(socket, port)  # of a socket it uses no more
    headers = {"Accept": "application/json", "Connection": "close"}
    connection.request("GET", target, headers=headers)
    response = connection.getresponse()
    return response.status, response.read()


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """A websocket as `Cluster.reading` has it."""

    socket: Any

    def shutdown(self) -> None:
        """Whoever reads from it sees its end."""
        self.socket.abort()


@dataclass(frozen=True, slots=True)
class _Pipe:
    """The forward as `http.client` takes it: a socket of a single use."""

    socket: Any
    port: Port

    def sendall(self, content: bytes) -> None:
        """To the pod."""
        self.socket.send_binary(bytes([_DATA]) + content)

    def makefile(self, mode: str) -> io.BufferedReader:
        """From the pod."""
        return io.BufferedReader(_Pieces(self.socket, self.port))

    def close(self) -> None:
        """Whoever opened the websocket closes it."""


@dataclass(slots=True)
class _Pieces(io.RawIOBase):
    """What a pod sends, to be read until it ends."""

    socket: Any
    port: Port
    begun: set[int] = field(default_factory=set)
    """Channels that have said of which port they are: their first frame does."""
    rest: bytes = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills in what has come; 0 at the end."""
        while not self.rest:
            piece = self._next()
            if piece is None:
                return 0
            self.rest = piece
        size = min(len(buffer), len(self.rest))
        buffer[:size], self.rest = self.rest[:size], self.rest[size:]
        return size

    def _next(self) -> bytes | None:
        """The next piece, which may be empty; None: there is no more.

        Raises:
            Unreachable: the pod could not be reached.
        """
        opcode, frame = self.socket.recv_data_frame(control_frame=True)
        if opcode == frame.OPCODE_CLOSE:
            return None
        if opcode != frame.OPCODE_BINARY or not frame.data:
            return b""
        channel, piece = frame.data[0], bytes(frame.data[1:])
        if channel not in self.begun:
            self.begun.add(channel)
            return b""
        if channel == _ERROR:
            raise Unreachable(f"no answer from {self.port}: {piece.decode(errors='replace')}")
        return piece


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
