"""The planner's reading of Prometheus, over HTTP: what it asks, and every way it can fail."""

import asyncio
import json
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from lockstep_api.series import labels
from lockstep_operator import telemetry
from lockstep_operator.core.model import JobKey
from lockstep_operator.errors import TelemetryError
from lockstep_operator.telemetry import BYTES_OF_A_CLIENT, MOST_BYTES, Prometheus, most_bytes
from tests.support.patience import PATIENCE_S

KEY = JobKey("lab", "digits")
NOW = 1000.0
Answer = Callable[[str], Awaitable[web.StreamResponse]]
Serve = Callable[..., Awaitable[Prometheus]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    started: list[tuple[TestServer, Prometheus]] = []

    async def start(
        answer: Answer, deadline_s: float = PATIENCE_S, asked: list[web.Request] | None = None
    ) -> Prometheus:
        async def handle(request: web.Request) -> web.StreamResponse:
            if asked is not None:
                asked.append(request)
            return await answer(parse_qs(await request.text())["query"][0])

        app = web.Application()
        app.router.add_post("/api/v1/query", handle)
        server = TestServer(app)
        await server.start_server()
        client = Prometheus(str(server.make_url("/")), deadline_s=deadline_s, clock=lambda: NOW)
        started.append((server, client))
        return client

    yield start
    for server, client in started:
        await client.close()
        await server.close()


def found(*result: object) -> web.Response:
    return web.json_response({"status": "success", "data": {"result": list(result)}})


def series(client: str, *values: tuple[float, float]) -> dict[str, object]:
    return {"metric": {"client": client}, "values": [[t, str(v)] for t, v in values]}


def value(client: str, number: float) -> dict[str, object]:
    return {"metric": {"client": client}, "value": [NOW, str(number)]}


async def test_it_asks_for_this_job_and_reads_every_series(
    serve: Serve,
) -> None:
    asked: list[str] = []

    async def answer(query: str) -> web.Response:
        asked.append(query)
        if "lockstep_link_mbits_total" in query:
            return found(series("a", (990, 0), (995, 20), (1000, 40)))
        if "lockstep_uplink_mbits" in query:
            return found(series("a", (990, 9)), series("b", (990, 3), (1000, 3)))
        if "upload_bytes" in query:
            return found(value("a", 5.0), value("b", float("nan")))
        assert "cpu_seconds" in query, "a series that nobody reads"
        return found(value("a", 0.25))

    seen = await (await serve(answer)).insight(KEY, clients=9)
    assert all('namespace="lab",job="digits"' in query for query in asked)
    assert len(asked) == 4
    assert seen["a"].slots_mbps is not None
    assert seen["a"].slots_mbps[0] == pytest.approx(4.0)  # the counter, not the gauge
    assert (seen["a"].mean_mbps, seen["a"].work_per_step) == (5.0, 0.25)
    assert seen["b"].slots_mbps is not None
    assert seen["b"].slots_mbps[0] == pytest.approx(3.0)
    assert seen["b"].mean_mbps is None


async def test_numbers_that_no_device_can_have_are_told_and_the_others_are_read(
    serve: Serve,
) -> None:
    usual = [(990, 0.0), (995, 20.0), (1000, 40.0)]

    async def answer(query: str) -> web.Response:
        if "lockstep_link_mbits_total" in query:
            bad = (math.inf, math.nan, -1.0, 1e305)
            return found(
                series("good", *usual),
                *(series(f"bad{i}", *usual[:2], (1000, one)) for i, one in enumerate(bad)),
                series("fast", (999.9, 0.0), (1000, 1e9)),
                {"metric": {}, "values": [[1000, "1"]]},
                {"metric": {"client": "nothing"}, "values": []},
            )
        if "lockstep_uplink_mbits" in query:
            return found(series("bad0", (1000, math.inf)))
        return found({"metric": {}, "value": [NOW, "5"]}, value("good", 5.0))

    seen = await (await serve(answer)).insight(KEY, clients=9)
    assert seen["good"].slots_mbps is not None
    assert (seen["good"].mean_mbps, seen["good"].doubted) == (5.0, None)
    assert seen["bad0"].doubted == (
        "lockstep_link_mbits_total (inf)", "lockstep_uplink_mbits_per_second (inf)",
    )  # fmt: skip
    for client in ("bad1", "bad2", "bad3", "fast"):
        assert seen[client].slots_mbps is None
        assert seen[client].doubted is not None
    assert set(seen) == {"good", "bad0", "bad1", "bad2", "bad3", "fast"}


async def test_series_that_a_page_multiplies_are_not_read_to_their_end(serve: Serve) -> None:
    """A page may have thousands, each with a label of its own: the job's devices have one each."""
    ended = asyncio.Event()
    line = json.dumps(series("a", *((990 + i / 10, i) for i in range(63)))).encode() + b","

    async def answer(query: str) -> web.StreamResponse:
        if "lockstep_link_mbits_total" not in query:
            return found()
        endless = web.StreamResponse()
        await endless.prepare(asked[-1])
        await endless.write(b'{"status": "success", "data": {"result": [')
        try:
            while True:
                await endless.write(line)
        finally:
            ended.set()

    asked: list[web.Request] = []
    client = await serve(answer, asked=asked)
    with pytest.raises(TelemetryError, match=f"more than {10 * BYTES_OF_A_CLIENT} bytes: pages of"):
        await client.insight(KEY, clients=9)
    await ended.wait()


def test_an_answer_has_room_for_each_device_in_bounds() -> None:
    """Names as long as they can be, and a sample a second, twice: a pod was replaced."""
    whole = (1732871377.123, 1234567.8901234567)
    one = series("c" * 63, *(63 * [whole]))
    one["metric"] = dict.fromkeys((*labels.OF_PODS, "instance", "__name__"), "n" * 63)
    assert 2 * len(json.dumps(one)) < BYTES_OF_A_CLIENT
    assert most_bytes(640_000) == MOST_BYTES


async def test_an_answer_is_read_beside_the_event_loop(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def seen(*args: Any, **named: Any) -> list[object]:
        threads.append(threading.get_ident())
        return []

    async def answer(query: str) -> web.Response:
        return found()

    monkeypatch.setattr(telemetry, "_read", seen)
    assert await (await serve(answer)).insight(KEY, clients=9) == {}
    assert len(threads) == 4
    assert threading.get_ident() not in threads


async def test_a_slow_one_is_given_up(
    serve: Serve,
) -> None:
    never = asyncio.Event()

    async def answer(query: str) -> web.Response:
        await never.wait()
        return found()

    client = await serve(answer, 0.3)
    with pytest.raises(TelemetryError, match=r"did not answer within 0\.3 s"):
        await client.insight(KEY, clients=9)
    never.set()


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("no json", 200, "Expecting value"),
        (json.dumps({"status": "error", "error": "query too long"}), 422, "query too long"),
        (json.dumps([1, 2]), 200, "200"),
        (json.dumps({"status": "success", "data": {"result": [{}]}}), 200, "cannot be read"),
        ("", 503, "Prometheus at"),
    ],
)
async def test_a_wrong_answer_is_a_clear_error(
    serve: Serve, body: str, status: int, message: str
) -> None:
    async def answer(query: str) -> web.Response:
        return web.Response(text=body, status=status)

    with pytest.raises(TelemetryError, match=message):
        await (await serve(answer)).insight(KEY, clients=9)


async def test_nobody_there_is_a_clear_error() -> None:
    client = Prometheus("http://127.0.0.1:9", deadline_s=2.0)
    with pytest.raises(TelemetryError, match=r"http://127\.0\.0\.1:9"):
        await client.insight(KEY, clients=9)
    await client.close()
