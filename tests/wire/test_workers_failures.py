"""What goes wrong in the cloud pod or at the planner stops no round and loses nobody needlessly."""

import asyncio
import http.client
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from lockstep_api.status import EnergyJoules
from lockstep_api.wire import NoticeReason
from lockstep_workers.device import connection as device
from lockstep_workers.learning import rounds
from lockstep_workers.tensors import decode
from tests.support.patience import PATIENCE_S
from tests.wire.cloud import Cloud, Device, cloud, devices, first_task, tasks
from tests.wire.jobs import FakePlanner


class Failing:
    """Fails so many times for one client, then does what it stands for."""

    def __init__(self, times: int, then: Any) -> None:
        """In the place of `then`, a sink's `add`."""
        self.left, self._then = times, then

    def __call__(self, client: str, *arguments: Any, **named: Any) -> Any:
        if client == "d-0" and self.left > 0:
            self.left -= 1
            raise OSError(28, "No space left on device")
        return self._then(client, *arguments, **named)


async def test_an_update_that_could_not_be_taken_may_be_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        await first_task(made)
        monkeypatch.setattr(server.vectors, "add", Failing(1, server.vectors.add))
        with structlog.testing.capture_logs() as logs:
            status, answer = await made[0].send()
        assert status == 503
        assert "No space left" not in answer["message"], "a device need not know"
        (told,) = [entry for entry in logs if entry["event"] == "update not taken"]
        assert told["client"] == "d-0"
        assert isinstance(told["exc_info"], OSError), "with its traceback"
        for each in made:
            assert (await each.send())[0] == 200
        assert await asyncio.wait_for(made[0].work(after=1), PATIENCE_S) is not None
        report = server.planner.requests[1].report
        assert report is not None
        assert (len(report.clients), report.lost) == (3, [])


async def test_a_client_whose_update_can_never_be_taken_is_lost_to_the_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason, the round does not hang, and the client is in the next one."""
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        await first_task(made)
        monkeypatch.setattr(server.vectors, "add", Failing(99, server.vectors.add))
        statuses = [(await made[0].send())[0] for _ in range(5)]
        assert statuses == [503] * 5
        status, answer = await made[0].send()
        assert (status, answer["reason"]) == (409, "not_in_round")
        for each in made[1:]:
            assert (await each.send())[0] == 200
        work = await asyncio.wait_for(made[0].work(after=1), PATIENCE_S)
        assert work is not None
        assert work.task.round == 2
        report = server.planner.requests[1].report
        assert report is not None
        assert report.lost == ["d-0"]


async def test_a_device_takes_an_answer_that_is_no_verdict_for_a_broken_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it keeps its update and sends it again (`device.loop`)."""
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        await first_task(made)
        monkeypatch.setattr(server.vectors, "add", Failing(1, server.vectors.add))
        connection = await made[0].connect()
        key, report, body = made[0].key, made[0].report(1), made[0].update(1.0)
        send = partial(device.send_update, report=report, key=key, body=body)
        with pytest.raises(http.client.HTTPException, match=r"503: .*send it again"):
            await asyncio.to_thread(send, connection)
        assert (await asyncio.to_thread(send, await made[0].connect())).accepted


async def test_a_large_update_that_is_refused_before_it_is_read_is_told_so(tmp_path: Path) -> None:
    """A device that is late would send it again and again, for it would never hear why not."""
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        await first_task(made)
        connection, late = await made[0].connect(), made[0].report(7)
        large = bytearray(64 << 20)  # more than any socket holds
        send = partial(device.send_update, key=made[0].key, body=large)
        answer = await asyncio.to_thread(send, connection, late)
        assert (answer.accepted, answer.reason) == (False, "wrong_round")


# -- settling a round ------------------------------------------------------------------------------


MOST = {
    "examples": 2**31 - 1, "steps": 2**31 - 1, "memory_round": 2**31 - 1, "train_loss": -3.5e38,
    "download_seconds": 1e7, "compute_seconds": 1e7, "cpu_seconds": 1e7, "throttled_seconds": 1e7,
    "quota_cores": 1e6, "frequency_ghz": 100.0,
    "energy_joules": EnergyJoules(model=1e12, cpu=1e12, measured=1e12),
}  # fmt: skip
"""The largest figures that a report may have."""


async def test_the_largest_figures_of_all_devices_end_no_process(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        for number in (1, 2):
            await tasks(made, number - 1, of_round=number)
            for each in made:
                status, answer = await each.send(number, body=each.update(1e15), **MOST)
                assert status == 200, answer
        outcome = await asyncio.wait_for(asyncio.shield(server.planner.outcome), PATIENCE_S)
        assert outcome.result == "RoundsCompleted"
        assert outcome.report is not None
        assert outcome.report.energy_joules.model == 1e12


@pytest.mark.parametrize("joules", ["1.7e308", "1e13", "-1", "NaN", "Infinity", "1e999"])
async def test_a_figure_beyond_its_bound_is_its_senders_fault_alone(
    tmp_path: Path, joules: str
) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=1)) as server, devices(server, 3) as made:
        await first_task(made)
        text = made[0].report(1, energy_joules=EnergyJoules(model=7.0)).to_json()
        status, answer = await made[0].send(text=text.replace("7.0", joules))
        assert (status, answer["reason"]) == (422, "bad_report")
        for each in made[1:]:
            assert (await each.send())[0] == 200
        outcome = await asyncio.wait_for(asyncio.shield(server.planner.outcome), PATIENCE_S)
        assert outcome.report is not None
        assert (outcome.report.lost, outcome.report.energy_joules.model) == (["d-0"], 2.0)


class Unforeseen:
    """Fails so many times in a way that nobody foresaw, then does what it stands for."""

    def __init__(self, times: int, then: Any) -> None:
        """In the place of `then`."""
        self.left, self._then = times, then

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        result = self._then(*arguments, **named)
        if self.left > 0:
            self.left -= 1
            raise ArithmeticError("nobody foresaw this")
        return result


@pytest.mark.parametrize("where", ["aggregate", "report", "metrics"])
async def test_a_round_that_cannot_be_settled_is_done_again_with_the_model_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=3)) as server, devices(server, 3) as made:
        await a_round(made, 1, value=1.0)
        await tasks(made, 1, of_round=2)
        fail_in(where, 1, server=server, monkeypatch=monkeypatch)
        with structlog.testing.capture_logs() as logs:
            await give(made, 2, value=5.0)
            works = await tasks(made, 2, of_round=2)
        (told,) = [entry for entry in logs if entry["event"] == "round not settled"]
        assert isinstance(told["exc_info"], ArithmeticError), "with its traceback"
        for work in works:
            flat = decode(work.body, n_values=server.n_values)
            np.testing.assert_array_equal(flat, np.ones_like(flat))
        (notice,) = server.planner.requests[-1].notices
        assert notice.reason is NoticeReason.ROUND_REPEATED
        assert "could not be used: ArithmeticError: nobody foresaw this" in notice.message
        await give(made, 2, value=2.0)
        (work, *_) = await tasks(made, 3, of_round=3)
        flat = decode(work.body, n_values=server.n_values)
        np.testing.assert_array_equal(flat, np.full_like(flat, 2.0))
        assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 2
        assert not server.running.done()


async def test_a_round_that_cannot_be_settled_fails_the_job_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=3)) as server, devices(server, 3) as made:
        fail_in("aggregate", 99, server=server, monkeypatch=monkeypatch)
        for after in range(3):
            await tasks(made, after, of_round=1)
            assert not server.planner.outcome.done()
            await give(made, 1, value=1.0)
        outcome = await asyncio.wait_for(asyncio.shield(server.planner.outcome), PATIENCE_S)
        assert outcome.result == "Failed"
        assert outcome.message == (
            "round 1: its updates could not be used: ArithmeticError: nobody foresaw this "
            "(tried 3 times)"
        )


async def test_a_round_that_cannot_be_written_down_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the model: done again, it would be in it twice."""
    async with cloud(tmp_path, FakePlanner(rounds=3)) as server, devices(server, 3) as made:
        await tasks(made, 0, of_round=1)
        journal = server.rounds._journal.store
        monkeypatch.setattr(journal, "add", Unforeseen(1, lambda _report: None))
        await give(made, 1, value=1.0)
        await tasks(made, 1, of_round=2)
        assert server.planner.requests[-1].notices == []


def fail_in(where: str, times: int, *, server: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of settling fails after it did its work."""
    if where == "report":
        failing = Unforeseen(times, rounds.round_report)
        monkeypatch.setattr("lockstep_workers.cloud.job.round_report", failing)
    else:
        on, name = (
            (server.vectors, "aggregate") if where == "aggregate" else (server.metrics, "ended")
        )
        monkeypatch.setattr(on, name, Unforeseen(times, getattr(on, name)))


async def a_round(made: list[Device], number: int, *, value: float) -> None:
    """A round with the same value from all."""
    await tasks(made, number - 1, of_round=number)
    await give(made, number, value=value)


async def give(made: list[Device], number: int, *, value: float) -> None:
    """Everyone gives this value."""
    for each in made:
        status, answer = await each.send(number, body=each.update(value))
        assert status == 200, answer


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
            work = await asyncio.wait_for(made[0].work(after=number), PATIENCE_S)
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
        work = await asyncio.wait_for(made[0].work(after=1), PATIENCE_S)
        assert work is not None
        assert server.planner.asked == 2
        assert server.reception.round is not None
        assert server.reception.round.plan.planned


async def test_round_1_waits_for_a_planner_that_refuses(tmp_path: Path) -> None:
    """There is no plan to go on with, and what it refuses for can be mended, as a spec can."""
    planner = FakePlanner(rounds=2, no=[409, 422, 404])
    async with cloud(tmp_path, planner) as server, devices(server, 3) as made:
        await asyncio.wait_for(first_task(made), PATIENCE_S)
        assert planner.asked == 4
        assert not planner.outcome.done()
        assert server.rounds.outcome is None
