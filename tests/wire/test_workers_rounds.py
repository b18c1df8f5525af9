"""Rounds of a real cloud server on loopback, driven over real sockets by hand-made devices."""

import asyncio
import http.client
import json
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lockstep_api import names, series
from lockstep_api.sessions import Refusal
from lockstep_api.wire import NoticeReason, RoundPlan
from lockstep_workers.device import connection as device
from lockstep_workers.errors import NoSession, NotAdmitted
from lockstep_workers.learning.evaluation import Evaluation
from lockstep_workers.learning.normalised import with_normalised_steps
from lockstep_workers.learning.strategies import fedavg
from lockstep_workers.tensors import decode, encode
from tests.support.patience import PATIENCE_S
from tests.wire.cloud import Device, cloud, devices, first_task, tasks
from tests.wire.jobs import FakePlanner


async def test_the_model_is_the_weighted_mean(tmp_path: Path) -> None:
    held = {"d-0": 10, "d-1": 20, "d-2": 10}
    async with (
        cloud(tmp_path, FakePlanner(rounds=2), examples=held) as server,
        devices(server, 3) as made,
    ):
        await first_task(made)
        for value, each in zip((1.0, 2.0, 6.0), made, strict=True):
            status, _ = await each.send(body=each.update(value), examples=held[each.client])
            assert status == 200
        work = await made[0].work(after=1)
        assert work is not None
        flat = decode(work.body, n_values=server.n_values)
        np.testing.assert_allclose(flat, (10 * 1 + 20 * 2 + 10 * 6) / 40, rtol=1e-6)


async def test_what_an_update_says_of_examples_and_steps_moves_no_weight(tmp_path: Path) -> None:
    """Nor what its client's registration said: the cloud pod deals the examples out itself."""
    planner, nova = FakePlanner(rounds=2), with_normalised_steps(fedavg(), momentum=0.0)
    held = dict.fromkeys(("d-0", "d-1", "d-2"), 7)
    async with (
        cloud(tmp_path, planner, strategy=nova, examples=held) as server,
        devices(server, 3) as made,
    ):
        await first_task(made)
        assert {one.client: one.examples for one in planner.requests[0].clients} == held
        claims: list[dict[str, int]] = [{}, {}, {"examples": 2**31 - 1, "steps": 2**31 - 1}]
        for value, claim, each in zip((1.0, 2.0, 6.0), claims, made, strict=True):
            status, _ = await each.send(body=each.update(value), **claim)
            assert status == 200
        work = await made[0].work(after=1)
        assert work is not None
        flat = decode(work.body, n_values=server.n_values)
        np.testing.assert_allclose(flat, 3.0, rtol=1e-4)
        report = planner.requests[1].report
        assert report is not None
        told = {one.update.client: one.update for one in report.clients}
        assert {client: one.examples for client, one in told.items()} == held
        assert [told[client].steps for client in held] == [1, 1, 20], "never more than asked for"


async def test_a_closed_connection_counts_at_once(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        await first_task(made)
        await made[0].send()
        await made[1].send()
        made[2].close()
        work = await asyncio.wait_for(made[0].work(after=1), PATIENCE_S)
        assert work is not None
        report = server.planner.requests[1].report
        assert report is not None
        assert report.lost == ["d-2"]
        assert server.metric(series.SESSIONS_ENDED.queried) == 1
        assert server.metric(series.ROUNDS_WITHOUT_QUORUM.queried) == 1, "all were asked for"


async def test_a_returning_client_joins_the_next_round(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=3)) as server, devices(server, 3) as made:
        await first_task(made)
        made[2].close()
        back = Device(server, "d-2")
        await back.open()
        waiting = asyncio.ensure_future(back.work())
        await made[0].send()
        await made[1].send()
        work = await asyncio.wait_for(waiting, PATIENCE_S)
        back.close()
        assert work is not None
        assert work.task.round == 2


async def test_the_deadline_closes_a_round_with_the_quorum(tmp_path: Path) -> None:
    planner = FakePlanner(rounds=2, quorum=2, deadline_seconds=0.2)
    async with cloud(tmp_path, planner) as server, devices(server, 3) as made:
        await first_task(made)
        await made[0].send()
        await made[1].send()
        assert await asyncio.wait_for(made[0].work(after=1), PATIENCE_S) is not None
        status, answer = await made[2].send()
        assert (status, answer["reason"]) == (409, "wrong_round")
        assert server.metric(series.ROUNDS_WITHOUT_QUORUM.queried) == 0


async def test_the_round_goes_on_without_the_planner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lockstep_workers.cloud.job._PLAN_WITHIN_S", 0.3)
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        await first_task(made)
        server.planner.broken = True
        for each in made:
            await each.send()
        work = await asyncio.wait_for(made[0].work(after=1), PATIENCE_S)
        assert work is not None
        assert server.reception.round is not None
        assert not server.reception.round.plan.planned


async def test_a_round_that_everyone_left_is_repeated(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server:
        async with devices(server, 3) as made:
            await first_task(made)
        async with devices(server, 3) as made:
            await first_task(made)
            again = server.planner.requests[-1]
            assert again.round == 1
            assert [notice.reason for notice in again.notices] == [NoticeReason.ROUND_REPEATED]
            assert "got no update and is repeated: d-0: it" in again.notices[0].message
            assert server.metric(series.ROUNDS_WITHOUT_QUORUM.queried) == 1
            assert server.metric(series.SESSIONS_ENDED.queried) == 3


async def test_a_round_in_which_all_updates_were_refused_fails_the_job(tmp_path: Path) -> None:
    """In the end: the devices are handed the round again, and fail at it three times."""
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        for after in range(3):
            await tasks(made, after)
            assert not server.planner.outcome.done()
            for each in made:
                await each.send(body=each.update(NAN))
        outcome = await asyncio.wait_for(asyncio.shield(server.planner.outcome), PATIENCE_S)
        assert outcome.result == "Failed"
        assert outcome.message.startswith("round 1: all updates were refused: d-0: ")
        assert "non_finite" in outcome.message
        assert outcome.message.endswith("(tried 3 times)")
        told = [[n.message for n in request.notices] for request in server.planner.requests]
        assert [len(notices) for notices in told] == [0, 1, 1]
        for number, (text,) in enumerate(told[1:], 1):
            assert text.endswith(f"; it is repeated (try {number} of 3)")


async def test_a_round_whose_updates_were_refused_is_done_again_and_counts(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        for after in range(2):
            await tasks(made, after)
            for each in made:
                await each.send(body=each.update(NAN))
        await tasks(made, 2)
        for each in made:
            assert (await each.send(body=each.update(1.0)))[0] == 200
        await tasks(made, 3, of_round=2)
        for each in made:
            await each.send(2, body=each.update(NAN))
        await tasks(made, 4, of_round=2)
        assert not server.planner.outcome.done(), "the tries of each round are its own"


async def test_who_was_refused_is_in_the_round_again_when_the_others_left(tmp_path: Path) -> None:
    """It has had this round's task, and is handed it once more."""
    async with (
        cloud(tmp_path, FakePlanner(rounds=2), replicas=2) as server,
        devices(server, 2) as made,
    ):
        await tasks(made, 0)
        await made[0].send(body=made[0].update(NAN))
        made[1].close()
        back = Device(server, "d-1")
        await back.open()
        await tasks([made[0], back], 1)
        back.close()


async def test_when_the_job_is_over_everyone_is_told(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=1)) as server, devices(server, 3) as made:
        await first_task(made)
        waiting = asyncio.ensure_future(made[0].work(after=1))
        for each in made:
            await each.send()
        assert await asyncio.wait_for(waiting, PATIENCE_S) is None
        assert (await server.planner.outcome).result == "RoundsCompleted"


async def test_with_nobody_connected_the_job_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluating, go_on = threading.Event(), threading.Event()

    def evaluate(*_: object) -> Evaluation:
        evaluating.set()
        go_on.wait(PATIENCE_S)
        return Evaluation(0.5, 1.0)

    monkeypatch.setattr("lockstep_workers.learning.server.evaluate", evaluate)
    async with cloud(tmp_path, FakePlanner(rounds=2), replicas=1) as server:
        async with devices(server, 1) as made:
            await first_task(made)
            await made[0].send()
            await asyncio.to_thread(evaluating.wait, PATIENCE_S)
            server.reception._pulse.clear()
        await asyncio.wait_for(server.reception._pulse.wait(), PATIENCE_S)
        assert not server.reception.sessions
        go_on.set()
        async with devices(server, 1) as made:
            work = await asyncio.wait_for(made[0].work(after=1), PATIENCE_S)
            assert work is not None
            assert work.task.round == 2
            assert [c.client for c in server.planner.requests[1].clients] == ["d-0"]


@pytest.mark.parametrize("answer", [{"round": 9}, {"participants": []}])
async def test_an_answer_that_is_no_plan_for_this_round_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
) -> None:
    monkeypatch.setattr("lockstep_workers.cloud.job._PLAN_WITHIN_S", 0.3)
    planner = FakePlanner(rounds=2)
    async with cloud(tmp_path, planner) as server, devices(server, 3) as made:
        await first_task(made)
        right = planner.plan

        def wrong(request: Any) -> RoundPlan:
            return right(request).model_copy(update=answer)

        monkeypatch.setattr(planner, "plan", wrong)
        for each in made:
            await each.send()
        work = await asyncio.wait_for(made[0].work(after=1), PATIENCE_S)
        assert work is not None
        assert work.task.round == 2
        assert server.reception.round is not None
        assert not server.reception.round.plan.planned


async def test_a_newer_session_takes_over(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner()) as server, devices(server, 3) as made:
        await first_task(made)
        again = Device(server, "d-0")
        await again.open(key=made[0].key)
        end = await asyncio.to_thread(device.session_end, made[0].session)
        assert end == {"replaced": "d-0"}
        assert server.reception.round is not None
        assert server.reception.round.lost == {"d-0": "it started anew"}
        assert server.metric(series.SESSIONS_ENDED.queried) == 1
        again.close()


async def test_work_without_a_session_is_refused(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner()) as server:
        for client, message in (("d-0", "d-0 has no session"), ("x-9", "no client x-9")):
            each = Device(server, client)
            with pytest.raises(NoSession, match=message):
                await each.work()
            each.close()


async def test_after_the_job_nobody_needs_a_session(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=1)) as server:
        async with devices(server, 3) as made:
            await first_task(made)
            for each in made:
                await each.send()
            end = await asyncio.to_thread(device.session_end, made[0].session)
            assert end == {"over": "RoundsCompleted"}
        late = Device(server, "d-0")
        assert await late.work() is None
        await late.open()
        end = await asyncio.to_thread(device.session_end, late.session)
        assert end == {"over": "RoundsCompleted"}
        late.close()
        assert server.metric(series.SESSIONS_ENDED.queried) == 0


async def test_a_client_outside_the_round_is_refused_and_costs_nothing(tmp_path: Path) -> None:
    planner = FakePlanner(rounds=2, choose=lambda _request: ["d-0", "d-1"])
    async with cloud(tmp_path, planner) as server, devices(server, 3) as made:
        await first_task(made[:2])
        status, answer = await made[2].send()
        assert (status, answer["reason"]) == (409, "not_in_round")
        assert server.reception.round is not None
        assert server.reception.round.waiting() == ["d-0", "d-1"]


async def test_a_body_of_unknown_length_is_not_read(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        await first_task(made)
        status, answer = await asyncio.to_thread(send_chunked, made[0])
        assert (status, answer["reason"]) == (413, "too_large")
        assert server.vectors.weight == 0


def send_chunked(each: Device) -> tuple[int, dict[str, Any]]:
    """An update without a content-length, sent at once: the answer comes before it is read."""
    host, _, port = each.cloud.url.removeprefix("http://").partition(":")
    head = (
        f"PUT {names.UPDATE_ROUTE.format(client=each.client, round=1)} HTTP/1.1\r\nhost: x\r\n"
        f"content-type: {names.TENSORS}\r\ntransfer-encoding: chunked\r\n"
        f"{names.REPORT_HEADER}: {each.report(1).to_json()}\r\n"
        f"{names.SESSION_HEADER}: {each.key}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(head.encode() + b"5\r\npiece\r\n0\r\n\r\n")
        response = http.client.HTTPResponse(sock)
        response.begin()
        return response.status, json.loads(response.read())


async def test_a_refused_update_loses_its_client_and_the_round_ends(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        await first_task(made)
        await made[0].send(body=made[0].update(NAN))
        for each in made[1:]:
            await each.send(body=each.update(2.0))
        work = await asyncio.wait_for(made[1].work(after=1), PATIENCE_S)
        assert work is not None
        flat = decode(work.body, n_values=server.n_values)
        np.testing.assert_array_equal(flat, np.full(server.n_values, 2.0, np.float32))
        report = server.planner.requests[1].report
        assert report is not None
        assert (report.lost, report.refused) == (["d-0"], {Refusal.NON_FINITE: 1})


NAN = float("nan")


def half_precision(n_values: int) -> bytearray:
    """A body of the right length that says it holds another dtype."""
    entry = {"dtype": "F16", "shape": [n_values], "data_offsets": [0, 4 * n_values]}
    text = json.dumps({"flat": entry}).encode()
    return bytearray(struct.pack("<Q", len(text)) + text + bytes(4 * n_values))


BAD: list[tuple[Refusal, int, dict[str, Any]]] = [
    (Refusal.CONTENT_TYPE, 415, {"content_type": "application/octet-stream"}),
    (Refusal.BAD_REPORT, 422, {"text": json.dumps({"client": "d-0"})}),
    (Refusal.WRONG_ROUND, 409, {"round_number": 7}),
    (Refusal.MALFORMED, 422, {"body": bytearray(b"\xff" * 100)}),
    (Refusal.SHAPE, 422, {"body": encode([np.zeros(3, np.float32)])}),
    (Refusal.DTYPE, 422, {"body": half_precision(101_770)}),
    (Refusal.MALFORMED, 422, {"body": bytearray()}),
    (Refusal.BAD_REPORT, 422, {"examples": 2**40}),
    (Refusal.NON_FINITE, 422, {"value": NAN}),
    (Refusal.NON_FINITE, 422, {"value": 3e38}),
    (Refusal.TOO_LARGE, 413, {"value": 0.0, "extra": 4096}),
]
ELSEWHERE = {
    Refusal.NO_SESSION,  # test_strangers: without its session's key
    Refusal.UNKNOWN_CLIENT,  # test_an_unknown_client_is_refused
    Refusal.NOT_IN_ROUND,  # test_a_client_outside_the_round_is_refused_and_costs_nothing
    Refusal.DUPLICATE,  # test_a_second_update_is_a_duplicate
    Refusal.TOO_SLOW,  # test_limits: a sender that falls silent
}


def test_every_reason_has_its_test() -> None:
    assert {reason for reason, _, _ in BAD} | ELSEWHERE == set(Refusal)


@pytest.mark.parametrize(("reason", "status", "change"), BAD)
async def test_a_bad_update_is_refused_and_nothing_is_added(
    tmp_path: Path, reason: Refusal, status: int, change: dict[str, Any]
) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        await first_task(made)
        change = dict(change)
        if "value" in change:
            body = made[0].update(change.pop("value")) + bytes(change.pop("extra", 0))
            change["body"] = body
        got, answer = await made[0].send(**change)
        assert (got, answer["reason"]) == (status, reason.value)
        assert server.refused(reason) == 1
        assert server.vectors.weight == 0
        assert server.reception.round is not None
        assert not server.reception.round.accepted


async def test_a_second_update_is_a_duplicate(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        await first_task(made)
        await made[0].send()
        status, answer = await made[0].send()
        assert (status, answer["reason"]) == (409, "duplicate")
        assert server.vectors.weight == 10


async def test_an_unknown_client_is_refused(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        await first_task(made)
        status, answer = await Device(server, "x-9").send()
        assert (status, answer["reason"]) == (404, "unknown_client")
        stranger = Device(server, "x-9")
        with pytest.raises(NotAdmitted, match="no client x-9"):
            await stranger.open()
        stranger.close()


async def test_slow_uploads_do_not_hold_up_a_fast_one(tmp_path: Path) -> None:
    """Nine devices stop in the middle of their body; the tenth is accepted all the same."""
    async with (
        cloud(tmp_path, FakePlanner(rounds=2), replicas=10) as server,
        devices(server, 10) as made,
    ):
        await first_task(made)
        slow = [await half_an_update(each) for each in made[:9]]
        status, _ = await asyncio.wait_for(made[9].send(), PATIENCE_S)
        assert status == 200
        assert server.reception.round is not None
        assert list(server.reception.round.accepted) == ["d-9"]
        for writer, rest in slow:
            writer.write(rest)
            await writer.drain()
        assert await asyncio.wait_for(made[9].work(after=1), PATIENCE_S) is not None
        report = server.planner.requests[1].report
        assert report is not None
        assert len(report.clients) == 10
        for writer, _ in slow:
            writer.close()
            await writer.wait_closed()


async def half_an_update(each: Device) -> tuple[asyncio.StreamWriter, bytes]:
    """Sends the head and half the body; returns the writer and the rest."""
    host, _, port = each.cloud.url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    body = bytes(each.update(1.0))
    head = (
        f"PUT {names.UPDATE_ROUTE.format(client=each.client, round=1)} HTTP/1.1\r\nhost: x\r\n"
        f"content-type: {names.TENSORS}\r\ncontent-length: {len(body)}\r\n"
        f"{names.REPORT_HEADER}: {each.report(1).to_json()}\r\n"
        f"{names.SESSION_HEADER}: {each.key}\r\n\r\n"
    )
    writer.write(head.encode() + body[: len(body) // 2])
    await writer.drain()
    return writer, body[len(body) // 2 :]
