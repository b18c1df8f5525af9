"""Which errors end a job: one branch of the tree, and nothing else that goes wrong."""

import asyncio
import inspect
from pathlib import Path
from typing import Any

import pytest

from lockstep_api.sessions import Refusal
from lockstep_workers import errors
from lockstep_workers.errors import (
    CorruptCheckpoint,
    Gone,
    InvalidJob,
    JobFailed,
    NoSession,
    NotAdmitted,
    NotYou,
    PlannerRefused,
    PlannerUnreachable,
    RefusedUpdate,
    SessionTaken,
    WorkerError,
)
from tests.support.patience import PATIENCE_S
from tests.wire.cloud import cloud, devices, first_task
from tests.wire.jobs import FakePlanner

STRAY = [
    RefusedUpdate(Refusal.MALFORMED, "stray"),
    Gone("stray"),
    CorruptCheckpoint("stray"),
    NoSession("stray"),
    SessionTaken("stray"),
    NotAdmitted("stray"),
    NotYou(401, "stray"),
    PlannerUnreachable("stray"),
    PlannerRefused("stray"),
]
THE_JOBS_END = [JobFailed("stray"), InvalidJob("stray")]


def test_every_error_of_the_workers_is_in_one_tree() -> None:
    named = {
        e for _, e in inspect.getmembers(errors, inspect.isclass) if e.__module__ == errors.__name__
    }
    assert all(issubclass(e, WorkerError) for e in named)
    assert named == {WorkerError, *(type(e) for e in STRAY), *(type(e) for e in THE_JOBS_END)}
    assert all(name.__name__ in (errors.__doc__ or "") for name in named)


@pytest.mark.parametrize("error", [*STRAY, *THE_JOBS_END], ids=lambda e: type(e).__name__)
async def test_only_the_job_failed_branch_ends_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: WorkerError
) -> None:
    """Any other that escapes into the round ends the process: a new one goes on with the job."""

    def fail(*_: Any) -> None:
        raise error

    async with cloud(tmp_path, FakePlanner(rounds=1)) as server, devices(server, 3) as made:
        await first_task(made)
        monkeypatch.setattr(server.vectors, "aggregate", fail)
        for each in made:
            await each.send()
        await asyncio.wait({server.running}, timeout=PATIENCE_S)
        assert server.running.done()
        told = (tmp_path / "outcome.json").exists()
        if isinstance(error, JobFailed):
            assert (await server.planner.outcome).message == "stray"
            assert told
        else:
            assert server.running.exception() is error
            assert not server.planner.outcome.done()
            assert not told


@pytest.mark.parametrize("error", [ValueError("odd batch"), SystemExit(1), MemoryError()])
async def test_an_error_in_an_evaluation_ends_the_job_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """It is the user's code, and would end alike in a new process."""

    def fail(*_: Any) -> None:
        raise error

    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        await first_task(made)
        monkeypatch.setattr(server.vectors, "evaluate", fail)
        for each in made:
            await each.send()
        told = await asyncio.wait_for(server.planner.outcome, PATIENCE_S)
    assert told.result == "Failed"
    assert "evaluating the model after round 1 raised" in told.message
    assert type(error).__name__ in told.message
