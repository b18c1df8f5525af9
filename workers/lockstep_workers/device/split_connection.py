"""A device's connection to its edge for a round of split training: blocking, one frame at a time.

`open_split` asks for an upgrade, and where a proxy lets none through sends the same frames as the
chunked body of a request while it reads those of the answer. The emulated links pace every frame.
Invariant: buffers are made once a connection; values that were received are valid until the next.
"""

import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from lockstep_api import names
from lockstep_api.wire import Moved, UpdateReport
from lockstep_workers.device.connection import connect
from lockstep_workers.device.link import Links
from lockstep_workers.errors import NoSession, RefusedUpdate
from lockstep_workers.split_frames import (
    HEAD_BYTES,
    Flat,
    Head,
    Kind,
    Labels,
    Shape,
    as_bytes,
    narrow,
    refused,
    unpacked,
    widen,
    write_labels,
)
from lockstep_workers.trust import NOBODY, Trust

_NOT_UPGRADED = (200, 400, 426, 501)
"""What an edge, or a proxy on the way, answers when it could not be asked for an upgrade."""
HANDSHAKE_S = 60.0
"""Until the edge answers: it may have to hear of the round first."""
UNPACED = Links()


@dataclass(frozen=True, slots=True)
class _Wire:
    """How bytes travel."""

    send: Callable[[memoryview], None]
    read_into: Callable[[memoryview], int]
    """Returns 0 when the edge is gone."""
    close: Callable[[], None]


@dataclass(slots=True)
class _Account:
    """What has travelled."""

    up_bytes: int = 0
    down_bytes: int = 0
    up_s: float = 0.0
    down_s: float = 0.0
    wait_s: float = 0.0


def open_split(
    edge_url: str,
    client: str,
    *,
    key: str,
    shape: Shape,
    links: Links = UNPACED,
    trust: Trust = NOBODY,
) -> "SplitConnection":
    """A connection for a round, for whoever shows the key of the client's session.

    Raises:
        NoSession: the edge knows no such session.
        http.client.HTTPException: not now; says why.
        OSError: the edge cannot be reached.
    """
    path = names.SPLIT_ROUTE.format(client=client, round=shape.round)
    wire = _upgraded(connect(edge_url, trust), path, key=key) or _streamed(
        connect(edge_url, trust), path, key=key
    )
    return SplitConnection(wire, shape, links=links)


class SplitConnection:
    """The frames of one round; every method raises `connection.LOST` when the edge is gone, and
    `RefusedUpdate` when it refuses."""

    def __init__(self, wire: _Wire, shape: Shape, *, links: Links) -> None:
        """As `open_split` makes it."""
        self.shape = shape
        self._wire, self._up, self._down = wire, links.up, links.down
        self._account = _Account()
        self._out = memoryview(bytearray(HEAD_BYTES + shape.label_bytes + shape.cut_bytes))
        self._head = memoryview(bytearray(HEAD_BYTES))
        self._cut = memoryview(bytearray(shape.cut_bytes))
        self._front = np.zeros(shape.front_values, np.float32)
        self._gradient = np.zeros(shape.rows * shape.values, np.float32)

    def receive_front(self) -> tuple[int, Flat] | None:
        """The next step and the front half for it; None: there is none any more."""
        head = self._receive(Kind.FRONT, as_bytes(self._front))
        return None if head.kind is Kind.DONE else (head.step, self._front)

    def send_activations(self, step: int, activations: Flat, *, labels: Labels) -> None:
        """Of a step's examples: (rows, values) and (rows,)."""
        behind = HEAD_BYTES + self.shape.label_bytes
        write_labels(labels, self._out[HEAD_BYTES:behind])
        values = self._out[behind:]
        if self.shape.is_wide:
            np.frombuffer(values, np.float32)[:] = activations.reshape(-1)
        else:
            narrow(activations.reshape(-1), values)
        self._send(self.shape.head(Kind.ACTIVATIONS, step), self._out)

    def receive_gradient(self, step: int) -> Flat | None:
        """By a step's activations, (rows, values); None: the edge goes on without this step, and
        there is none any more."""
        wide = self.shape.is_wide
        into = as_bytes(self._gradient) if wide else self._cut
        head = self._receive(Kind.GRADIENT, into, step=step)
        if head.kind is Kind.DONE:
            return None
        if not wide:
            widen(self._cut, self._gradient)
        return self._gradient.reshape(self.shape.rows, self.shape.values)

    def send_front_gradient(self, step: int, gradient: Flat) -> None:
        """By the front half's values."""
        self._send_with(self.shape.head(Kind.FRONT_GRADIENT, step), as_bytes(gradient))

    def end(self, report: UpdateReport, front: Flat | None = None) -> None:
        """Tells the report, and the device's own front where it has one; waits until it is known.

        The edge has said that there is no further step.
        """
        text = report.to_json().encode()
        head = self.shape.head(Kind.END, 0, text_bytes=len(text))
        own = bytes(as_bytes(front)) if front is not None and self.shape.keeps_front else b""
        self._send_with(head, memoryview(own + text))
        self._receive(Kind.TAKEN, memoryview(b""))

    def moved(self) -> Moved:
        """What has travelled so far, but for an END."""
        account = self._account
        return Moved(
            up_bytes=account.up_bytes,
            down_bytes=account.down_bytes,
            up_seconds=account.up_s,
            down_seconds=account.down_s,
            wait_seconds=account.wait_s,
        )

    def close(self) -> None:
        """Lets go of the connection."""
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # -- frames --------------------------------------------------------------------------------

    def _send_with(self, head: bytes, body: memoryview) -> None:
        frame = memoryview(bytearray(HEAD_BYTES + len(body)))
        frame[HEAD_BYTES:] = body
        self._send(head, frame)

    def _send(self, head: bytes, frame: memoryview) -> None:
        """Sends a frame whose first bytes become the head."""
        frame[:HEAD_BYTES] = head
        began = time.monotonic()
        try:
            self._up.carry(len(frame), self._piece_of(frame))
        except OSError:  # the edge has refused it in the middle, and said why
            self._last_words()
            raise
        self._account.up_s += time.monotonic() - began
        self._account.up_bytes += len(frame)

    def _piece_of(self, frame: memoryview) -> Callable[[int, int], int]:
        def move(start: int, count: int) -> int:
            self._wire.send(frame[start : start + count])
            return count

        return move

    def _receive(self, kind: Kind, into: memoryview, *, step: int | None = None) -> Head:
        """The next frame: of this kind, or DONE."""
        began = time.monotonic()
        self._fill(self._head)
        arrived = time.monotonic()
        head = _known(self._head)
        if head.kind is Kind.REFUSED:
            raise self._refused(head)
        done = head.kind is Kind.DONE
        self._agree(head, Kind.DONE if done else kind, step=None if done else step)
        size = self.shape.body_bytes(head)
        self._down.carry(HEAD_BYTES + size, self._rest_into(into[:size]))
        self._account.wait_s += arrived - began
        self._account.down_s += time.monotonic() - arrived
        self._account.down_bytes += HEAD_BYTES + size
        return head

    def _rest_into(self, body: memoryview) -> Callable[[int, int], int]:
        """Moves what follows a head that is there already."""

        def move(start: int, count: int) -> int:
            end = start + count - HEAD_BYTES
            if end > 0:
                self._fill(body[max(0, start - HEAD_BYTES) : end])
            return count

        return move

    def _fill(self, view: memoryview) -> None:
        while view:
            count = self._wire.read_into(view)
            if not count:
                raise http.client.IncompleteRead(b"", len(view))
            view = view[count:]

    def _agree(self, head: Head, kind: Kind, *, step: int | None = None) -> None:
        try:
            self.shape.check(head, kind, step=step)
        except RefusedUpdate as error:
            raise http.client.HTTPException(f"the edge: {error}") from None

    def _refused(self, head: Head) -> RefusedUpdate:
        self._agree(head, Kind.REFUSED)
        text = bytearray(head.count)
        self._fill(memoryview(text))
        return refused(bytes(text))

    def _last_words(self) -> None:
        """Raises what the edge has said before it closed, if it has."""
        try:
            self._fill(self._head)
            head = _known(self._head)
        except (OSError, http.client.HTTPException):
            return
        if head.kind is Kind.REFUSED:
            raise self._refused(head)


def _known(data: memoryview) -> Head:
    try:
        return unpacked(data)
    except RefusedUpdate as error:
        raise http.client.HTTPException(f"the edge: {error}") from None


def _upgraded(connection: http.client.HTTPConnection, path: str, *, key: str) -> _Wire | None:
    """The connection out of HTTP; None: something on the way lets that not through."""
    headers = {"connection": "upgrade", "upgrade": names.SPLIT_PROTOCOL, names.SESSION_HEADER: key}
    connection.sock.settimeout(HANDSHAKE_S)
    try:
        connection.request("GET", path, headers=headers)
        response = http.client.HTTPResponse(connection.sock, method="GET")
        response.begin()
        if response.status in _NOT_UPGRADED:
            connection.close()
            response.close()
            return None
        _check(response, expected=101)
    except BaseException:
        connection.close()
        raise
    sock = connection.sock
    sock.settimeout(None)

    def read_into(view: memoryview) -> int:
        return response.fp.readinto(view)  # has what came with the head; the response keeps it open

    def close() -> None:
        response.close()
        connection.close()

    return _Wire(sock.sendall, read_into, close)


def _streamed(connection: http.client.HTTPConnection, path: str, *, key: str) -> _Wire:
    """A request whose body goes on while its answer is read."""
    connection.sock.settimeout(HANDSHAKE_S)
    try:
        connection.putrequest("POST", path, skip_accept_encoding=True)
        connection.putheader("transfer-encoding", "chunked")
        connection.putheader("content-type", "application/octet-stream")
        connection.putheader(names.SESSION_HEADER, key)
        connection.endheaders()
        response = http.client.HTTPResponse(connection.sock, method="POST")
        response.begin()
        _check(response, expected=200)
    except BaseException:
        connection.close()
        raise
    sock = connection.sock
    sock.settimeout(None)

    def send(piece: memoryview) -> None:
        sock.sendall(b"%x\r\n%b\r\n" % (len(piece), bytes(piece)))

    def close() -> None:
        response.close()
        connection.close()

    return _Wire(send, response.readinto, close)


def _check(response: http.client.HTTPResponse, *, expected: int) -> None:
    if response.status == expected:
        return
    text = response.read(1000).decode(errors="replace")
    response.close()
    if response.status == 409:
        raise NoSession(text)
    raise http.client.HTTPException(f"{response.status}: {text}")
