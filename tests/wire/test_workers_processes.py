"""The real worker processes on loopback: a cloud pod, three devices, a fake planner."""

import asyncio
import json
from functools import partial
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from lockstep_api.settings import JobSettings
from lockstep_api.spec import StrategyName, StrategySpec, Target
from lockstep_workers.learning.strategies import build_strategy, fedavg
from tests.support.one_process import play
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.support.strategies import scaffold
from tests.wire.jobs import FakePlanner, serving, settings
from tests.wire.processes import Watch, cloud, device, is_at, prepare, run_to_the_end, served
from tests.wire.signing import with_tls


async def test_a_job_trains_to_its_target(tmp_path: Path) -> None:
    """All of its servers speak TLS, as they do where nothing else is asked for."""
    target = Target(metric="accuracy", value=0.9)
    planner = FakePlanner(rounds=30, steps=30, target=target)
    job = with_tls(settings(cloud_port=free_port(), planner_port=free_port()))
    prepare(tmp_path, job)
    async with (
        served(planner, job),
        cloud(tmp_path, job),
        device(tmp_path, 0),
        device(tmp_path, 1),
        device(tmp_path, 2),
    ):
        outcome = await asyncio.wait_for(asyncio.shield(planner.outcome), PATIENCE_S)
    assert outcome.result == "TargetReached", outcome.message
    assert planner.signer.asked == ["cloud"]
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
            await watch.until(partial(is_at, 4))
            first.terminate()
            assert await asyncio.wait_for(first.wait(), PATIENCE_S) == 0
        history = (tmp_path / "data" / "history.jsonl").read_text().splitlines()
        assert len(history) >= 3
        assert all(len(json.loads(line)["clients"]) == 3 for line in history)
