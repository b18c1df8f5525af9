"""A device's connection at its edge for a round of split training.

The edge's cluster loop says which frame it expects and where its values go; what it is given is a
future, not a coroutine, so that a step of many devices costs no task. Values land in the cluster's
batch: float32 straight from the socket, bfloat16 widened from a buffer that is used again.
`carry` makes a request such a connection; its route has checked the key by then.
Invariants: nothing behind a head is read until the head is the expected one; values that are not
finite, or labels of no class, never reach who waits; a frame that stalls ends the connection.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from lockstep_api.base import problems_of
from lockstep_api.names import SPLIT_PROTOCOL
from lockstep_api.sessions import Refusal
from lockstep_api.wire import UpdateReport
from lockstep_serving import upgrading
from lockstep_workers.errors import Gone, RefusedUpdate
from lockstep_workers.hosting.asgi import Scope, Send
from lockstep_workers.hosting.reading import Receive
from lockstep_workers.split_frames import (
    HEAD_BYTES,
    Flat,
    Head,
    Kind,
    Labels,
    Shape,
    as_bytes,
    narrow,
    read_labels,
    refusal,
    unpacked,
    widen,
)
from lockstep_workers.tensors import check_values

STALL_S = 30.0
"""A frame of which next to nothing comes for so long ends the connection."""
_LEAST_BYTES = 1 << 10
"""Next to nothing."""

_CONTENT = b"application/octet-stream"


@dataclass(frozen=True, slots=True)
class _Expected:
    """A frame that is waited for."""

    kind: Kind
    step: int | None
    scratch_bytes: int
    """Head and body up to here go to the scratch buffer."""
    rest: memoryview
    """The rest goes here."""
    use: Callable[[], None]
    """Looks at what came; raises RefusedUpdate."""
    done: "asyncio.Future[None]"


_NOWHERE = memoryview(b"")


class SplitConnection(upgrading.Upgraded):
    """One device's frames in one round."""

    def __init__(
        self,
        shape: Shape,
        *,
        classes: int,
        refused: Callable[[RefusedUpdate], None],
        stall_s: float = STALL_S,
    ) -> None:
        """`refused` is told why the connection is closed, when that is the device's doing."""
        super().__init__()
        self.shape = shape
        self.closed = asyncio.Event()
        self.received_bytes = self.sent_bytes = 0
        self._classes, self._on_refused, self._stall_s = classes, refused, stall_s
        self._loop = asyncio.get_running_loop()
        most = HEAD_BYTES + shape.label_bytes + (0 if shape.is_wide else shape.cut_bytes)
        self._scratch = memoryview(bytearray(most))
        self._gradient = memoryview(bytearray(0 if shape.is_wide else shape.cut_bytes))
        self._expected: _Expected | None = None
        self._head: Head | None = None
        self._got, self._part, self._size = 0, HEAD_BYTES, HEAD_BYTES
        self._rest = _NOWHERE
        self._timer: asyncio.TimerHandle | None = None
        self._frames, self._seen = 0, (0, 0)
        self._error: Exception | None = None
        self._is_there = False

    # -- what the cluster loop does ------------------------------------------------------------

    def send_front(self, step: int, front: Flat) -> None:
        """The front half for a step; its values must not change until the device's next frame."""
        self._send(self.shape.head(Kind.FRONT, step), as_bytes(front))

    def activations(self, step: int, *, into: Flat, labels: Labels) -> "asyncio.Future[None]":
        """Waits for a step's activations (rows, values) and labels (rows,).

        Who waits no longer refuses the connection, before `into` is used for anything else.

        Raises:
            Gone: the connection has ended.
            RefusedUpdate: it has, for what came.
        """
        shape, flat = self.shape, into.reshape(-1)
        behind = HEAD_BYTES + shape.label_bytes
        told = self._scratch[HEAD_BYTES:behind]

        def use() -> None:
            read_labels(told, labels, classes=self._classes)
            if not shape.is_wide:
                widen(self._scratch[behind : behind + shape.cut_bytes], flat)
            check_values(flat, "activations have values")

        direct = as_bytes(flat) if shape.is_wide else _NOWHERE
        scratch = behind if shape.is_wide else behind + shape.cut_bytes
        return self._expect(Kind.ACTIVATIONS, step, scratch=scratch, rest=direct, use=use)

    def send_gradient(self, step: int, gradient: Flat) -> None:
        """Of the loss by a step's activations; as `send_front`."""
        flat = gradient.reshape(-1)
        if self.shape.is_wide:
            body = as_bytes(flat)
        else:
            narrow(flat, self._gradient)
            body = self._gradient
        self._send(self.shape.head(Kind.GRADIENT, step), body)

    def front_gradient(self, step: int, *, into: Flat) -> "asyncio.Future[None]":
        """Waits for the gradient by the front half's values; as `activations`."""

        def use() -> None:
            check_values(into, "the front's gradient has values")

        kind = Kind.FRONT_GRADIENT
        return self._expect(kind, step, scratch=HEAD_BYTES, rest=as_bytes(into), use=use)

    def send_done(self, step: int) -> None:
        """There is no step after this one."""
        self._send(self.shape.head(Kind.DONE, step))

    async def end(self, *, client: str, front: Flat | None = None) -> UpdateReport:
        """Waits for the device's report, and its own front where it has one; as `activations`."""
        kept: list[UpdateReport] = []

        def use() -> None:
            start = self.shape.end_front_bytes
            if front is not None and self.shape.keeps_front:
                front[:] = np.frombuffer(self._rest[:start], np.float32)
                check_values(front, "the front has values")
            kept.append(_report(self._rest[start:], client=client, number=self.shape.round))

        await self._expect(Kind.END, None, scratch=HEAD_BYTES, rest=_NOWHERE, use=use)
        return kept[0]

    def take_end(self) -> None:
        """The report is known: the connection may end."""
        self.sent_bytes += HEAD_BYTES
        self.finish(self.shape.head(Kind.TAKEN, 0).packed())

    def refuse(self, error: RefusedUpdate) -> None:
        """Ends the connection and says why; it is told to `refused` too."""
        if self.ending or self.closed.is_set():
            return
        self._fail(error)
        self._on_refused(error)
        if self._is_there:
            self.finish(refusal(self.shape, error))

    # -- frames --------------------------------------------------------------------------------

    def _send(self, head: Head, body: memoryview = _NOWHERE) -> None:
        if self.ending or self.closed.is_set():
            return
        self.sent_bytes += HEAD_BYTES + len(body)
        self.wire.write(head.packed())
        if body:
            self.wire.write(body)

    def _expect(
        self,
        kind: Kind,
        step: int | None,
        *,
        scratch: int,
        rest: memoryview,
        use: Callable[[], None],
    ) -> "asyncio.Future[None]":
        done: asyncio.Future[None] = self._loop.create_future()
        if self._error is not None:
            done.set_exception(self._error)
            return done
        assert self._expected is None, "one frame at a time"
        self._expected = _Expected(kind, step, scratch, rest, use, done)
        if self._head is not None:
            self._stop_watching()
            self._watch()
            self._guarded(self._begin)
        elif self._got == 0:
            self._part = scratch
        if self._is_there:
            self.resume()
        return done

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: the head at first, then where its values belong."""
        if self._got < self._part:
            return self._scratch[self._got : self._part]
        return self._rest[self._got - self._part :]

    def buffer_updated(self, nbytes: int) -> None:
        """So many have come."""
        self._got += nbytes
        self.received_bytes += nbytes
        if self._timer is None:
            self._watch()
        if self._head is not None:
            if self._got == self._size:
                self._guarded(self._complete)
        elif self._got >= HEAD_BYTES:
            self._guarded(self._read_head)

    def _guarded(self, do: Callable[[], None]) -> None:
        try:
            do()
        except RefusedUpdate as error:
            self.refuse(error)

    def _read_head(self) -> None:
        self._head = unpacked(self._scratch)
        if self._expected is None:
            self.pause()
        else:
            self._begin()

    def _begin(self) -> None:
        """A head is there, and who waits for it."""
        assert self._head is not None
        assert self._expected is not None
        head, expected = self._head, self._expected
        self.shape.check(head, expected.kind, step=expected.step)
        self._part, self._rest = expected.scratch_bytes, expected.rest
        self._size = HEAD_BYTES + self.shape.body_bytes(head)
        if head.kind is Kind.END:
            self._rest = memoryview(bytearray(self._size - HEAD_BYTES))
        if self._got == self._size:
            self._complete()

    def _complete(self) -> None:
        assert self._expected is not None
        expected = self._expected
        expected.use()
        self._frames += 1
        self._expected = self._head = None
        self._got, self._part, self._rest = 0, HEAD_BYTES, _NOWHERE
        if not expected.done.done():
            expected.done.set_result(None)

    # -- its life ------------------------------------------------------------------------------

    def begun(
        self,
        wire: upgrading.Wire,
        *,
        behind: upgrading.Bytes = b"",
        http: upgrading.Http | None = None,
    ) -> None:
        """The device is there."""
        super().begun(wire, behind=behind, http=http)
        self._is_there = True
        if isinstance(self._error, RefusedUpdate):
            self.finish(refusal(self.shape, self._error))
        else:
            self.resume()

    def finish(self, last: upgrading.Bytes = b"") -> None:
        """Sends `last`; nothing comes or goes after it."""
        self._fail(Gone())
        self._stop_watching()
        super().finish(last)

    def lost(self) -> None:
        """The device is gone."""
        self._stop_watching()
        self._fail(Gone())
        self.closed.set()

    def pause_writing(self) -> None:
        """The device is slow to read: a frame at most waits for it, since it answers each."""

    def resume_writing(self) -> None:
        """It has read."""

    def _fail(self, error: Exception) -> None:
        """Who waits, and who will, is told."""
        self._error = self._error or error
        if self._expected is not None and not self._expected.done.done():
            self._expected.done.set_exception(self._error)
        self._expected = None

    def _watch(self) -> None:
        self._seen = (self._frames, self.received_bytes)
        self._timer = self._loop.call_later(self._stall_s, self._look)

    def _look(self) -> None:
        """Whether a frame has stalled since the last look."""
        self._timer = None
        frame, before = self._seen
        waits = self._got > 0 and self._expected is not None and frame == self._frames
        if waits and self.received_bytes - before < _LEAST_BYTES:
            what = f"of a frame less than {_LEAST_BYTES} bytes came in {self._stall_s:g} s"
            self.refuse(RefusedUpdate(Refusal.TOO_SLOW, what))
        elif self._got:
            self._watch()

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _report(text: memoryview, *, client: str, number: int) -> UpdateReport:
    try:
        report = UpdateReport.model_validate_json(bytes(text))
    except ValidationError as error:
        raise RefusedUpdate(Refusal.BAD_REPORT, problems_of(error)) from error
    if (report.client, report.round) != (client, number):
        raise RefusedUpdate(Refusal.BAD_REPORT, "the report is of another client or round")
    return report


def can_carry(scope: Scope) -> bool:
    """Whether a request may become a split connection."""
    return upgrading.EXTENSION in scope["extensions"] or scope["method"] == "POST"


async def upgrade_required(send: Send) -> None:
    """Answers a request that may not: a proxy has let no upgrade through."""
    text = f"ask for an upgrade to {SPLIT_PROTOCOL}, or POST the frames".encode()
    headers = [
        (b"content-type", b"text/plain"),
        (b"content-length", str(len(text)).encode()),
        (b"upgrade", SPLIT_PROTOCOL.encode()),
    ]
    await send({"type": "http.response.start", "status": 426, "headers": headers})
    await send({"type": "http.response.body", "body": text})


async def carry(scope: Scope, receive: Receive, send: Send, *, connection: SplitConnection) -> None:
    """Makes a request a split connection, and returns when that has ended.

    Raises:
        ConnectionResetError: the device has gone before it began.
    """
    offer: upgrading.Offer | None = scope["extensions"].get(upgrading.EXTENSION)
    if offer is None:
        await upgrading.stream(receive, send, protocol=connection, content_type=_CONTENT)
    else:
        offer.take(connection)
        await connection.closed.wait()
