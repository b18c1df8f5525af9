"""What goes wrong in the cloud pod or at the planner stops no round and loses nobody needlessly."""

import asyncio
from pathlib import Path

import pytest

from tests.wire.cloud import cloud, devices, first_task
from tests.wire.jobs import FakePlanner

# -- the planner -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [409, 422])
async def test_a_planner_that_refuses_for_good_is_asked_once_a_round(
    tmp_path: Path, status: int
) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=3)) as server, devices(server, 3) as made:
        await first_task(made)
        server.planner.asked, server.planner.no = 0, [status] * 1000
        for number in (1, 2):
            for each in made:
                await each.send(number)
            work = await asyncio.wait_for(made[0].work(after=number), 60)
            assert work is not None
            assert server.planner.asked == number
            assert server.reception.round is not None
            assert not server.reception.round.plan.planned


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
async def test_a_planner_that_is_not_ready_is_asked_again(tmp_path: Path, status: int) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        await first_task(made)
        server.planner.asked, server.planner.no = 0, [status]
        for each in made:
            await each.send()
        work = await asyncio.wait_for(made[0].work(after=1), 60)
        assert work is not None
        assert server.planner.asked == 2
        assert server.reception.round is not None
        assert server.reception.round.plan.planned


async def test_round_1_waits_for_a_planner_that_refuses(tmp_path: Path) -> None:
    """There is no plan to go on with, and what it refuses for can be mended, as a spec can."""
    planner = FakePlanner(rounds=2, no=[409, 422, 404])
    async with cloud(tmp_path, planner) as server, devices(server, 3) as made:
        await asyncio.wait_for(first_task(made), 60)
        assert planner.asked == 4
        assert not planner.outcome.done()
        assert server.rounds.outcome is None
