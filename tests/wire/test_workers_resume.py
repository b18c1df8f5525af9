"""A cloud pod that ends in the middle of a job and another that goes on from its volume."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lockstep_api import series
from lockstep_api.records import ClientsRecord, RoundRecord
from lockstep_api.wire import NoticeReason
from lockstep_workers.cloud.checkpoint import Checkpoint, checkpoints, write_checkpoint
from lockstep_workers.tensors import Flat, decode
from tests.support.patience import PATIENCE_S
from tests.wire.cloud import Cloud, Device, cloud, devices, first_task
from tests.wire.jobs import FakePlanner


async def play(server: Cloud, made: list[Device], number: int) -> None:
    """A whole round in which each device sends its own value."""
    works = await asyncio.gather(*(each.work(after=number - 1) for each in made))
    assert [work.task.round for work in works if work] == [number] * len(made)
    for index, each in enumerate(made):
        status, _ = await each.send(number, body=each.update(number + 0.1 * index))
        assert status == 200


async def model_at(server: Cloud, each: Device, after: int) -> Flat:
    """The model of the round after `after`."""
    work = await asyncio.wait_for(each.work(after=after), PATIENCE_S)
    assert work is not None
    return decode(work.body, n_values=server.n_values)


async def test_a_new_cloud_pod_goes_on_at_the_next_round(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=4)) as server, devices(server, 3) as made:
        await play(server, made, 1)
        await play(server, made, 2)
        before = await model_at(server, made[0], 2)
        began_at = server.metric(series.JOB_START_SECONDS.queried)
        round_at = server.metric(series.ROUND_BEGAN_SECONDS.queried)
        assert began_at is not None
        assert round_at is not None
        assert round_at > began_at
    (newest, *_) = checkpoints(tmp_path / "checkpoints")
    async with cloud(tmp_path, FakePlanner(rounds=4)) as server, devices(server, 3) as made:
        after = await model_at(server, made[0], 0)
        np.testing.assert_array_equal(after, before)
        request = server.planner.requests[0]
        assert request.round == 3
        assert request.report is not None
        assert request.report.round == 2
        assert request.report.energy_joules.model == 6.0
        assert [notice.reason for notice in request.notices] == [NoticeReason.RESUMED]
        assert request.notices[0].message == "the cloud pod goes on after round 2"
        assert server.metric(series.JOB_START_SECONDS.queried) == began_at
        written_at = server.metric(series.CHECKPOINT_WRITTEN_SECONDS.queried)
        assert written_at == newest.stat().st_mtime
        await play(server, made, 3)
        await play(server, made, 4)
        outcome = await asyncio.wait_for(asyncio.shield(server.planner.outcome), PATIENCE_S)
        assert outcome.result == "RoundsCompleted"
        assert outcome.report is not None
        assert outcome.report.energy_joules.model == 12.0
        assert outcome.report.elapsed_seconds > request.report.elapsed_seconds
    history = (tmp_path / "history.jsonl").read_text().splitlines()
    assert len(history) == 4
    records = [RoundRecord.model_validate_json(line) for line in history]
    assert [record.plan and record.plan.round for record in records] == [1, 2, 3, 4]
    written = ClientsRecord.model_validate_json((tmp_path / "clients.json").read_bytes())
    assert {one.client: one.examples for one in written.clients} == dict.fromkeys(
        server.job.clients(), 10
    )


async def test_the_last_round_is_written_when_the_pod_is_stopped(tmp_path: Path) -> None:
    """With a checkpoint every 5 rounds, an orderly end writes one of its own."""
    async with (
        cloud(tmp_path, FakePlanner(rounds=9), every_rounds=5) as server,
        devices(server, 3) as made,
    ):
        for number in (1, 2, 3):
            await play(server, made, number)
        await model_at(server, made[0], 3)
        assert not checkpoints(tmp_path / "checkpoints")
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == [
        "round-0000000003.safetensors"
    ]


async def test_without_a_checkpoint_of_them_rounds_are_repeated_and_counted(tmp_path: Path) -> None:
    async with (
        cloud(tmp_path, FakePlanner(rounds=9), every_rounds=2) as server,
        devices(server, 3) as made,
    ):
        for number in (1, 2, 3):
            await play(server, made, number)
        await model_at(server, made[0], 3)
    checkpoints(tmp_path / "checkpoints")[0].unlink()
    async with (
        cloud(tmp_path, FakePlanner(rounds=9), every_rounds=2) as server,
        devices(server, 3) as made,
    ):
        await first_task_after(made, 2)
        notice = server.planner.requests[0].notices[0]
        assert notice.message == (
            "the cloud pod goes on after round 2; 1 finished rounds are done again"
        )
        assert server.metric("lockstep_rounds_repeated") == 1


async def first_task_after(made: list[Device], number: int) -> None:
    """Waits until the round after `number` has reached all."""
    for work in await asyncio.gather(*(each.work() for each in made)):
        assert work is not None
        assert work.task.round == number + 1


async def test_a_corrupt_checkpoint_is_told(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=9)) as server, devices(server, 3) as made:
        for number in (1, 2):
            await play(server, made, number)
        await model_at(server, made[0], 2)
    newest = checkpoints(tmp_path / "checkpoints")[0]
    newest.write_bytes(newest.read_bytes()[:-4])
    async with cloud(tmp_path, FakePlanner(rounds=9)) as server, devices(server, 3) as made:
        await first_task_after(made, 1)
        notices = server.planner.requests[0].notices
        reasons = [(notice.type, notice.reason) for notice in notices]
        assert reasons == [
            ("Warning", NoticeReason.CHECKPOINT_CORRUPT),
            ("Normal", NoticeReason.RESUMED),
        ]
        assert newest.name in notices[0].message


async def test_a_full_volume_stops_no_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = True

    def write(path: Path, checkpoint: Checkpoint, **more: Any) -> int:
        if full:
            raise OSError(28, "No space left on device")
        return write_checkpoint(path, checkpoint, **more)

    monkeypatch.setattr("lockstep_workers.cloud.store.write_checkpoint", write)
    async with cloud(tmp_path, FakePlanner(rounds=9)) as server, devices(server, 3) as made:
        await play(server, made, 1)
        await play(server, made, 2)
        await model_at(server, made[0], 2)
        _, second, third = server.planner.requests
        assert [notice.reason for notice in second.notices] == [NoticeReason.CHECKPOINT_FAILED]
        assert third.notices == [], "told once"
        assert third.checkpoint_problem == (
            "the checkpoint of round 2 cannot be written: No space left on device"
        )
        assert server.metric("lockstep_checkpoint_failures_total") == 2
        full = False
        await play(server, made, 3)
        await model_at(server, made[0], 3)
        assert server.planner.requests[-1].checkpoint_problem is None
        assert len(checkpoints(tmp_path / "checkpoints")) == 1


async def test_a_job_that_was_done_before_the_end_was_told_ends(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=1)) as server, devices(server, 3) as made:
        await play(server, made, 1)
        await asyncio.wait_for(asyncio.shield(server.planner.outcome), PATIENCE_S)
    (tmp_path / "outcome.json").unlink()
    async with cloud(tmp_path, FakePlanner(rounds=1)) as server:
        outcome = await asyncio.wait_for(asyncio.shield(server.planner.outcome), PATIENCE_S)
        assert outcome.result == "RoundsCompleted"
        assert server.planner.requests == []


async def test_fewer_rounds_than_are_done_end_the_job(tmp_path: Path) -> None:
    planner = FakePlanner(rounds=9)
    async with cloud(tmp_path, planner) as server, devices(server, 3) as made:
        await play(server, made, 1)
        works = await asyncio.gather(*(each.work(after=1) for each in made))
        assert all(works)
        planner.rounds = 1
        for each in made:
            await each.send(2)
        outcome = await asyncio.wait_for(asyncio.shield(planner.outcome), PATIENCE_S)
        assert outcome.result == "RoundsCompleted"
        assert outcome.message.endswith("after 2 of 2 rounds")


async def test_a_job_with_quorum_and_deadline_begins_without_who_never_comes(
    tmp_path: Path,
) -> None:
    planner = FakePlanner(rounds=2, quorum=2, deadline_seconds=0.2)
    participation = {"quorum": 2, "round_deadline_seconds": 0.2}
    async with (
        cloud(tmp_path, planner, participation=participation) as server,
        devices(server, 2) as made,
    ):
        await first_task(made)
        request = planner.requests[0]
        assert [client.client for client in request.clients] == ["d-0", "d-1"]
        assert [notice.reason for notice in request.notices] == [NoticeReason.CLIENTS_MISSING]
        assert "without d-2" in request.notices[0].message


# -- deterministic ---------------------------------------------------------------------------


async def final_sum(tmp_path: Path, order: tuple[int, ...]) -> bytes:
    """The model after a round whose updates arrive in this order."""
    async with (
        cloud(tmp_path, FakePlanner(rounds=2), deterministic=True) as server,
        devices(server, 3) as made,
    ):
        await first_task(made)
        values = np.random.default_rng(3).normal(size=(3, server.n_values)).astype(np.float32)
        for index in order:
            body = made[index].update(0.0)
            decode(body, n_values=server.n_values)[:] = values[index]
            status, _ = await made[index].send(body=body, examples=7 * index + 3)
            assert status == 200
        return (await model_at(server, made[0], 1)).tobytes()


async def test_the_order_of_arrival_changes_no_bit(tmp_path: Path) -> None:
    results = {
        await final_sum(tmp_path / "".join(map(str, order)), order)
        for order in itertools.permutations(range(3))
    }
    assert len(results) == 1


async def test_a_deterministic_round_waits_for_who_comes_back(tmp_path: Path) -> None:
    async with (
        cloud(tmp_path, FakePlanner(rounds=2), deterministic=True) as server,
        devices(server, 3) as made,
    ):
        await first_task(made)
        await made[0].send(body=made[0].update(1.0))
        await made[2].send(body=made[2].update(3.0))
        made[1].close()
        again = Device(server, "d-1")
        await again.open()
        work = await asyncio.wait_for(again.work(), PATIENCE_S)
        assert work is not None
        assert work.task.round == 1
        await again.send(body=again.update(2.0))
        flat = await model_at(server, made[0], 1)
        np.testing.assert_allclose(flat, 2.0, rtol=1e-6)
        report = server.planner.requests[1].report
        assert report is not None
        assert report.lost == []
        again.close()


async def test_a_bad_update_holds_up_nobody_and_changes_no_sum(tmp_path: Path) -> None:
    async with (
        cloud(tmp_path, FakePlanner(rounds=2), deterministic=True) as server,
        devices(server, 3) as made,
    ):
        await first_task(made)
        await made[2].send(body=made[2].update(3.0))
        await made[1].send(body=made[1].update(1.0))
        assert server.vectors.weight == 20
        await made[0].send(body=made[0].update(float("nan")))
        flat = await model_at(server, made[1], 1)
        np.testing.assert_allclose(flat, 2.0, rtol=1e-6)
