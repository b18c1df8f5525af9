"""What goes wrong in the cloud pod or at the planner stops no round and loses nobody needlessly."""

import asyncio
import http.client
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog

from lockstep_workers.device import connection as device
from tests.wire.cloud import cloud, devices, first_task
from tests.wire.jobs import FakePlanner


class Failing:
    """Fails so many times for one client, then does what it stands for."""

    def __init__(self, times: int, then: Any) -> None:
        """In the place of `then`, a sink's `add`."""
        self.left, self._then = times, then

    def __call__(self, client: str, *arguments: Any, **named: Any) -> None:
        if client == "d-0" and self.left > 0:
            self.left -= 1
            raise OSError(28, "No space left on device")
        self._then(client, *arguments, **named)


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
        assert await asyncio.wait_for(made[0].work(after=1), 10) is not None
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
        work = await asyncio.wait_for(made[0].work(after=1), 10)
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
