"""A reception alone, as an edge has one: the devices' routes, a sum, no job and no planner."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from lockstep_api.sessions import Refusal, Registration
from lockstep_api.wire import ClientPlan, RoundPlan, Task
from lockstep_workers.device import connection as device
from lockstep_workers.hosting.asgi import App
from lockstep_workers.hosting.bulk import BulkRoutes
from lockstep_workers.hosting.reception import Reception
from lockstep_workers.learning.clipping import UNSEEN, Measured
from lockstep_workers.learning.rounds import Base
from lockstep_workers.learning.strategy import Contribution
from lockstep_workers.tensors import Flat, decode, encode
from tests.support.ports import free_port
from tests.wire.cloud import report
from tests.wire.jobs import serving

N_VALUES = 1000


@dataclass
class Sum:
    """Adds up what comes, weighted by examples."""

    n_values: int = N_VALUES
    body: bytearray = field(default_factory=lambda: encode([np.full(N_VALUES, 7.0, np.float32)]))
    total: Flat = field(default_factory=lambda: np.zeros(N_VALUES, np.float32))
    constants: bytes = b""

    def add(self, client: str, flat: Flat, *, contribution: Contribution) -> Measured:
        """Adds an update."""
        self.total += np.float32(contribution.examples) * flat
        return UNSEEN


@dataclass
class Count:
    """Counts."""

    connected: int = 0
    ended: int = 0
    taken: int = 0
    refusals: list[Refusal] = field(default_factory=list)

    def sessions(self, clients: Collection[str]) -> None:
        """So many are open."""
        self.connected = len(clients)

    def session_ended(self) -> None:
        """One came to its end too early."""
        self.ended += 1

    def took(self) -> None:
        """One more."""
        self.taken += 1

    def refused(self, reason: Refusal) -> None:
        """One less."""
        self.refusals.append(reason)

    def client_failed(self) -> None:
        """No update at all."""


async def nothing(_scope: object, _receive: object, _send: object) -> None:
    """There are no other routes."""
    raise AssertionError


rest: App = nothing


@dataclass
class Edge:
    """A server that sums."""

    reception: Reception
    sink: Sum
    count: Count
    url: str


@asynccontextmanager
async def edge(*clients: str) -> AsyncIterator[Edge]:
    """A reception of these clients behind real sockets."""
    sink, count, port = Sum(), Count(), free_port()
    reception = Reception(clients, sink, tally=count, now=time.monotonic)
    async with serving(BulkRoutes(reception, rest), port):
        yield Edge(reception, sink, count, f"http://127.0.0.1:{port}")


def plan(number: int, *clients: str) -> RoundPlan:
    """A round of these clients."""
    chosen = [
        ClientPlan(client=c, frequency_ghz=1, cpu_milli=100, steps=5, applied=True) for c in clients
    ]
    return RoundPlan(round=number, rounds=9, participants=chosen)


def play_until_over(url: str, client: str, value: float, examples: int) -> list[tuple[Task, float]]:
    """A device that gives one value each round; what it got, until there was no more work."""
    session, connection = device.connect(url), device.connect(url)
    got: list[tuple[Task, float]] = []
    with device.open_session(
        session, Registration(client=client, incarnation="1", examples=examples)
    ) as opened:
        key = opened.key
        while (work := device.get_work(connection, client, key=key, after=len(got))) is not None:
            got.append((work.task, float(decode(work.body, n_values=N_VALUES)[-1])))
            answer = device.send_update(
                connection,
                report(client, work.task.round, examples=examples),
                key=key,
                body=encode([np.full(N_VALUES, value, np.float32)]),
            )
            assert answer.accepted, answer.message
    connection.close()
    session.close()
    return got


async def test_two_clients_play_rounds_with_a_reception_alone() -> None:
    async with edge("a", "b") as server, asyncio.timeout(20):
        people = [
            asyncio.ensure_future(asyncio.to_thread(play_until_over, server.url, *who))
            for who in (("a", 1.0, 10), ("b", 4.0, 20))
        ]
        while server.reception.missing():
            await server.reception.changed()
        assert [r.client for r in server.reception.registrations()] == ["a", "b"]
        dealt = Base(examples={"a": 10, "b": 20})
        for number in (1, 2):
            done = await server.reception.play(plan(number, "a", "b"), base=dealt)
            assert sorted(done.accepted) == ["a", "b"]
            assert done.lost == {}
        server.reception.end("RoundsCompleted")
        for each in people:
            got = await each
            assert [(task.round, task.steps, value) for task, value in got] == [
                (1, 5, 7.0),
                (2, 5, 7.0),
            ]
        np.testing.assert_allclose(server.sink.total, 2 * (10 * 1.0 + 20 * 4.0))
        assert server.count.taken == 4
        assert server.count.refusals == []
    assert server.count.ended == 0, "they end with the job"


async def test_who_leaves_is_lost_to_the_round_and_the_sink_is_told() -> None:
    async with edge("a", "b") as server, asyncio.timeout(20):
        connection = await asyncio.to_thread(device.connect, server.url)
        registration = Registration(client="a", incarnation="1", examples=1)
        session = await asyncio.to_thread(device.open_session, connection, registration)
        playing = asyncio.ensure_future(server.reception.play(plan(1, "a", "b")))
        await asyncio.sleep(0)  # it begins
        assert server.reception.round is not None
        assert server.reception.round.lost == {"b": "it is not connected"}
        session.close()
        connection.close()
        done = await playing
        assert done.lost["a"] == "its connection closed"
        assert list(done.lost) == ["b", "a"]
        assert (server.count.connected, server.count.ended) == (0, 1)


@pytest.mark.parametrize("ticks", range(4))
async def test_an_owner_that_is_told_to_end_ends_whatever_happens_at_that_moment(
    ticks: int,
) -> None:
    """News that comes in the same turn of the loop takes nothing of its cancellation."""
    reception = Reception(["d-0"], Sum(), tally=Count(), now=time.monotonic)
    waiting = asyncio.ensure_future(reception.changed(600))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    reception.end("Failed")
    reception._pulse.set()
    for _ in range(ticks):
        await asyncio.sleep(0)
    if waiting.cancel():
        with pytest.raises(asyncio.CancelledError):
            await waiting
