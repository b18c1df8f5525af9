"""Devices that send far too much, to a real cloud server on loopback."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np

from lockstep_api import series
from lockstep_api.mistrust import SatOut
from lockstep_api.records import RoundRecord
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import NoticeReason
from lockstep_workers.learning.clipping import Reached
from lockstep_workers.learning.rollback import Judge
from lockstep_workers.learning.safeguards import Safeguards
from lockstep_workers.learning.strategy import MODEL
from tests.support.patience import PATIENCE_S
from tests.wire.cloud import cloud, devices, first_task, tasks
from tests.wire.jobs import FakePlanner

HUGE = 1e6


async def test_a_round_whose_loss_jumps_is_played_again_without_who_stands_out(
    tmp_path: Path,
) -> None:
    judged, planner = Safeguards(judge=Judge(5.0, 10)), FakePlanner(rounds=2)
    async with (
        cloud(tmp_path, planner, safeguards=judged) as server,
        devices(server, 3) as made,
    ):
        await first_task(made)
        before = server.vectors.state.vectors[MODEL].copy()
        for value, each in zip((HUGE, 0.0, 0.0), made, strict=True):
            assert (await each.send(body=each.update(value)))[0] == 200
        await tasks(made[1:], after=1)
        np.testing.assert_array_equal(server.vectors.state.vectors[MODEL], before)
        again = planner.requests[1]
        assert (again.round, [one.client for one in again.clients]) == (1, ["d-1", "d-2"])
        (notice,) = again.notices
        assert notice.reason is NoticeReason.ROUND_ROLLED_BACK
        assert "d-0 went" in notice.message
        assert server.metric(series.ROUNDS_ROLLED_BACK.queried) == 1
        for each in made[1:]:
            assert (await each.send(body=each.update(0.0)))[0] == 200
        await tasks(made[1:], after=2, of_round=2)
        assert not server.vectors.state.vectors[MODEL].any(), "the mean of the two"
        report = planner.requests[2].report
        assert report is not None
        assert (report.round, report.lost) == (1, [])
        told = report.mistrusted
        assert told is not None
        assert "the loss on the held-out data" in told.taken_back[0]
        (out,) = told.sat_out
        assert (out.client, out.returns) == ("d-0", 6)
        assert (out.why or "").startswith("went ")
        (line,) = (tmp_path / "history.jsonl").read_text().splitlines()
        assert RoundRecord.model_validate_json(line).mistrusted == told
        for each in made[1:]:
            assert (await each.send(2, body=each.update(0.0)))[0] == 200
        outcome = await asyncio.wait_for(asyncio.shield(planner.outcome), PATIENCE_S)
        assert outcome.report is not None
        later = outcome.report.mistrusted
        assert later is not None, "it still sits out, for what was before"
        assert (later.taken_back, later.sat_out) == ([], [SatOut(client="d-0", returns=6)])


async def test_who_was_clipped_is_in_the_history_with_what_was_left(tmp_path: Path) -> None:
    known = Reached(distance=10.0, gradient=1.0, steps=20)
    bounded, planner = Safeguards(clip_norm=2.0, reached=known), FakePlanner(rounds=2)
    async with (
        cloud(tmp_path, planner, safeguards=bounded) as server,
        devices(server, 3) as made,
    ):
        await first_task(made)
        before = server.vectors.state.vectors[MODEL].copy()
        for value, each in zip((HUGE, 0.0, 0.0), made, strict=True):
            assert (await each.send(body=each.update(value)))[0] == 200
        await tasks(made, after=1, of_round=2)
        moved = float(np.linalg.norm(server.vectors.state.vectors[MODEL] - before))
        assert moved <= (20.0 + 2 * float(np.linalg.norm(before))) / 3 * 1.001
        (line,) = (tmp_path / "history.jsonl").read_text().splitlines()
        told = {one["update"]["client"]: one for one in json.loads(line)["clients"]}
        (far,), (left,) = told["d-0"]["distances"], told["d-0"]["kept"]
        assert far * left == np.float64(20.0) or abs(far * left - 20.0) < 1e-6
        assert told["d-1"].get("kept", []) == []
        assert server.metric(series.UPDATES_CLIPPED.queried) == 1


async def test_energy_that_a_device_cannot_have_used_is_no_part_of_the_jobs(
    tmp_path: Path,
) -> None:
    planner, lie = FakePlanner(rounds=3), EnergyJoules(model=1e12, cpu=1e12, measured=1e12)
    async with (
        cloud(tmp_path, planner, idle_watts=10.0) as server,
        devices(server, 3) as made,
    ):
        for number in (1, 2):
            await tasks(made, number - 1, of_round=number)
            for each in made:
                more: dict[str, Any] = {"energy_joules": lie} if each.client == "d-0" else {}
                assert (await each.send(number, **more))[0] == 200
        await tasks(made, 2, of_round=3)
        report = planner.requests[2].report
        assert report is not None
        assert report.energy_joules == EnergyJoules(model=4.0)
        (liar, *honest) = report.clients
        assert liar.left_out is not None
        assert liar.left_out.said == lie
        assert liar.left_out.most.measured == 0
        assert (liar.left_out.most.model or 0) > 0
        assert [one.left_out for one in honest] == [None, None]
        assert server.metric(series.JOB_ENERGY_JOULES.queried, source="model") == 4.0
        lines = (tmp_path / "history.jsonl").read_text().splitlines()
        assert [json.loads(line)["energyJoules"]["model"] for line in lines] == [2.0, 4.0]
        group = server.metric(series.GROUP_ENERGY_JOULES.queried, group="d", source="model")
        assert group == 4.0
