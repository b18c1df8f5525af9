"""The real worker processes on loopback: a cloud pod, three devices, a fake planner."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from lockstep_api.settings import JobSettings
from lockstep_api.spec import CheckpointSpec, StrategyName, StrategySpec, Target
from lockstep_api.wire import PlanRequest, RoundReport
from lockstep_workers.learning.strategies import build_strategy, fedavg
from tests.support.one_process import play
from tests.support.patience import PATIENCE_S
from tests.support.strategies import scaffold
from tests.wire.jobs import FakePlanner, free_port, serving, settings, write_dataset


@asynccontextmanager
async def worker(
    role: str, folder: Path, *, program: str = "lockstep_workers", **env: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker process; SIGTERM must end it in order, unless the test has killed it.

    One that is still starting is let start first: until it listens, nothing in it hears SIGTERM.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", program, role,
        env={
            **os.environ, "LOCKSTEP_SETTINGS": str(folder / "job.json"),
            "LOCKSTEP_DATA_DIR": str(folder / "data"), "LOCKSTEP_HOST": "127.0.0.1",
            "LOCKSTEP_DATASETS": str(folder / "datasets"), "OMP_NUM_THREADS": "1",
            "LOCKSTEP_MEMORY": str(folder / "memory"), **env,
        },
    )  # fmt: skip
    try:
        yield process
    finally:
        try:
            await listens(process, int(env["LOCKSTEP_PORT"]))
            if process.returncode is None:
                process.terminate()
                assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def listens(process: asyncio.subprocess.Process, port: int) -> None:
    """Waits until a process takes connections, or has ended."""
    async with asyncio.timeout(PATIENCE_S):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)  # another process starting gives no event
            else:
                writer.close()
                return


def device(
    folder: Path, number: int, *, program: str = "lockstep_workers"
) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """A device process of group d."""
    return worker(
        "device", folder, program=program, LOCKSTEP_POD=f"job-device-d-{number}",
        LOCKSTEP_GROUP="d", LOCKSTEP_PORT=str(free_port()),
    )  # fmt: skip


def cloud(
    folder: Path, job: JobSettings, *, program: str = "lockstep_workers"
) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """The cloud pod's process."""
    port = job.cloud_url.rpartition(":")[2]
    return worker("cloud", folder, program=program, LOCKSTEP_PORT=port)


def prepare(folder: Path, job: JobSettings) -> None:
    """Writes the files that the processes read."""
    (folder / "job.json").write_text(job.to_json())
    write_dataset(folder / "datasets")


async def test_a_job_trains_to_its_target(tmp_path: Path) -> None:
    target = Target(metric="accuracy", value=0.9)
    planner = FakePlanner(rounds=30, steps=30, target=target)
    job = settings(cloud_port=free_port(), planner_port=free_port())
    prepare(tmp_path, job)
    planner_port = int(job.planner_url.rpartition(":")[2])
    async with (
        serving(planner.app(), planner_port),
        cloud(tmp_path, job),
        device(tmp_path, 0),
        device(tmp_path, 1),
        device(tmp_path, 2),
    ):
        outcome = await asyncio.wait_for(asyncio.shield(planner.outcome), PATIENCE_S)
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
    prepare(tmp_path, bad)
    planner_port = int(job.planner_url.rpartition(":")[2])
    async with serving(planner.app(), planner_port), cloud(tmp_path, bad):
        outcome = await asyncio.wait_for(asyncio.shield(planner.outcome), PATIENCE_S)
        async with device(tmp_path, 0) as broken:
            assert await asyncio.wait_for(broken.wait(), PATIENCE_S) == 1
    assert outcome.result == "Failed"
    assert "model.args do not fit model mlp: hidden must be" in outcome.message


class Watch:
    """Lets a test wait for a plan request of some kind."""

    def __init__(self, planner: FakePlanner) -> None:
        """Sees every request from now on."""
        self._wanted: Callable[[PlanRequest], bool] | None = None
        self._seen = asyncio.Event()
        self._holds = False
        self._planner = planner
        planner.arrived = self._arrived

    def _arrived(self, request: PlanRequest) -> None:
        if self._wanted is not None and self._wanted(request):
            self._seen.set()
            if self._holds:
                self._wanted = None
                self._planner.answering.clear()

    async def until(self, wanted: Callable[[PlanRequest], bool], *, holds: bool = False) -> None:
        """Returns when such a request has come; with `holds` none is answered until `go_on`."""
        self._seen.clear()
        self._wanted, self._holds = wanted, holds
        await asyncio.wait_for(self._seen.wait(), PATIENCE_S)

    def go_on(self) -> None:
        """Requests are answered again."""
        self._planner.answering.set()


@pytest.mark.slow
async def test_killed_pods_come_back_and_the_job_finishes(tmp_path: Path) -> None:
    planner = FakePlanner(rounds=1_000_000, steps=20)
    watch = Watch(planner)
    job = settings(cloud_port=free_port(), planner_port=free_port())
    prepare(tmp_path, job)
    planner_port = int(job.planner_url.rpartition(":")[2])
    async with serving(planner.app(), planner_port), device(tmp_path, 1), device(tmp_path, 2):
        async with cloud(tmp_path, job) as first:
            async with device(tmp_path, 0) as lost:
                await watch.until(lambda request: request.round >= 3)
                lost.kill()
                await watch.until(lambda request: len(request.clients) == 2)
            async with device(tmp_path, 0):
                await watch.until(lambda request: len(request.clients) == 3)
                first.kill()
                await first.wait()
                async with cloud(tmp_path, job):
                    await watch.until(lambda request: bool(request.notices))
                    assert planner.requests[-1].round >= 4, "it goes on where it was"
                    planner.rounds = planner.requests[-1].round + 2  # may change while it runs
                    outcome = await asyncio.wait_for(asyncio.shield(planner.outcome), PATIENCE_S)
        assert outcome.result == "RoundsCompleted"
        planner.outcome = asyncio.Future()
        async with cloud(tmp_path, job):  # it has ended before: the outcome is told again
            again = await asyncio.wait_for(asyncio.shield(planner.outcome), PATIENCE_S)
        assert again == outcome


def _is_at(number: int, request: PlanRequest) -> bool:
    return request.round >= number


async def run_to_the_end(
    folder: Path,
    kills: dict[int, tuple[str, ...]],
    *,
    program: str = "lockstep_workers",
    strategy: StrategySpec | None = None,
    momentum: float = 0.9,
    every_rounds: int = 1,
    between_rounds: bool = False,
) -> tuple[bytes, list[RoundReport]]:
    """A deterministic job whose pods are killed in these rounds, or just before they begin.

    Returns:
        The bytes of its final model, and all reports of its rounds.
    """
    planner = FakePlanner(rounds=6, steps=20)
    watch = Watch(planner)
    job = settings(
        cloud_port=free_port(), planner_port=free_port(), deterministic=True, momentum=momentum
    ).model_copy(
        update={
            "checkpoint": CheckpointSpec(every_rounds=every_rounds),
            "strategy": strategy or StrategySpec(),
        }
    )
    prepare(folder, job)
    makers: dict[str, Callable[[], AbstractAsyncContextManager[asyncio.subprocess.Process]]] = {
        "cloud": partial(cloud, folder, job, program=program),
        **{f"d-{i}": partial(device, folder, i, program=program) for i in range(3)},
    }
    running: dict[str, tuple[AsyncExitStack, asyncio.subprocess.Process]] = {}

    async def start(name: str) -> None:
        stack = AsyncExitStack()
        running[name] = (stack, await stack.enter_async_context(makers[name]()))

    async with serving(planner.app(), int(job.planner_url.rpartition(":")[2])):
        for name in makers:
            await start(name)
        for number, victims in kills.items():
            await watch.until(partial(_is_at, number), holds=between_rounds)
            for name in victims:
                stack, process = running[name]
                process.kill()
                await process.wait()
                await stack.aclose()
                await start(name)
            watch.go_on()
        outcome = await asyncio.wait_for(asyncio.shield(planner.outcome), PATIENCE_S)
        for stack, _ in running.values():
            await stack.aclose()
    assert outcome.result == "RoundsCompleted", outcome.message
    model = (folder / "data" / "model.safetensors").read_bytes()
    reports = [request.report for request in planner.requests] + [outcome.report]
    return model, [report for report in reports if report is not None]


@pytest.mark.slow
async def test_killed_pods_change_no_bit_of_a_deterministic_job(tmp_path: Path) -> None:
    undisturbed, disturbed = tmp_path / "a", tmp_path / "b"
    for folder in (undisturbed, disturbed):
        folder.mkdir()
    kills = {2: ("d-1",), 4: ("cloud", "d-0")}
    expected, _ = await run_to_the_end(undisturbed, {})
    model, _ = await run_to_the_end(disturbed, kills)
    assert model == expected
    assert not (disturbed / "memory").exists(), "a strategy without memory writes nothing"


@pytest.mark.slow
async def test_nor_do_they_where_clients_remember(tmp_path: Path) -> None:
    """A device is killed; then the cloud pod goes a round back, and another device with it.

    With a checkpoint every 2 rounds, a cloud pod that is killed before round 4 begins goes on
    after round 2, while all clients remember round 3. What should come out is what comes out of
    the same rounds in one process, without pods.
    """
    model, reports = await run_to_the_end(
        tmp_path,
        {2: ("d-1",), 4: ("cloud", "d-0")},
        program="tests.support.remembering",
        momentum=0.0,
        every_rounds=2,
        between_rounds=True,
    )
    job = JobSettings.model_validate_json((tmp_path / "job.json").read_bytes())
    expected = play(job, tmp_path / "datasets", strategy=scaffold(), rounds=6, steps=20)
    assert model.endswith(expected.tobytes())
    assert [report.round for report in reports].count(3) == 2, "round 3 was done again"
    for report in reports:
        remembered = {client.update.memory_round for client in report.clients}
        assert remembered == {report.round - 1 or None}


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [
        StrategySpec(name=StrategyName.CALIBRATED),
        StrategySpec(name=StrategyName.SCAFFOLD, server_momentum=0.9, server_learning_rate=0.5),
        StrategySpec(name=StrategyName.FEDYOGI),
    ],
    ids=["calibrated", "scaffold with server momentum", "fedyogi"],
)
async def test_nor_do_they_where_the_server_has_more_than_a_model(
    tmp_path: Path, strategy: StrategySpec
) -> None:
    """As above, with what the methods keep: vectors and numbers at the server, and at clients."""
    model, reports = await run_to_the_end(
        tmp_path,
        {3: ("d-2",), 4: ("cloud", "d-0")},
        strategy=strategy,
        momentum=0.0,
        every_rounds=2,
        between_rounds=True,
    )
    job = JobSettings.model_validate_json((tmp_path / "job.json").read_bytes())
    method = build_strategy(job.strategy, momentum=0.0)
    expected = play(job, tmp_path / "datasets", strategy=method, rounds=6, steps=20)
    assert model.endswith(expected.tobytes())
    plain = play(job, tmp_path / "datasets", strategy=fedavg(), rounds=6, steps=20)
    assert not model.endswith(plain.tobytes()), "it is the method's own model"
    assert [report.round for report in reports].count(3) == 2, "round 3 was done again"


@pytest.mark.slow
async def test_a_cloud_pod_that_is_told_to_end_closes_no_round_without_its_clients(
    tmp_path: Path,
) -> None:
    """Its connections close when it ends: that loses no client to the round under way."""
    planner = FakePlanner(rounds=1_000_000, steps=20)
    watch = Watch(planner)
    job = settings(cloud_port=free_port(), planner_port=free_port())
    prepare(tmp_path, job)
    async with (
        serving(planner.app(), int(job.planner_url.rpartition(":")[2])),
        device(tmp_path, 0),
        device(tmp_path, 1),
        device(tmp_path, 2),
    ):
        async with cloud(tmp_path, job) as first:
            await watch.until(partial(_is_at, 4))
            first.terminate()
            assert await asyncio.wait_for(first.wait(), PATIENCE_S) == 0
        history = (tmp_path / "data" / "history.jsonl").read_text().splitlines()
        assert len(history) >= 3
        assert all(len(json.loads(line)["clients"]) == 3 for line in history)
