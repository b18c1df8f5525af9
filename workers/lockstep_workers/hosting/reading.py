"""Reads the bodies of updates: one at a time among those whose data is there.

Called by `hosting.bulk`. One at a time, so that a body stays in the cache; but a reader that waits
for its sender gives its turn away. One body, or a few small ones, are in memory, in buffers that
are used again; those that begin while these are taken go to temporary files, so memory does not
grow with the number of slow senders.
"""

import asyncio
import mmap
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

from lockstep_api.sessions import Refusal
from lockstep_workers.errors import Gone, RefusedUpdate

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

_PATIENCE_S = 0.005
_SILENCE_S = 120.0
_LEAST_BYTES_S = 64
"""Bytes a second of a body, on the whole: a slower sender is refused, however often it sends."""
_IN_MEMORY_BYTES = 8 << 20  # for all bodies together, or one body if that is more
_PIECE = 1 << 16


class Source(Protocol):
    """Where a body comes from (`lockstep_serving.receiving`)."""

    async def fill(self, view: memoryview, *, enough: int, patience_s: float) -> int:
        """Fills a view with what comes next, until next to nothing comes for `patience_s`."""


class Messages:
    """A body as any ASGI server hands it out, in messages."""

    def __init__(self, receive: Receive, size: int) -> None:
        """Of `size` bytes."""
        self._receive, self._left = receive, size
        self._piece, self._more = memoryview(b""), True
        self._next: asyncio.Future[Message] | None = None

    async def fill(self, view: memoryview, *, enough: int, patience_s: float) -> int:
        """As `Source`.

        Raises:
            ConnectionResetError: the sender has gone.
            RefusedUpdate: the body has another size.
        """
        got = 0
        while True:
            count = min(len(self._piece), len(view) - got)
            view[got : got + count] = self._piece[:count]
            self._piece, got = self._piece[count:], got + count
            if got >= min(enough, len(view)) or not await self._hear(patience_s):
                return got

    async def _hear(self, patience_s: float) -> bool:
        """The next message; False when none comes."""
        if not self._more:
            why = f"the body has {self._left} bytes less than announced"
            raise RefusedUpdate(Refusal.MALFORMED, why)
        self._next = self._next or asyncio.ensure_future(self._receive())
        await asyncio.wait({self._next}, timeout=patience_s)
        if not self._next.done():
            return False
        message, self._next = self._next.result(), None
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        self._piece = memoryview(message.get("body", b""))
        self._more = message.get("more_body", False)
        self._left -= len(self._piece)
        if self._left < 0:
            raise RefusedUpdate(Refusal.MALFORMED, "the body is longer than announced")
        return True


class _Memory:
    """A body in memory."""

    def __init__(self, size: int) -> None:
        self.buffer = bytearray(size)

    def room(self, start: int, most: int) -> memoryview:
        """Where the bytes from `start` on go."""
        return memoryview(self.buffer)[start : start + most]

    def keep(self, start: int, count: int) -> None:
        """They lie where they belong."""

    def whole(self) -> memoryview:
        return memoryview(self.buffer)

    def close(self) -> None:
        """The buffer is kept."""


class _Spool:
    """A body in a nameless temporary file, which becomes memory only when it is complete."""

    def __init__(self, size: int) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by `close`
        self._piece = memoryview(bytearray(min(size, _PIECE)))

    def room(self, _start: int, most: int) -> memoryview:
        """Where the bytes from `start` on go."""
        return self._piece[:most]

    def keep(self, start: int, count: int) -> None:
        """Writes the bytes from `start` on to the file."""
        rest = self._piece[:count]
        while rest:
            written = os.pwrite(self._file.fileno(), rest, start)
            rest, start = rest[written:], start + written

    def whole(self) -> memoryview:
        """The bytes; what is changed of them becomes memory, and is forgotten with it."""
        return memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY))

    def close(self) -> None:
        self._file.close()


class Reader:
    """Reads bodies; what it yields is valid inside the context only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """One turn, no buffer yet."""
        self._clock = clock
        self._turn = asyncio.Semaphore(1)
        self._spare: list[_Memory] = []
        self._in_use_bytes = 0

    @asynccontextmanager
    async def body(self, source: Source, size: int) -> AsyncIterator[memoryview]:
        """A body of `size` bytes, at least 1.

        Raises:
            Gone: the connection was closed.
            RefusedUpdate: the body has another size, or its sender is silent or too slow.
        """
        try:
            place = await self._read(source, size)
        except ConnectionResetError as error:
            raise Gone from error
        try:
            yield place.whole()
        finally:
            self._free(place)

    async def _read(self, source: Source, size: int) -> _Memory | _Spool:
        """A whole body in its place; whatever goes wrong, turn and place are given back."""
        async with self._turn:
            place = self._place(size)
            try:
                await self._fill(place, source, size=size)
            except BaseException:
                self._free(place)
                raise
        return place

    def _place(self, size: int) -> _Memory | _Spool:
        if self._in_use_bytes and self._in_use_bytes + size > _IN_MEMORY_BYTES:
            return _Spool(size)
        self._spare = [spare for spare in self._spare if len(spare.buffer) == size]
        place = self._spare.pop() if self._spare else _Memory(size)
        self._in_use_bytes += size
        return place

    def _free(self, place: _Memory | _Spool) -> None:
        place.close()
        if isinstance(place, _Memory):
            self._in_use_bytes -= len(place.buffer)
            self._spare.append(place)

    async def _fill(self, place: _Memory | _Spool, source: Source, *, size: int) -> None:
        filled, began = 0, self._clock()
        while filled < size:
            room = place.room(filled, size - filled)
            got = await source.fill(room, enough=len(room), patience_s=_PATIENCE_S)
            place.keep(filled, got)
            filled += got
            if got < len(room):
                left_s = began + _SILENCE_S + filled / _LEAST_BYTES_S - self._clock()
                filled += await self._wait(place, source, filled=filled, left_s=left_s)

    async def _wait(
        self, place: _Memory | _Spool, source: Source, *, filled: int, left_s: float
    ) -> int:
        """A sender that lets its body wait loses the turn until its data is there."""
        if left_s <= 0:
            message = f"the body came at less than {_LEAST_BYTES_S} bytes a second"
            raise RefusedUpdate(Refusal.TOO_SLOW, message)
        self._turn.release()
        try:
            room = place.room(filled, _PIECE)
            got = await source.fill(room, enough=1, patience_s=_SILENCE_S)
        finally:
            await self._turn.acquire()
        if not got:
            message = f"no byte of the body came for {_SILENCE_S:g} s"
            raise RefusedUpdate(Refusal.TOO_SLOW, message)
        place.keep(filled, got)
        return got
