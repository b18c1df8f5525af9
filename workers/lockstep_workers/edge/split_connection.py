"""A device's connection at its edge for a round of split training.

The edge's cluster loop says which frame it expects and where its values go; what it is given is a
future, not a coroutine, so that a step of many devices costs no task. Values land in the cluster's
batch: float32 straight from the socket, bfloat16 widened from a buffer that is used again.
`carry` makes a request such a connection; its route has checked the key by then.
Invariants: nothing behind a head reaches the batch unless the head is the expected one; values that
are not finite, or labels of no class, never reach who waits; a frame that stalls ends the
connection.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

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


_NOWHERE = memoryview(bytearray())


class _Awaited(NamedTuple):
    """A frame that is waited for; a tuple, since one is made for each."""

    kind: Kind
    step: int
    head: bytes
    part: int
    rest: memoryview
    use: Callable[[], None]
    """Looks at what came; raises RefusedUpdate."""
    done: "asyncio.Future[None]"


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
        self._is_wide, narrow_bytes = shape.is_wide, 0 if shape.is_wide else shape.cut_bytes
        self._behind_labels = HEAD_BYTES + shape.label_bytes
        self._scratch = memoryview(bytearray(self._behind_labels + narrow_bytes))
        self._gradient = memoryview(bytearray(narrow_bytes))
        self._awaited: _Awaited | None = None
        self._got, self._has_head = 0, False
        self._part, self._rest, self._size = HEAD_BYTES, _NOWHERE, HEAD_BYTES
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
        straight = as_bytes(into)
        rest = straight if self._is_wide else _NOWHERE
        use = partial(self._use_activations, into, labels)
        return self._wait(Kind.ACTIVATIONS, step, part=len(self._scratch), rest=rest, use=use)

    def send_gradient(self, step: int, gradient: Flat) -> None:
        """Of the loss by a step's activations; as `send_front`."""
        body = self._gradient
        if self._is_wide:
            body = as_bytes(gradient)
        else:
            narrow(gradient, body)
        self._send(self.shape.head(Kind.GRADIENT, step), body)

    def front_gradient(self, step: int, *, into: Flat) -> "asyncio.Future[None]":
        """Waits for the gradient by the front half's values; as `activations`."""
        use = partial(check_values, into, "the front's gradient has values")
        kind, rest = Kind.FRONT_GRADIENT, as_bytes(into)
        return self._wait(kind, step, part=HEAD_BYTES, rest=rest, use=use)

    def send_done(self, step: int) -> None:
        """There is no step after this one."""
        self._send(self.shape.head(Kind.DONE, step))

    async def end(self, *, client: str, front: Flat | None = None) -> UpdateReport:
        """Waits for the device's report, and its own front where it has one; as `activations`."""
        told: list[UpdateReport] = []

        def use() -> None:
            start = self.shape.end_front_bytes
            if front is not None:
                front[:] = np.frombuffer(self._rest[:start], np.float32)
                check_values(front, "the front has values")
            told.append(_report(self._rest[start:], client=client, number=self.shape.round))

        await self._wait(Kind.END, 0, part=HEAD_BYTES, rest=_NOWHERE, use=use)
        return told[0]

    def take_end(self) -> None:
        """The report is known: the connection may end."""
        self.sent_bytes += HEAD_BYTES
        self.finish(self.shape.head(Kind.TAKEN, 0))

    def refuse(self, error: RefusedUpdate) -> None:
        """Ends the connection and says why; it is told to `refused` too."""
        if self.ending or self.closed.is_set():
            return
        self._fail(error)
        self._on_refused(error)
        if self._is_there:
            self.finish(refusal(self.shape, error))

    # -- frames --------------------------------------------------------------------------------

    def _send(self, head: bytes, body: memoryview = _NOWHERE) -> None:
        if self.ending or self.closed.is_set():
            return
        self.sent_bytes += HEAD_BYTES + len(body)
        self.wire.writelines((head, body) if body else (head,))

    def _wait(
        self, kind: Kind, step: int, *, part: int, rest: memoryview, use: Callable[[], None]
    ) -> "asyncio.Future[None]":
        """Of a frame `part` bytes go to the scratch buffer, the others to `rest`."""
        done: asyncio.Future[None] = self._loop.create_future()
        if self._error is not None:
            done.set_exception(self._error)
            return done
        assert self._awaited is None, "one frame at a time"
        self._awaited = _Awaited(kind, step, self.shape.head(kind, step), part, rest, use, done)
        if self._has_head:
            self._stop_watching()
            self._watch()
            self._guarded(self._begin)
        elif self._got == 0:
            self._part = part
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
        if self._has_head:
            if self._got == self._size:
                self._guarded(self._complete)
        elif self._got >= HEAD_BYTES:
            self._has_head = True
            if self._awaited is None:
                self.pause()
            else:
                self._guarded(self._begin)

    def _guarded(self, do: Callable[[], None]) -> None:
        try:
            do()
        except RefusedUpdate as error:
            self.refuse(error)

    def _begin(self) -> None:
        """A head is there, and who waits for it."""
        awaited = self._awaited
        assert awaited is not None
        self._part, self._rest = awaited.part, awaited.rest
        if self._scratch[:HEAD_BYTES] == awaited.head:
            self._size = awaited.part + len(awaited.rest)
        else:
            self._look_closer(awaited)
        if self._got == self._size:
            self._complete()

    def _look_closer(self, awaited: "_Awaited") -> None:
        """What is wrong with a head that is not as expected, if it is not an END."""
        head = unpacked(self._scratch)
        self.shape.check(head, awaited.kind, step=awaited.step)
        self._rest = memoryview(bytearray(self.shape.body_bytes(head)))
        self._size = HEAD_BYTES + len(self._rest)

    def _complete(self) -> None:
        awaited = self._awaited
        assert awaited is not None
        awaited.use()
        self._frames += 1
        self._awaited, self._has_head = None, False
        self._got, self._part, self._rest = 0, HEAD_BYTES, _NOWHERE
        if not awaited.done.done():
            awaited.done.set_result(None)

    def _use_activations(self, into: Flat, labels: Labels) -> None:
        behind = self._behind_labels
        read_labels(self._scratch[HEAD_BYTES:behind], labels, classes=self._classes)
        flat = into.reshape(-1)
        if not self._is_wide:
            widen(self._scratch[behind:], flat)
        check_values(flat, "activations have values")

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
        if self._awaited is not None and not self._awaited.done.done():
            self._awaited.done.set_exception(self._error)
        self._awaited = None

    def _watch(self) -> None:
        self._seen = (self._frames, self.received_bytes)
        self._timer = self._loop.call_later(self._stall_s, self._look)

    def _look(self) -> None:
        """Whether a frame has stalled since the last look."""
        self._timer = None
        frame, before = self._seen
        waits = self._got > 0 and self._awaited is not None and frame == self._frames
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
