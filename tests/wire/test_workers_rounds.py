"""Rounds of a real cloud server on loopback, driven over real sockets by hand-made devices."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from lockstep_api import names
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import Refusal, Registration, UpdateReport
from lockstep_workers.cloud.bulk import BulkRoutes
from lockstep_workers.cloud.coordinator import Coordinator, Parts
from lockstep_workers.cloud.main import ordinary_app
from lockstep_workers.cloud.metrics import CloudMetrics
from lockstep_workers.cloud.planner import Planner
from lockstep_workers.cloud.store import Store
from lockstep_workers.data import Examples
from lockstep_workers.device import connection as device
from lockstep_workers.learning.strategies import fedavg
from lockstep_workers.models import build_model
from lockstep_workers.wire import decode, encode
from tests.wire.jobs import FakePlanner, free_port, serving, settings


@dataclass
class Cloud:
    """A cloud server under test and the URL of its job."""

    coordinator: Coordinator
    planner: FakePlanner
    metrics: CloudMetrics
    url: str

    @property
    def n_values(self) -> int:
        """Values of an update."""
        return self.coordinator.n_values

    def refused(self, reason: Refusal) -> float:
        """How often updates were refused for a reason."""
        labels = {"job": "job", "reason": reason.value}
        return self.metrics.registry.get_sample_value("lockstep_updates_refused_total", labels) or 0


@asynccontextmanager
async def cloud(folder: Path, planner: FakePlanner, *, replicas: int = 3) -> AsyncIterator[Cloud]:
    """A running cloud pod in this process, over real sockets."""
    job = settings(cloud_port=free_port(), planner_port=free_port(), replicas=replicas)
    rng = np.random.default_rng(0)
    test = Examples(rng.integers(0, 256, (50, 28, 28), np.uint8), rng.integers(0, 10, 50))
    metrics = CloudMetrics(job.job)
    async with httpx2.AsyncClient() as http:
        coordinator = Coordinator(
            Parts(
                job=job, strategy=fedavg(), module=build_model(job.model, seed=0),
                test=test, planner=Planner(job, folder / "token", http),
                store=Store(folder, job.uid), metrics=metrics,
            )
        )  # fmt: skip
        app = BulkRoutes(coordinator, ordinary_app(metrics))
        port, planner_port = (int(u.rpartition(":")[2]) for u in (job.cloud_url, job.planner_url))
        async with serving(planner.app(), planner_port), serving(app, port):
            running = asyncio.ensure_future(coordinator.run())
            try:
                yield Cloud(coordinator, planner, metrics, job.cloud_url)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)


class Device:
    """A device made by hand, from the calls of the real one."""

    def __init__(self, cloud: Cloud, client: str) -> None:
        """Connects lazily."""
        self.cloud, self.client = cloud, client
        self._open: list[Any] = []

    async def connect(self) -> Any:
        """A new connection to the cloud pod."""
        connection = await asyncio.to_thread(device.connect, self.cloud.url)
        self._open.append(connection)
        return connection

    async def open(self) -> Any:
        """Opens the session; returns its connection."""
        connection = await self.connect()
        registration = Registration(client=self.client, incarnation="1", examples=10)
        response = await asyncio.to_thread(device.open_session, connection, registration)
        self._open.append(response)
        return connection

    async def work(self, after: int = 0) -> device.Work | None:
        """Waits for work."""
        connection = await self.connect()
        return await asyncio.to_thread(device.get_work, connection, self.client, after)

    async def send(
        self, round_number: int = 1, body: bytearray | None = None, **report: Any
    ) -> tuple[int, dict[str, Any]]:
        """Sends an update; (status, answer)."""
        async with httpx2.AsyncClient() as http:
            path = names.UPDATE_ROUTE.format(client=self.client, round=round_number)
            headers = {
                "content-type": report.pop("content_type", names.TENSORS),
                names.REPORT_HEADER: report.pop("text", None)
                or self.report(round_number, **report).to_json(),
            }
            content = bytes(self.update(0.0) if body is None else body)
            answer = await http.put(self.cloud.url + path, content=content, headers=headers)
            return answer.status_code, answer.json()

    def update(self, value: float) -> bytearray:
        """An update with all values alike."""
        return encode([np.full(self.cloud.n_values, value, np.float32)])

    def report(self, round_number: int, **more: Any) -> UpdateReport:
        """A report that is in order."""
        fields: dict[str, Any] = {
            "client": self.client, "round": round_number, "examples": 10, "steps": 1,
            "train_loss": 1.0, "download_seconds": 0, "compute_seconds": 0, "cpu_seconds": 0,
            "throttled_seconds": 0, "frequency_ghz": 1.0, "energy_joules": EnergyJoules(model=1.0),
        }  # fmt: skip
        return UpdateReport(**(fields | more))

    def close(self) -> None:
        """Closes every connection."""
        for each in reversed(self._open):
            each.close()


@asynccontextmanager
async def devices(cloud: Cloud, count: int) -> AsyncIterator[list[Device]]:
    """Connected devices d-0, d-1, …"""
    made = [Device(cloud, f"d-{i}") for i in range(count)]
    try:
        for each in made:
            await each.open()
        yield made
    finally:
        for each in made:
            each.close()


async def first_task(made: list[Device]) -> None:
    """Waits until round 1 has reached all."""
    for work in await asyncio.gather(*(d.work() for d in made)):
        assert work is not None
        assert work.task.round == 1


async def test_the_model_is_the_weighted_mean(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        await first_task(made)
        for value, examples, each in zip((1.0, 2.0, 6.0), (10, 20, 10), made, strict=True):
            status, _ = await each.send(body=each.update(value), examples=examples)
            assert status == 200
        work = await made[0].work(after=1)
        assert work is not None
        flat = decode(work.body, n_values=server.n_values)
        np.testing.assert_allclose(flat, (10 * 1 + 20 * 2 + 10 * 6) / 40, rtol=1e-6)


async def test_a_closed_connection_counts_at_once(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        await first_task(made)
        await made[0].send()
        await made[1].send()
        made[2].close()
        work = await asyncio.wait_for(made[0].work(after=1), 10)
        assert work is not None
        report = server.planner.requests[1].report
        assert report is not None
        assert report.lost == ["d-2"]


async def test_a_returning_client_joins_the_next_round(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=3)) as server, devices(server, 3) as made:
        await first_task(made)
        made[2].close()
        back = Device(server, "d-2")
        await back.open()
        waiting = asyncio.ensure_future(back.work())
        await made[0].send()
        await made[1].send()
        work = await asyncio.wait_for(waiting, 10)
        back.close()
        assert work is not None
        assert work.task.round == 2


async def test_the_deadline_closes_a_round_with_the_quorum(tmp_path: Path) -> None:
    planner = FakePlanner(rounds=2, quorum=2, deadline_seconds=0.2)
    async with cloud(tmp_path, planner) as server, devices(server, 3) as made:
        await first_task(made)
        await made[0].send()
        await made[1].send()
        assert await asyncio.wait_for(made[0].work(after=1), 10) is not None
        status, answer = await made[2].send()
        assert (status, answer["reason"]) == (409, "wrong_round")


async def test_the_round_goes_on_without_the_planner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lockstep_workers.cloud.coordinator._PLAN_WITHIN_S", 0.3)
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        await first_task(made)
        server.planner.broken = True
        for each in made:
            await each.send()
        work = await asyncio.wait_for(made[0].work(after=1), 10)
        assert work is not None
        assert server.coordinator.round is not None
        assert not server.coordinator.round.plan.planned


async def test_a_round_without_any_update_fails_the_job(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        await first_task(made)
        for each in made:
            each.close()
        outcome = await asyncio.wait_for(asyncio.shield(server.planner.outcome), 10)
        assert outcome.result == "Failed"
        assert "round 1 got no update" in outcome.message
        assert "d-0: its connection closed" in outcome.message


async def test_when_the_job_is_over_everyone_is_told(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=1)) as server, devices(server, 3) as made:
        await first_task(made)
        waiting = asyncio.ensure_future(made[0].work(after=1))
        for each in made:
            await each.send()
        assert await asyncio.wait_for(waiting, 10) is None
        assert (await server.planner.outcome).result == "RoundsCompleted"


NAN = float("nan")


@pytest.mark.parametrize(
    ("reason", "status", "change"),
    [
        (Refusal.CONTENT_TYPE, 415, {"content_type": "application/octet-stream"}),
        (Refusal.BAD_REPORT, 422, {"text": json.dumps({"client": "d-0"})}),
        (Refusal.WRONG_ROUND, 409, {"round_number": 7}),
        (Refusal.MALFORMED, 422, {"body": bytearray(b"\xff" * 100)}),
        (Refusal.SHAPE, 422, {"body": encode([np.zeros(3, np.float32)])}),
        (Refusal.NON_FINITE, 422, {"value": NAN}),
        (Refusal.TOO_LARGE, 413, {"value": 0.0, "extra": 4096}),
    ],
)
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
        assert server.coordinator._sum.weight == 0
        assert server.coordinator.round is not None
        assert not server.coordinator.round.accepted


async def test_a_second_update_is_a_duplicate(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        await first_task(made)
        await made[0].send()
        status, answer = await made[0].send()
        assert (status, answer["reason"]) == (409, "duplicate")
        assert server.coordinator._sum.weight == 10


async def test_an_unknown_client_is_refused(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=2)) as server, devices(server, 3) as made:
        await first_task(made)
        status, answer = await Device(server, "x-9").send()
        assert (status, answer["reason"]) == (404, "unknown_client")
        stranger = Device(server, "x-9")
        with pytest.raises(device.Forbidden, match="no client x-9"):
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
        status, _ = await asyncio.wait_for(made[9].send(), 10)
        assert status == 200
        assert server.coordinator.round is not None
        assert list(server.coordinator.round.accepted) == ["d-9"]
        for writer, rest in slow:
            writer.write(rest)
            await writer.drain()
        assert await asyncio.wait_for(made[9].work(after=1), 10) is not None
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
        f"{names.REPORT_HEADER}: {each.report(1).to_json()}\r\n\r\n"
    )
    writer.write(head.encode() + body[: len(body) // 2])
    await writer.drain()
    return writer, body[len(body) // 2 :]
