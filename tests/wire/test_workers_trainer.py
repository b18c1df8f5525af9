"""The trainer as a real process: reads rounds and policy, learns, offers what it learnt."""

import asyncio
import sys
from pathlib import Path

import numpy as np
import pytest

from lockstep_allocator.policy import SHIPPED, Policy, read_policy
from lockstep_api import names
from tests.allocator.fleets import fleet, recorded
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.wire.jobs import FakePlanner, serving, settings


async def train(folder: Path, planner: FakePlanner) -> tuple[int | None, str]:
    """Runs a trainer on what lies in `folder`; its exit code and what it said."""
    job = settings(cloud_port=free_port(), planner_port=free_port())
    (folder / "job.json").write_text(job.to_json())
    (folder / "token").write_text("of-the-trainer\n")
    async with serving(planner.app(), int(job.planner_url.rpartition(":")[2])):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lockstep_workers", "trainer",
            stdout=asyncio.subprocess.PIPE,
            env={
                "LOCKSTEP_SETTINGS": str(folder / "job.json"), "OMP_NUM_THREADS": "1",
                "LOCKSTEP_TOKEN_FILE": str(folder / "token"), "LOCKSTEP_EXPERIENCE": str(folder),
            },
        )  # fmt: skip
        said, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    return process.returncode, said.decode()


@pytest.fixture
def rounds(tmp_path: Path) -> Path:
    """A folder with 20 recorded rounds and the shipped policy."""
    shipped = read_policy(SHIPPED)
    experience, _ = recorded(fleet(1, 4, seed=2), shipped, 20)
    (tmp_path / names.EXPERIENCE_FILE).write_bytes(experience.to_bytes())
    (tmp_path / names.POLICY_FILE).write_bytes(shipped.to_bytes())
    return tmp_path


async def test_a_trainer_offers_what_it_learnt_until_it_is_judged(rounds: Path) -> None:
    planner = FakePlanner(refusals=1)
    code, said = await train(rounds, planner)
    assert code == 0, said
    assert [token for token, _ in planner.offers] == 2 * ["Bearer of-the-trainer"]
    offered = Policy.from_bytes(planner.offers[-1][1], source="test")
    assert offered.training.stopped == "on the job"
    assert offered.training.metrics["recorded rounds"] == 20
    shipped = read_policy(SHIPPED)
    for name, value in shipped.forecaster.weights.items():  # only the network learns
        assert np.array_equal(offered.forecaster.weights[name], value)
    assert '"percent": 100' in said
    assert '"event": "judged"' in said


async def test_a_trainer_says_what_it_cannot_read(rounds: Path) -> None:
    (rounds / names.EXPERIENCE_FILE).write_bytes(b"garbage")
    planner = FakePlanner()
    code, said = await train(rounds, planner)
    assert code == 1
    assert "cannot learn: the recorded rounds cannot be read" in said
    assert planner.offers == []


async def test_a_policy_that_nobody_wants_any_more_is_offered_once(rounds: Path) -> None:
    planner = FakePlanner(refusals=9, refusal=409)
    code, said = await train(rounds, planner)
    assert code == 1
    assert "the policy could not be offered: the planner says 409: not now" in said
    assert len(planner.offers) == 1
