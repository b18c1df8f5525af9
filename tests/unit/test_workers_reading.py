"""The reader of bodies: turns, buffers, files for those that wait, broken senders."""

import asyncio
from collections.abc import Iterable

import pytest

from lockstep_api.sessions import Refusal
from lockstep_workers.errors import Gone, RefusedUpdate
from lockstep_workers.hosting import reading
from lockstep_workers.hosting.reading import Message, Messages, Reader


def part(body: bytes, *, more: bool) -> Message:
    """A piece of a body as the server hands it out."""
    return {"type": "http.request", "body": body, "more_body": more}


class Sender:
    """Hands out pieces; waits for `go_on` before the one that is None."""

    def __init__(self, pieces: Iterable[Message | None]) -> None:
        """The pieces in order."""
        self._pieces = iter(pieces)
        self.waits = asyncio.Event()
        self.go_on = asyncio.Event()

    async def receive(self) -> Message:
        """ASGI's receive."""
        piece = next(self._pieces)
        if piece is None:
            self.waits.set()
            await self.go_on.wait()
            return await self.receive()
        return piece


async def read(reader: Reader, sender: Sender, size: int) -> bytes:
    """A whole body."""
    async with reader.body(Messages(sender.receive, size), size) as body:
        return bytes(body)


@pytest.mark.parametrize("memory", [0, 1 << 20])
async def test_a_waiting_sender_does_not_hold_up_others(
    monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    """In memory or in files, each body is what its sender sent."""
    monkeypatch.setattr(reading, "_IN_MEMORY_BYTES", memory)
    reader = Reader()
    senders = [
        Sender([part(b"ab", more=True), None, part(letter * 2, more=False)])
        for letter in (b"x", b"y", b"z")
    ]
    slow = [asyncio.ensure_future(read(reader, sender, 4)) for sender in senders]
    for sender in senders:
        await asyncio.wait_for(sender.waits.wait(), 10)
    assert await asyncio.wait_for(read(reader, Sender([part(b"1234", more=False)]), 4), 10)
    for sender in reversed(senders):
        sender.go_on.set()
    assert await asyncio.gather(*slow) == [b"abxx", b"abyy", b"abzz"]


def source(body: bytes) -> Messages:
    """A body that is there at once."""
    return Messages(Sender([part(body, more=False)]).receive, len(body))


@pytest.mark.parametrize("memory", [0, 1 << 20])
async def test_a_body_can_be_changed_in_place(monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    monkeypatch.setattr(reading, "_IN_MEMORY_BYTES", memory)
    reader, slow = Reader(), Sender([part(b"ab", more=True), None, part(b"cd", more=False)])

    async def changed() -> bytes:
        async with reader.body(Messages(slow.receive, 4), 4) as body:
            body[0] = ord("x")
            return bytes(body)

    first = asyncio.ensure_future(read(reader, held := Sender([None, part(b"w", more=False)]), 1))
    second = asyncio.ensure_future(changed())
    await asyncio.wait_for(asyncio.gather(held.waits.wait(), slow.waits.wait()), 10)
    slow.go_on.set()
    assert await asyncio.wait_for(second, 10) == b"xbcd"
    held.go_on.set()
    assert await first == b"w"


async def test_a_buffer_is_used_again() -> None:
    reader = Reader()
    async with reader.body(source(b"one"), 3) as first:
        memory = first.obj
    async with reader.body(source(b"two"), 3) as second:
        assert second.obj is memory
        assert bytes(second) == b"two"


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ([part(b"abc", more=True), {"type": "http.disconnect"}], Gone),
        ([part(b"abc", more=False)], RefusedUpdate),
        ([part(b"abc", more=True), part(b"de", more=True)], RefusedUpdate),
    ],
)
async def test_a_bad_body_gives_turn_and_buffer_back(
    pieces: list[Message], error: type[Exception]
) -> None:
    reader = Reader()
    for _ in range(3):
        with pytest.raises(error) as caught:
            await asyncio.wait_for(read(reader, Sender(pieces), 4), 10)
        if isinstance(caught.value, RefusedUpdate):
            assert caught.value.reason is Refusal.MALFORMED
    assert await asyncio.wait_for(read(reader, Sender([part(b"1234", more=False)]), 4), 10)


@pytest.mark.parametrize("place", ["_Memory.__init__", "tempfile.TemporaryFile"])
async def test_a_place_that_cannot_be_had_gives_the_turn_back(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """No memory, no file descriptor, no room in /tmp: the next body is read all the same."""

    def nothing_left(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    reader, waiting = Reader(), Sender([part(b"ab", more=True), None, part(b"cd", more=False)])
    monkeypatch.setattr(reading, "_IN_MEMORY_BYTES", 0)
    first = asyncio.ensure_future(read(reader, waiting, 4))
    await asyncio.wait_for(waiting.waits.wait(), 10)
    with monkeypatch.context() as patch:
        patch.setattr(f"lockstep_workers.hosting.reading.{place}", nothing_left)
        if place == "_Memory.__init__":  # needed only where no other body is in memory
            waiting.go_on.set()
            assert await first == b"abcd"
            reader._spare.clear()
        for _ in range(2):
            with pytest.raises(OSError, match="Too many open files"):
                await asyncio.wait_for(read(reader, Sender([part(b"x", more=False)]), 1), 10)
    assert await asyncio.wait_for(read(reader, Sender([part(b"x", more=False)]), 1), 10) == b"x"
    waiting.go_on.set()
    assert await first == b"abcd"


async def test_a_sender_that_drips_is_refused_however_often_it_sends() -> None:
    """A byte every 100 s is never silent for long, and would hold its place for years."""
    now_s = 0.0

    class Dripping:
        """Gives a byte, and takes 100 s for it."""

        async def fill(self, view: memoryview, *, enough: int, patience_s: float) -> int:
            nonlocal now_s
            if enough > 1:
                return 0
            now_s += 100.0
            view[:1] = b"x"
            return 1

    reader = Reader(clock=lambda: now_s)
    with pytest.raises(RefusedUpdate, match="less than 64 bytes a second") as caught:
        async with asyncio.timeout(30), reader.body(Dripping(), 10_000):
            raise AssertionError
    assert caught.value.reason is Refusal.TOO_SLOW
    assert now_s == 200.0
    assert await read(reader, Sender([part(b"1234", more=False)]), 4) == b"1234"


async def test_a_sender_that_is_slow_but_steady_is_read() -> None:
    """100 bytes a second for an hour, as over the slowest of links."""
    now_s = 0.0

    class Slow:
        """Gives 100 bytes, and takes a second for them."""

        async def fill(self, view: memoryview, *, enough: int, patience_s: float) -> int:
            nonlocal now_s
            if enough > 1:
                return 0
            now_s += 1.0
            count = min(100, len(view))
            view[:count] = b"x" * count
            return count

    async with Reader(clock=lambda: now_s).body(Slow(), 360_000) as body:
        assert bytes(body) == b"x" * 360_000
    assert now_s >= 3600.0
