"""What the cloud pod keeps for an edge that does not ask for it."""

import asyncio
from collections.abc import Mapping
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from lockstep_api.orders import ClusterOrder
from lockstep_api.sessions import Registration
from lockstep_api.tiers import ClusterPlan, EdgeRegistration
from lockstep_api.wire import ClientPlan, RoundPlan
from lockstep_workers.cloud import tiers
from lockstep_workers.cloud.tiers import Tiers
from lockstep_workers.hosting.reception import Reception
from lockstep_workers.hosting.sessions import never
from tests.support.patience import PATIENCE_S

EDGE = EdgeRegistration(edge="e-0", incarnation="1")


class Sink:
    """What an order carries: a model."""

    constants = b""
    body = bytearray()
    n_values = 1

    def broadcast(self) -> Mapping[str, Any]:
        return {"model": np.zeros(1000, np.float32)}

    def completed(self, order: ClusterOrder, plan: RoundPlan) -> ClusterOrder:
        return order


def a_job() -> tuple[Reception, Tiers]:
    reception = Reception(["d-0"], Mock(), tally=Mock(), now=lambda: 0.0)
    made = Tiers(
        ["e-0"], reception, sink=Sink(), tally=Mock(), now=lambda: 0.0, tell=Mock()  # type: ignore[arg-type]
    )  # fmt: skip
    return reception, made


def plan(number: int) -> RoundPlan:
    chosen = ClientPlan(client="d-0", frequency_ghz=1.0, cpu_milli=100, steps=1, applied=True)
    clusters = [ClusterPlan(cluster="c0", edge="e-0", clients=["d-0"])]
    return RoundPlan(round=number, rounds=9, participants=[chosen], clusters=clusters)


async def connect(reception: Reception, number: int) -> None:
    """The device opens a session anew."""
    known = Registration(client="d-0", incarnation=str(number), examples=1)
    await reception.open_session(known, key=b"", proved=True, is_silent=never)


async def until(found: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not found():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0)


async def test_orders_that_an_edge_did_not_ask_for_go_with_their_round() -> None:
    """Each holds a model: an edge that keeps its session and says nothing would fill the memory."""
    reception, made = a_job()
    await made.open_session(EDGE, key=b"", proved=True, is_silent=never)
    await connect(reception, 0)
    outbox = made._outboxes["e-0"]
    for number in (1, 2, 3):
        playing = asyncio.create_task(made.play(plan(number)))
        await until(lambda: any(one.is_order for one in outbox.answers))
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
    assert [one.is_order for one in outbox.answers] == [False] * 3, "that they are over is told"
    assert [one.number for one in outbox.answers] == [2, 4, 6]


async def test_an_edge_that_listens_no_more_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a device opens a session anew, which is told to its edge."""
    monkeypatch.setattr(tiers, "_MOST_UNHEARD", 5)
    reception, made = a_job()
    session = await made.open_session(EDGE, key=b"", proved=True, is_silent=never)
    await connect(reception, 0)
    playing = asyncio.create_task(made.play(plan(1)))
    outbox = made._outboxes["e-0"]
    await until(lambda: outbox.answers)
    for number in range(1, 10):
        before = outbox.number
        await connect(reception, number)
        await until(lambda known=before: outbox.number > known or session.over.is_set())
        if session.over.is_set():
            break
    assert made.missing() == ["e-0"]
    assert len(outbox.answers) == 6
    playing.cancel()
    await asyncio.gather(playing, return_exceptions=True)
