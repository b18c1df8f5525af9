"""Whom a cluster waits for, and how long: seats without sockets, on a clock of the test's."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from lockstep_api.orders import MemberOrder
from lockstep_api.sessions import Refusal
from lockstep_api.spec import WireDtype
from lockstep_api.wire import ClientPlan
from lockstep_workers.edge.gathering import Ask, Patience, gather
from lockstep_workers.edge.seats import Seat
from lockstep_workers.errors import Gone, RefusedUpdate
from lockstep_workers.split_frames import Shape
from tests.support.patience import PATIENCE_S


@dataclass
class Connection:
    """A connection whose frame the test brings, or not."""

    frame: "asyncio.Future[None]" = field(default_factory=asyncio.Future)
    refused: list[Refusal] = field(default_factory=list)
    received_bytes: int = 0
    sent_bytes: int = 0

    def refuse(self, error: RefusedUpdate) -> None:
        """As a split connection."""
        self.refused.append(error.reason)

    def finish(self) -> None:
        """As a split connection."""
        if not self.frame.done():
            self.frame.set_exception(Gone())


def seat(client: str, connection: Any = None) -> Seat:
    """A device's place; here if it has a connection."""
    plan = ClientPlan(client=client, frequency_ghz=1, cpu_milli=1, steps=1, applied=True)
    shape = Shape(round=1, rows=1, values=1, front_values=1, wire=WireDtype.FLOAT32)
    made = Seat(MemberOrder(plan=plan, examples=1), slice(0, 1), shape, np.zeros(1, np.float32))
    if connection is not None:
        made.sit(connection)
    return made


def frame_of(_seat: Seat, connection: Any) -> "asyncio.Future[None]":
    """What the cluster waits for."""
    found: asyncio.Future[None] = connection.frame
    return found


ASK = Ask(frame_of, frame_of)


@dataclass
class Clock:
    """Stands still until it is set."""

    now_s: float = 0.0

    def patience(self, *, patient: bool = False, due_s: float | None = None) -> Patience:
        """Steps of a hundredth of a second on it, which real waits for it follow."""
        return Patience(
            patient=patient, step_s=0.01, due_s=due_s, quorum=1, clock=lambda: self.now_s
        )


async def test_a_step_goes_on_without_who_stalls_for_longer_than_its_deadline() -> None:
    quick, slow, clock = Connection(), Connection(), Clock()
    seats = [seat("d-0", slow), seat("d-1", quick)]
    async with asyncio.timeout(PATIENCE_S):
        waiting = asyncio.ensure_future(gather(seats, ASK, patience=clock.patience()))
        quick.frame.set_result(None)
        done, _ = await asyncio.wait({waiting}, timeout=0.05)
        assert not done
        clock.now_s = 0.02
        assert await waiting == [seats[1]]
    assert slow.refused == [Refusal.TOO_SLOW]
    assert slow.frame.cancelled()
    assert seats[0].connection is None
    assert quick.refused == []


async def test_a_patient_cluster_waits_past_the_deadline_of_a_step() -> None:
    slow, clock = Connection(), Clock()
    seats = [seat("d-0", slow)]
    async with asyncio.timeout(PATIENCE_S):
        waiting = asyncio.ensure_future(gather(seats, ASK, patience=clock.patience(patient=True)))
        clock.now_s = 1.0
        done, _ = await asyncio.wait({waiting}, timeout=0.05)
        assert not done
        slow.frame.set_result(None)
        assert await waiting == seats


@pytest.mark.parametrize("patient", [False, True])
async def test_only_a_patient_cluster_waits_for_who_has_gone_to_come_again(patient: bool) -> None:
    first, clock = Connection(), Clock()
    seats = [seat("d-0", first)]
    async with asyncio.timeout(PATIENCE_S):
        waiting = asyncio.ensure_future(
            gather(seats, ASK, patience=clock.patience(patient=patient))
        )
        first.frame.set_exception(Gone())
        if not patient:
            assert await waiting == []
            return
        again = Connection()
        seats[0].sit(again)  # type: ignore[arg-type]
        again.frame.set_result(None)
        assert await waiting == seats


async def test_past_the_rounds_deadline_the_quorum_is_enough_even_for_a_patient_cluster() -> None:
    clock = Clock()
    patience = clock.patience(patient=True, due_s=0.01)
    there, missing = seat("d-0", Connection()), seat("d-1")
    async with asyncio.timeout(PATIENCE_S):
        clock.now_s = 5.0
        waiting = asyncio.ensure_future(gather([missing, there], ASK, patience=patience))
        done, _ = await asyncio.wait({waiting}, timeout=0.05)
        assert not done  # nobody is there: the quorum is not
        there.connection.frame.set_result(None)  # type: ignore[union-attr]
        assert await waiting == [there]


async def test_who_is_lost_while_it_is_waited_for_keeps_nobody_waiting() -> None:
    clock, missing = Clock(), seat("d-0")
    async with asyncio.timeout(PATIENCE_S):
        waiting = asyncio.ensure_future(
            gather([missing], ASK, patience=clock.patience(patient=True))
        )
        await asyncio.sleep(0)
        missing.lose("the cloud pod says so")
        assert await waiting == []


async def test_the_newest_connection_of_a_device_has_its_seat() -> None:
    older = Connection(received_bytes=3, sent_bytes=4)
    newer: Any = Connection(received_bytes=5)
    one = seat("d-0", older)
    one.sit(newer)
    assert one.connection is newer
    assert one.bytes() == (8, 4)
    with pytest.raises(Gone):
        older.frame.result()
    one.leave(older)  # type: ignore[arg-type]
    assert one.connection is newer
