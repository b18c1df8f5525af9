"""The real worker processes on loopback: a cloud pod, three devices, a fake planner."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from safetensors.numpy import load_file

from lockstep_api.settings import JobSettings
from lockstep_api.spec import Target
from tests.wire.jobs import FakePlanner, free_port, serving, settings, write_dataset


@asynccontextmanager
async def worker(role: str, folder: Path, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker process; ended by SIGTERM, killed if that does not end it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "lockstep_workers", role,
        env={
            **os.environ, "LOCKSTEP_SETTINGS": str(folder / "job.json"),
            "LOCKSTEP_DATA_DIR": str(folder / "data"), "LOCKSTEP_HOST": "127.0.0.1",
            "LOCKSTEP_DATASETS": str(folder / "datasets"), "OMP_NUM_THREADS": "1", **env,
        },
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 20)
            except TimeoutError:
                process.kill()
                await process.wait()


def device(folder: Path, number: int) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """A device process of group d."""
    return worker(
        "device", folder, LOCKSTEP_POD=f"job-device-d-{number}", LOCKSTEP_GROUP="d",
        LOCKSTEP_PORT=str(free_port()),
    )  # fmt: skip


async def run_job(folder: Path, job: JobSettings, planner: FakePlanner) -> None:
    """Runs the job's processes until the planner has the outcome."""
    (folder / "job.json").write_text(job.to_json())
    write_dataset(folder / "datasets")
    cloud_port = job.cloud_url.rpartition(":")[2]
    planner_port = int(job.planner_url.rpartition(":")[2])
    async with (
        serving(planner.app(), planner_port),
        worker("cloud", folder, LOCKSTEP_PORT=cloud_port),
        device(folder, 0),
        device(folder, 1),
        device(folder, 2),
    ):
        await asyncio.wait_for(asyncio.shield(planner.outcome), 120)


async def test_a_job_trains_to_its_target(tmp_path: Path) -> None:
    target = Target(metric="accuracy", value=0.9)
    planner = FakePlanner(rounds=30, steps=30, target=target)
    job = settings(cloud_port=free_port(), planner_port=free_port())
    await run_job(tmp_path, job, planner)

    outcome = planner.outcome.result()
    assert outcome.result == "TargetReached", outcome.message
    assert outcome.report is not None
    assert outcome.report.accuracy is not None
    assert outcome.report.accuracy >= 0.9
    assert [r.round for r in planner.requests] == list(range(1, outcome.report.round + 1))
    assert {c.update.client for c in outcome.report.clients} == {"d-0", "d-1", "d-2"}
    model = load_file(tmp_path / "data" / "model.safetensors")
    assert model["1.weight"].shape == (128, 784)
    history = (tmp_path / "data" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in history] == list(range(1, len(history) + 1))


async def test_a_job_that_cannot_begin_says_why(tmp_path: Path) -> None:
    planner = FakePlanner()
    job = settings(cloud_port=free_port(), planner_port=free_port())
    bad = job.model_copy(
        update={"model": job.model.model_copy(update={"args": {"hidden": "many"}})}
    )
    await run_job(tmp_path, bad, planner)
    assert planner.outcome.result().result == "Failed"
    assert "model.args do not fit model mlp" in planner.outcome.result().message
