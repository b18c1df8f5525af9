"""Wall clocks that jump, of real worker processes: rounds, certificates and times bear it."""

import asyncio
import json
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from lockstep_api.wire import RoundReport
from tests.support.clocked import library, set_clock
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.wire.jobs import FakePlanner, settings
from tests.wire.processes import Lines, Pods, Watch, is_at, prepare, run_to_the_end, served
from tests.wire.signing import with_tls

HOUR_S = 3600


@pytest.mark.slow
async def test_clocks_that_jump_change_no_bit_and_no_duration(tmp_path: Path) -> None:
    """The cloud pod's and a device's clock jump, forth and back; another's is an hour late.

    That one starts anew while it is, and takes no certificate, which to it nobody has made yet:
    the round waits until its clock has been set.
    """
    calm, jumping = tmp_path / "calm", tmp_path / "jumping"
    for folder in (calm, jumping):
        folder.mkdir()
    expected, _ = await run_to_the_end(calm, {})
    planner = FakePlanner(rounds=6, steps=20)
    watch = Watch(planner)
    job = with_tls(
        settings(cloud_port=free_port(), planner_port=free_port(), deterministic=True, momentum=0.9)
    )
    prepare(jumping, job)
    set_clocks = partial(set_clock, jumping)
    for name in ("cloud", *job.clients()):
        set_clocks(name)
    library()
    pods = Pods(jumping, job, program="tests.support.clocked", watched=True)
    async with served(planner, job):
        await pods.start_all()
        await watch.until(partial(is_at, 2), holds=True)
        set_clocks("cloud", ahead_s=3 * HOUR_S)
        set_clocks("d-0", ahead_s=-2 * HOUR_S)
        watch.go_on()
        await watch.until(partial(is_at, 3), holds=True)
        set_clocks("cloud", ahead_s=-3 * HOUR_S)
        set_clocks("d-0", ahead_s=2 * HOUR_S)
        watch.go_on()
        await watch.until(partial(is_at, 4), holds=True)
        set_clocks("cloud")
        set_clocks("d-1", ahead_s=-HOUR_S)
        await pods.kill_and_start("d-1")
        watch.go_on()
        await pods.said["d-1"].heard("not yet valid")
        set_clocks("d-1")
        outcome = await asyncio.wait_for(asyncio.shield(planner.outcome), PATIENCE_S)
        await pods.end()
    assert outcome.result == "RoundsCompleted", outcome.message
    assert (jumping / "data" / "model.safetensors").read_bytes() == expected
    history = (jumping / "data" / "history.jsonl").read_text().splitlines()
    reports = [RoundReport.model_validate_json(line) for line in history]
    assert [report.round for report in reports] == [1, 2, 3, 4, 5, 6]
    assert all(0 <= report.seconds < HOUR_S for report in reports)
    assert 0 <= reports[-1].elapsed_seconds < HOUR_S
    assert -steps_s(pods.said["cloud"])[0] > HOUR_S, "its clock did jump back"
    assert steps_s(pods.said["d-0"])[-1] > HOUR_S, "and this one's ahead"


def steps_s(said: Lines) -> list[float]:
    """From line to line of a log, seconds by the clock of who wrote it, in order of size."""
    lines = (json.loads(line) for line in said.all if line.startswith("{"))
    times = [datetime.fromisoformat(line["timestamp"]) for line in lines]
    return sorted((after - before).total_seconds() for before, after in pairwise(times))
