"""What a caller of the planner may send: who it is comes first, then bytes within bounds."""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fastapi import Request

from lockstep_api.request_size import most_bytes
from lockstep_api.wire import PlanRequest
from lockstep_operator import bodies as bodies_module
from lockstep_operator.bodies import MOST_OF_A_JOB, Bodies
from lockstep_operator.core.model import JobKey, JobView
from lockstep_operator.errors import BodyTooLarge, TooManyCalls
from lockstep_operator.kube import job_ref
from lockstep_operator.observe import job_view
from lockstep_operator.routes import LINES_OF_ALL, LINES_OF_ONE, planner_app
from tests.support.kube import job_body
from tests.support.planner import (
    CERTIFICATE,
    DONE,
    OUTCOME,
    PLAN,
    POLICY,
    Setup,
    allocated,
    client,
    request,
)

BAD_ITEMS = b'{"round":1,"clients":[' + b"0," * (32 << 10) + b"0]}"


class Call:
    """A call whose body is given piece by piece, and what was read of it."""

    def __init__(self, *pieces: bytes, ends: bool = True) -> None:
        self._pieces, self._ends = list(pieces), ends
        self.read = 0
        self.status: int | None = None
        self.body = b""
        self.headers: dict[bytes, bytes] = {}

    async def receive(self) -> dict[str, Any]:
        if self.read == len(self._pieces):
            if not self._ends:
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}
        piece, self.read = self._pieces[self.read], self.read + 1
        more = self.read < len(self._pieces) or not self._ends
        return {"type": "http.request", "body": piece, "more_body": more}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        self.body += message.get("body", b"")

    @property
    def message(self) -> str:
        return str(json.loads(self.body)["message"])


async def call(
    setup: Setup,
    sent: Call,
    *,
    path: str = PLAN,
    token: str | None = "cloud",
    source: str = "10.0.0.9",
    bodies: Bodies | None = None,
    announced: int | None = None,
) -> Call:
    headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
    if announced is not None:
        headers.append((b"content-length", str(announced).encode()))
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
        "query_string": b"", "headers": headers, "root_path": "", "scheme": "http",
        "http_version": "1.1", "server": None, "client": (source, 1),
    }  # fmt: skip
    app = planner_app(setup.planner, bodies=bodies)
    await app(scope, sent.receive, sent.send)
    return sent


@pytest.mark.parametrize("path", [PLAN, OUTCOME, POLICY])
@pytest.mark.parametrize(
    ("token", "status"), [(None, 401), ("", 401), ("made-up", 401), ("device", 403)]
)
async def test_of_a_caller_that_is_not_the_jobs_no_byte_is_read(
    setup: Setup, path: str, token: str | None, status: int
) -> None:
    done = await call(setup, Call(BAD_ITEMS), path=path, token=token)
    assert (done.status, done.read) == (status, 0)
    assert done.headers[b"connection"] == b"close"


async def test_of_a_job_that_takes_no_rounds_no_byte_is_read(setup: Setup) -> None:
    allocated(setup)
    await setup.http.post(OUTCOME, json=DONE)
    done = await call(setup, Call(BAD_ITEMS))
    assert (done.status, done.read) == (409, 0)


@pytest.mark.parametrize("path", [PLAN, OUTCOME, CERTIFICATE])
async def test_of_a_job_without_a_place_no_byte_is_read(setup: Setup, path: str) -> None:
    """Its author gives it as many clients as he likes, and with them the bytes of a call."""
    huge = [{"name": f"g{i}", "replicas": 10_000} for i in range(64)]
    job = job_body(devices=huge)
    job["metadata"]["uid"] = setup.uid
    setup.kube.put(job)
    assert most_bytes(640_000) > 1_000_000_000
    done = await call(setup, Call(BAD_ITEMS), path=path)
    assert (done.status, done.read) == (503, 0)
    assert done.message == "job lab/digits has no place yet: try again"


async def test_of_a_job_that_has_ended_the_outcome_is_not_read_again(setup: Setup) -> None:
    allocated(setup)
    await setup.http.post(OUTCOME, json=DONE)
    done = await call(setup, Call(BAD_ITEMS), path=OUTCOME)
    assert (done.status, done.read) == (200, 0)


async def test_large_bodies_are_parsed_one_after_another(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsed, each is 16 times as large; a small one waits for none of them."""
    monkeypatch.setattr(bodies_module, "LARGE", 100)
    under_way, most, parse = [], [], bodies_module._parsed

    def counted(*args: Any, **named: Any) -> Any:
        under_way.append(args)
        most.append(len(under_way))
        time.sleep(0.05)  # another thread parses meanwhile, if it may
        under_way.pop()
        return parse(*args, **named)

    monkeypatch.setattr(bodies_module, "_parsed", counted)
    held, job = Bodies(), job_of(setup)
    large = json.dumps(request()).encode() + b" " * 100

    async def read(name: str) -> None:
        one = replace(job, uid=name, key=JobKey(name, "digits"))
        sent = Request({"type": "http", "headers": []}, Call(large).receive)
        await held.message(sent, one, kind=PlanRequest)

    await asyncio.gather(*map(read, "abcd"))
    assert most == [1] * 4


def job_of(setup: Setup) -> JobView:
    return job_view(setup.kube.objects[job_ref("lab", "digits")])


@pytest.mark.parametrize(
    "path",
    [
        PLAN.replace("lab", "lab\n2026-11-28 ERROR a forged line"),
        PLAN.replace("digits", "\x1b[31mdigits"),
        PLAN.replace("digits", "d" * 300),
        PLAN.replace("lab", "Lab"),
    ],
)
async def test_what_is_no_name_of_a_job_reaches_neither_apiserver_nor_log(
    setup: Setup, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    done = await call(setup, Call(b"{}"), path=path)
    assert (done.status, done.read) == (404, 0)
    assert setup.kube.reviews == []
    assert [
        one for one in caplog.messages if "forged" in one or "\x1b" in one or "ddd" in one
    ] == []


async def test_bad_items_are_answered_in_a_few_words(setup: Setup) -> None:
    secret = "<script>"
    wrong = json.dumps({"round": 1, "clients": [{"client": secret}] * 1000, "notices": [secret]})
    done = await call(setup, Call(wrong.encode()))
    assert done.status == 422
    assert secret not in done.message
    assert len(done.body) < 400
    assert "clients.0.client" in done.message


@pytest.mark.parametrize(
    "refused", [{f"{'k' * 100}{i}": 1 for i in range(5)}, {"\x1b[31m" * 50: 1}, {"x y": -1}]
)
async def test_keys_that_only_the_sender_knows_are_not_repeated(
    setup: Setup, refused: dict[str, int]
) -> None:
    report = {"round": 1, "planned": True, "seconds": 1, "elapsedSeconds": 1, "clients": [],
              "energyJoules": {}, "refused": refused}  # fmt: skip
    done = await call(setup, Call(json.dumps({**request(), "report": report}).encode()))
    assert done.status == 422
    assert not any(key in done.message for key in refused)
    assert len(done.body) < 800


@pytest.mark.parametrize("announced", [None, most_bytes(2) + 1])
async def test_a_body_has_at_most_the_bytes_that_its_job_can_tell(
    setup: Setup, announced: int | None
) -> None:
    piece = b" " * (16 << 10)
    held, sent = Bodies(), Call(*[piece] * 1000)
    done = await call(setup, sent, bodies=held, announced=announced)
    assert done.status == 413
    assert str(most_bytes(2)) in done.message
    most = 0 if announced else most_bytes(2) // len(piece) + 1
    assert sent.read <= most
    assert not held._held
    assert not held._of_job


async def test_a_small_job_with_edges_has_a_small_body(setup: Setup) -> None:
    """Not that of a job with a thousand clusters and edges."""
    body = setup.kube.objects[job_ref("lab", "digits")]
    spec = body["spec"] | {"mode": "hierarchical", "edges": [{"name": "e"}]}
    setup.kube.put({**body, "spec": spec})
    job, held = job_of(setup), Bodies()
    sent = Call(*[b" " * (16 << 10)] * 1000)
    with pytest.raises(BodyTooLarge):
        await held.message(Request({"type": "http", "headers": []}, sent.receive), job,
                           kind=PlanRequest)  # fmt: skip
    assert sent.read < 45, "less than 720 KiB"


async def test_a_body_of_values_beyond_measure_is_not_parsed(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was parsed")

    with monkeypatch.context() as patched:
        patched.setattr(PlanRequest, "model_validate_json", never)
        done = await call(setup, Call(b'{"x":[' + b"0," * (150 << 10) + b"0]}"))
    assert done.status == 422
    assert "more values than a job of 2 clients" in done.message


async def test_messages_are_parsed_beside_the_event_loop(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    beside = asyncio.to_thread

    async def noted(function: Callable[..., Any], *args: Any, **more: Any) -> Any:
        asked.append(function)
        return await beside(function, *args, **more)

    monkeypatch.setattr(asyncio, "to_thread", noted)
    assert (await setup.http.post(PLAN, json=request())).status_code == 200
    assert bodies_module._parsed in asked


async def test_a_body_that_does_not_come_is_given_up(setup: Setup) -> None:
    held = Bodies(body_s=0.05)
    done = await call(setup, Call(b"{", ends=False), bodies=held)
    assert (done.status, done.headers[b"connection"]) == (408, b"close")
    assert not held._held
    assert not held._of_job


async def test_a_trickle_of_bytes_does_not_make_a_body_last(setup: Setup) -> None:
    """Each piece comes well within the time of the whole."""
    held, sent = Bodies(body_s=0.2), Call(*[b" "] * 100_000)
    receive = sent.receive

    async def slowly() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return await receive()

    sent.receive = slowly  # type: ignore[method-assign]
    done = await call(setup, sent, bodies=held)
    assert done.status == 408
    assert sent.read < 100


async def test_a_job_has_so_many_bodies_at_once_and_another_is_not_held_up(setup: Setup) -> None:
    held = Bodies()
    waiting = [
        asyncio.create_task(call(setup, Call(b"{", ends=False), bodies=held))
        for _ in range(MOST_OF_A_JOB)
    ]
    while held._of_job.total() < MOST_OF_A_JOB:  # noqa: ASYNC110  nobody tells of a body that is waited for
        await asyncio.sleep(0)
    done = await call(setup, Call(b"{}"), bodies=held)
    assert (done.status, done.read) == (429, 0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert not held._held
    body = json.dumps(request()).encode()
    assert (await call(setup, Call(body), bodies=held)).status == 200


async def test_bodies_of_all_jobs_together_have_their_bytes(setup: Setup) -> None:
    held = Bodies(most_held=1000)
    done = await call(setup, Call(b" " * 400, b" " * 400), bodies=held)
    assert done.status == 429
    assert not held._held
    announced = await call(setup, Call(b" " * 400), bodies=held, announced=800)
    assert (announced.status, announced.read) == (429, 0)


async def test_no_namespace_has_all_the_bytes_of_bodies(setup: Setup) -> None:
    """A few small jobs may announce megabytes each, and have them come by drops."""
    held, job = Bodies(most_held=1 << 20), job_of(setup)

    async def read(namespace: str, sent: Call) -> None:
        one = replace(job, uid=namespace, key=JobKey(namespace, "digits"))
        await held.message(Request({"type": "http", "headers": []}, sent.receive), one,
                           kind=PlanRequest)  # fmt: skip

    piece = b" " * (16 << 10)
    slow = [Call(*[piece] * 10, ends=False) for _ in range(10)]
    waiting = [
        asyncio.create_task(read("ab"[number % 2], sent)) for number, sent in enumerate(slow)
    ]
    while any(one.read < 10 for one, task in zip(slow, waiting, strict=True) if not task.done()):  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert held._held["a"].size + held._held["b"].size > 600_000
    await read("c", Call(json.dumps(request()).encode() + b" " * 50_000))
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert not held._held


async def test_bodies_of_one_namespace_are_small_together_and_one_may_be_large(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many jobs it has: each may announce some hundred kilobytes in three calls."""
    monkeypatch.setattr(bodies_module, "MOST_TOGETHER", 100_000)
    held, job = Bodies(), job_of(setup)
    body = json.dumps(request()).encode()

    async def read(number: int, sent: Call) -> None:
        one = replace(job, uid=f"u{number}", key=JobKey("a", f"j{number}"))
        await held.message(Request({"type": "http", "headers": []}, sent.receive), one,
                           kind=PlanRequest)  # fmt: skip

    slow = [Call(*[b" " * 10_000] * 4, ends=False) for _ in range(12)]
    waiting = [asyncio.create_task(read(number, sent)) for number, sent in enumerate(slow[:2])]
    while any(one.read < 4 for one in slow[:2]):  # noqa: ASYNC110
        await asyncio.sleep(0)
    await read(20, Call(body, b" " * 120_000))
    waiting += [asyncio.create_task(read(number, slow[number])) for number in range(2, 12)]
    while any(one.read < 4 for one, task in zip(slow, waiting, strict=True) if not task.done()):  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert held._size == held._held["a"].size <= 100_000 + 40_000
    assert [task.done() for task in waiting].count(False) >= 2
    for task in waiting:
        task.cancel()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(one) for one in ended} == {asyncio.CancelledError, TooManyCalls}
    assert not held._held
    assert held._size == 0


async def test_a_flood_of_refused_calls_is_a_few_lines_that_count_the_rest(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    app = planner_app(setup.planner, clock=lambda: 0.0)

    async def refused(source: str) -> None:
        sent = Call()
        scope: dict[str, Any] = {
            "type": "http", "method": "POST", "path": PLAN, "raw_path": PLAN.encode(),
            "query_string": b"", "headers": [], "root_path": "", "scheme": "http",
            "http_version": "1.1", "server": None, "client": (source, 1),
        }  # fmt: skip
        await app(scope, sent.receive, sent.send)
        assert sent.status == 401

    for _ in range(500):
        await refused("10.0.0.1")
    lines = [one for one in caplog.messages if "401" in one]
    assert len(lines) == LINES_OF_ONE.burst
    await refused("10.0.0.2")
    assert f"({500 - len(lines)} more were refused)" in caplog.messages[-1]
    for number in range(500):
        await refused(f"10.0.1.{number}")
    assert len(caplog.messages) <= LINES_OF_ALL.burst


async def test_an_outcome_that_status_cannot_hold_is_refused(setup: Setup) -> None:
    for change in ({"round": 10**30}, {"accuracy": 1e308}):
        report = {"round": 1, "planned": True, "seconds": 1, "elapsedSeconds": 1, "clients": [],
                  "energyJoules": {}, **change}  # fmt: skip
        body = json.dumps(DONE | {"report": report}).encode()
        done = await call(setup, Call(body), path=OUTCOME)
        assert done.status == 422
    assert (await setup.http.post(OUTCOME, json=DONE)).status_code == 200


async def test_without_the_check_of_callers_bodies_have_their_bounds_too(setup: Setup) -> None:
    open_to_all = replace(setup.planner, authenticator=None)
    async with client(open_to_all, token=None) as http:
        answer = await http.post(PLAN, content=b" " * (most_bytes(2) + 1))
    assert answer.status_code == 413
