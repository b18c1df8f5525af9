"""What one peer may have of a server: no more than lets others in, and no answer for ever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from lockstep_api.sessions import Registration
from lockstep_serving import taking
from lockstep_serving.bounded import Limits
from lockstep_serving.taking import LEAST_BYTES_S, SILENCE_S, is_overdue
from lockstep_workers.hosting.sessions import Session
from tests.support.patience import PATIENCE_S
from tests.wire.limited import HEAD, LARGE, server

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]
ONE, OTHER = "127.0.0.1", "127.0.0.2"


@asynccontextmanager
async def peers(port: int, *sources: str) -> AsyncIterator[list[Peer]]:
    """A connection from each of these addresses."""
    made = [
        await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
        for source in sources
    ]
    try:
        yield made
    finally:
        for _, writer in made:
            writer.close()


async def ask(peer: Peer, who: str = "") -> bytes:
    """The end of the answer to a request by who is known so; nothing, if there is none."""
    reader, writer = peer
    known = f"known: {who}\r\n".encode() if who else b""
    with suppress(ConnectionResetError, asyncio.IncompleteReadError):
        writer.write(HEAD + known + b"content-length: 1\r\n\r\na")
        await reader.readuntil(b"200 OK")
        return await asyncio.wait_for(reader.readuntil(b"}"), PATIENCE_S)
    return b""


async def is_closed(peer: Peer) -> bool:
    """Waits for the end of a connection."""
    with suppress(ConnectionResetError):
        return await asyncio.wait_for(peer[0].read(), PATIENCE_S) == b""
    return True


async def test_the_address_that_holds_most_makes_room_and_no_other() -> None:
    limits = Limits(connections=4, head_s=PATIENCE_S, strangers_make_room=True)
    async with (
        server(limits) as port,
        peers(port, ONE, OTHER, OTHER, OTHER) as made,
        peers(port, ONE) as (new,),
    ):
        assert await is_closed(made[1]), "the oldest of three, not the oldest of all"
        for each in (new, made[0], made[2], made[3]):
            assert await ask(each)


async def test_who_is_slow_to_say_a_first_word_is_not_washed_away_by_the_own_address() -> None:
    """Whoever comes fast takes places from those that came as fast, while the others settle."""
    limits = Limits(connections=4, head_s=PATIENCE_S, strangers_make_room=True, settle_s=PATIENCE_S)
    async with (
        server(limits) as port,
        peers(port, ONE) as (slow,),
        peers(port, *[ONE] * 50) as flood,
    ):
        for each in flood[1:45]:
            assert await is_closed(each)
        assert await ask(slow)
        assert await ask(flood[0])


async def test_a_member_has_so_many_connections_and_its_oldest_gives_way_to_its_newest() -> None:
    limits = Limits(connections=9, head_s=PATIENCE_S, of_a_member=2)
    async with server(limits) as port, peers(port, *[ONE] * 4) as made:
        assert await ask(made[0], "other")
        for each in made[1:]:
            assert await ask(each, "one")
        assert await is_closed(made[1])
        assert await ask(made[2], "one")
        assert await ask(made[0], "other")


async def test_who_is_known_takes_the_place_of_no_other_who_is() -> None:
    """Not even with as many connections as the server takes."""
    limits = Limits(connections=4, head_s=PATIENCE_S, of_a_member=2, strangers_make_room=True)
    async with server(limits) as port, peers(port, ONE) as (mine,):
        assert await ask(mine, "mine")
        for _ in range(5):
            async with peers(port, ONE, ONE) as made:
                for each in made:
                    assert await ask(each, "greedy")
        assert await ask(mine, "mine")


# -- answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("passed_s", "silent_s", "taken", "overdue"),
    [
        (SILENCE_S, SILENCE_S, 0, False),
        (SILENCE_S + 1, SILENCE_S + 1, 10**9, True),
        (SILENCE_S + 1, 1, LEAST_BYTES_S - 1, True),
        (SILENCE_S + 1, 1, LEAST_BYTES_S, False),
        (86_400, 15, 86_400 * 1250, False),
        (86_400, 15, 86_400, True),
    ],
    ids=["a stall", "silence", "too slow", "just so", "10 kbit/s", "a byte a second"],
)
def test_who_takes_next_to_nothing_is_waited_for_no_longer(
    passed_s: float, silent_s: float, taken: int, *, overdue: bool
) -> None:
    assert is_overdue(passed_s, silent_s=silent_s, taken=taken) is overdue


async def test_an_answer_that_nobody_takes_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(taking, "SILENCE_S", 0.3)
    monkeypatch.setattr(taking, "LOOK_S", 0.05)
    async with server() as port, peers(port, ONE) as ((reader, writer),):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        async with peers(port, ONE) as (other,):
            assert await ask(other), "others are served meanwhile"
        await asyncio.sleep(1.0)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        whole = 0
        with suppress(ConnectionResetError):
            while piece := await asyncio.wait_for(reader.read(1 << 20), PATIENCE_S):
                whole += len(piece)
        assert whole < LARGE


class Taker:
    """A connection that has not taken all, or has."""

    def __init__(self, *, waits: bool) -> None:
        self.waits, self.aborted = waits, False

    def holds_back(self) -> bool:
        """Whether something waits."""
        return self.waits

    def abort(self) -> None:
        """It ends."""
        self.aborted = True


@pytest.mark.parametrize("waits", [True, False])
def test_a_session_holds_one_answer_that_is_not_taken(*, waits: bool) -> None:
    session = Session(Registration(client="d-0", incarnation="1", examples=1), "key")
    first, second = Taker(waits=waits), Taker(waits=False)
    session.answers_on(first)  # type: ignore[arg-type]
    session.answers_on(first)  # type: ignore[arg-type]
    assert not first.aborted, "it asks again on the same connection"
    session.answers_on(second)  # type: ignore[arg-type]
    assert first.aborted is waits


def test_a_session_has_one_update_on_its_way() -> None:
    session = Session(Registration(client="d-0", incarnation="1", examples=1), "key")
    first, second = Taker(waits=False), Taker(waits=False)
    with session.brings_on(first):  # type: ignore[arg-type]
        with session.brings_on(second):  # type: ignore[arg-type]
            assert first.aborted
        assert not second.aborted
    with session.brings_on(first):  # type: ignore[arg-type]
        assert not second.aborted, "that one is here"
