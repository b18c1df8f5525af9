"""Reads the bodies of updates: one at a time among those whose data is there.

Called by `cloud.bulk`. One at a time, so that a body stays in the cache; but a reader that waits
for its sender gives its turn away. One body, or a few small ones, are in memory, in buffers that
are used again; those that begin while these are taken go to temporary files, so memory does not
grow with the number of slow senders.
"""

import asyncio
import mmap
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from lockstep_api.wire import Refusal
from lockstep_workers.errors import Gone, RefusedUpdate

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

_PATIENCE_S = 0.005
_SILENCE_S = 120.0
_IN_MEMORY_BYTES = 16 << 20  # for all bodies together, or one body if that is more


class _Memory:
    """A body in memory."""

    def __init__(self, size: int) -> None:
        self.buffer = bytearray(size)

    def write(self, start: int, piece: bytes) -> None:
        self.buffer[start : start + len(piece)] = piece

    def whole(self) -> memoryview:
        return memoryview(self.buffer)

    def close(self) -> None:
        """The buffer is kept."""


class _Spool:
    """A body in a nameless temporary file, which becomes memory only when it is complete."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by `close`

    def write(self, start: int, piece: bytes) -> None:
        os.pwrite(self._file.fileno(), piece, start)

    def whole(self) -> memoryview:
        return memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))

    def close(self) -> None:
        self._file.close()


class Reader:
    """Reads bodies; what it yields is valid inside the context only."""

    def __init__(self) -> None:
        """One turn, no buffer yet."""
        self._turn = asyncio.Semaphore(1)
        self._spare: list[_Memory] = []
        self._in_use_bytes = 0

    @asynccontextmanager
    async def body(self, receive: Receive, size: int) -> AsyncIterator[memoryview]:
        """A body of `size` bytes, at least 1.

        Raises:
            Gone: the connection was closed.
            RefusedUpdate: the body has another size.
        """
        place = await self._read(receive, size)
        try:
            yield place.whole()
        finally:
            self._free(place)

    async def _read(self, receive: Receive, size: int) -> _Memory | _Spool:
        """A whole body in its place; whatever goes wrong, turn and place are given back."""
        async with self._turn:
            place = self._place(size)
            try:
                await self._fill(place, receive, size)
            except BaseException:
                self._free(place)
                raise
        return place

    def _place(self, size: int) -> _Memory | _Spool:
        if self._in_use_bytes and self._in_use_bytes + size > _IN_MEMORY_BYTES:
            return _Spool()
        self._spare = [spare for spare in self._spare if len(spare.buffer) == size]
        place = self._spare.pop() if self._spare else _Memory(size)
        self._in_use_bytes += size
        return place

    def _free(self, place: _Memory | _Spool) -> None:
        place.close()
        if isinstance(place, _Memory):
            self._in_use_bytes -= len(place.buffer)
            self._spare.append(place)

    async def _fill(self, place: _Memory | _Spool, receive: Receive, size: int) -> None:
        filled, more = 0, True
        while more:
            message = await self._next(receive)
            if message["type"] == "http.disconnect":
                raise Gone
            piece, more = message.get("body", b""), message.get("more_body", False)
            if filled + len(piece) > size:
                raise RefusedUpdate(Refusal.MALFORMED, "the body is longer than announced")
            place.write(filled, piece)
            filled += len(piece)
        if filled != size:
            raise RefusedUpdate(Refusal.MALFORMED, f"the body has {filled} of {size} bytes")

    async def _next(self, receive: Receive) -> Message:
        """The next piece; a sender that lets it wait loses the turn until its data is there."""
        given_away = False

        def give_away() -> None:
            nonlocal given_away
            given_away = True
            self._turn.release()

        timer = asyncio.get_running_loop().call_later(_PATIENCE_S, give_away)
        try:
            async with asyncio.timeout(_SILENCE_S):
                return await receive()
        except TimeoutError as error:
            message = f"no byte of the body came for {_SILENCE_S:g} s"
            raise RefusedUpdate(Refusal.TOO_SLOW, message) from error
        finally:
            timer.cancel()
            if given_away:
                await self._turn.acquire()
