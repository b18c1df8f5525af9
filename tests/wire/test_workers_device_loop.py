"""A device's own loop and session against a real cloud server on loopback, without training."""

import asyncio
import contextlib
import http.client
import itertools
import socket
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lockstep_api.budget import MOST_STEPS
from lockstep_api.sessions import Registration, SessionOpened
from lockstep_api.spec import Actuator
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import PlanRequest, RoundPlan, Task, UpdateReport
from lockstep_workers.device import loop as device_loop
from lockstep_workers.device import spending
from lockstep_workers.device.connection import Answer, Work, connect, get_work, send_update
from lockstep_workers.device.loop import DeviceLoop
from lockstep_workers.device.metrics import DeviceMetrics
from lockstep_workers.device.parts import Parts, memory_file
from lockstep_workers.device.session import Opened, SessionKeeper
from lockstep_workers.device.spending import Spent
from lockstep_workers.errors import InvalidJob, NotAdmitted
from lockstep_workers.learning.client import Client, LocalTask, Trained
from lockstep_workers.learning.strategies import fedavg
from lockstep_workers.learning.strategy import NO_MEMORY, ClientMemory, Vector
from lockstep_workers.learning.training import Enough, Pace, Sgd
from lockstep_workers.trust import Untrusted
from tests.support.clients import SayingClient, examples, saying_client, small_model
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.wire.cloud import Cloud, cloud
from tests.wire.jobs import FakePlanner


def keeper(url: str, client: str = "d-0") -> SessionKeeper:
    """A session that is being opened."""
    made = SessionKeeper(url, Registration(client=client, incarnation="1", examples=10))
    made.start()
    return made


def parts(server: Cloud, client: Client) -> Parts:
    """The parts of a device, whose session is being opened."""
    return Parts(
        job=server.job, client=client, session=keeper(server.url),
        metrics=DeviceMetrics("job", client.name),
        memory=memory_file(server.job, client, folder=server.folder / "memory"),
    )  # fmt: skip


@asynccontextmanager
async def running(server: Cloud, client: Client) -> AsyncIterator[asyncio.Future[None]]:
    """A device at work in a thread; the future ends when the device sees the job's end."""
    yield asyncio.ensure_future(asyncio.to_thread(DeviceLoop(parts(server, client)).run))


async def test_a_device_works_until_the_job_is_over(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=3), replicas=1) as server:
        client = saying_client()
        async with running(server, client) as done:
            await asyncio.wait_for(done, PATIENCE_S)
        assert client.trained == [1, 2, 3]
        assert server.metric("lockstep_updates_accepted_total") == 3
        assert (await server.planner.outcome).result == "RoundsCompleted"


async def test_the_steps_that_were_done_are_reported_not_those_that_were_asked_for(
    tmp_path: Path,
) -> None:
    class Short(SayingClient):
        """Does fewer steps than it is asked to."""

        def train(self, *given: Any, **more: Any) -> Trained:
            return replace(super().train(*given, **more), steps=3)

    async with cloud(tmp_path, FakePlanner(rounds=1, steps=20), replicas=1) as server:
        async with running(server, saying_client(of=Short)) as done:
            await asyncio.wait_for(done, PATIENCE_S)
        report = (await server.planner.outcome).report
        assert report is not None
        assert [client.update.steps for client in report.clients] == [3]


async def test_a_device_whose_budget_is_used_up_sends_what_it_has_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that ticks at each look: one look a step, after that of the training's start."""
    ticks = itertools.count(1000)
    clock = SimpleNamespace(monotonic=lambda: next(ticks), process_time=time.process_time)
    monkeypatch.setattr(device_loop, "time", clock)
    planner = FakePlanner(rounds=3, steps=MOST_STEPS, budget_seconds=6.5)
    async with cloud(tmp_path, planner, replicas=1) as server:
        async with running(server, real_client()) as done:
            await asyncio.wait_for(done, PATIENCE_S)
        reports = [request.report for request in planner.requests[1:]]
        reports.append((await planner.outcome).report)
    assert [one.update.steps for report in reports if report for one in report.clients] == [7] * 3


async def test_a_budget_that_is_no_more_than_a_moment_has_room_for_one_step(
    tmp_path: Path,
) -> None:
    planner = FakePlanner(rounds=1, steps=MOST_STEPS, budget_seconds=1e-9)
    async with cloud(tmp_path, planner, replicas=1) as server:
        async with running(server, real_client()) as done:
            await asyncio.wait_for(done, PATIENCE_S)
        report = (await planner.outcome).report
    assert report is not None
    assert [one.update.steps for one in report.clients] == [1]


def real_client() -> Client:
    """One that trains."""
    return Client(
        name="d-0", index=0, examples=examples(), model=small_model(), strategy=fedavg(),
        sgd=Sgd(0.05, 0.0, 4), seed=0,
    )  # fmt: skip


async def test_an_update_outlives_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks before, then after the server took the update: it trains once each."""
    calls: list[int] = []

    def flaky(connection: http.client.HTTPConnection, report: UpdateReport, **sent: Any) -> Answer:
        calls.append(report.round)
        if calls == [1]:
            raise ConnectionResetError("before the update was sent")
        answer = send_update(connection, report, **sent)
        if calls == [1, 1, 2]:
            raise ConnectionResetError("before the answer arrived")
        return answer

    monkeypatch.setattr(device_loop, "send_update", flaky)
    async with cloud(tmp_path, FakePlanner(rounds=2), replicas=1) as server:
        client = saying_client()
        async with running(server, client) as done:
            await asyncio.wait_for(done, PATIENCE_S)
        assert client.trained == [1, 2]
        assert calls[:3] == [1, 1, 2]
        assert server.rounds.outcome is not None
        assert server.rounds.outcome.result == "RoundsCompleted"


async def test_energy_of_a_refused_update_is_told_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[EnergyJoules] = []
    refused = threading.Event()

    def refused_first(
        connection: http.client.HTTPConnection, report: UpdateReport, **sent: Any
    ) -> Answer:
        told.append(report.energy_joules)
        try:
            return send_update(connection, of_another_round(report), **sent)
        finally:
            refused.set()

    monkeypatch.setattr(device_loop, "send_update", refused_first)
    monkeypatch.setattr(
        spending, "energy", lambda *_args, **_more: EnergyJoules(model=2.0, cpu=1.0)
    )
    planner = FakePlanner(rounds=2, quorum=1, deadline_seconds=0.2)
    async with cloud(tmp_path, planner, replicas=2) as server:
        second = keeper(server.url, "d-1")
        async with running(server, saying_client()) as done:
            other = asyncio.ensure_future(
                asyncio.to_thread(one_update, server, second, once=refused)
            )
            await asyncio.wait_for(done, PATIENCE_S)
            await other
        assert [e.model for e in told] == [2.0, 4.0]
        assert [e.cpu for e in told] == [1.0, 2.0]
        # d-0 gave one that was taken, and so did d-1.
        assert server.metric("lockstep_updates_accepted_total") == 2


async def test_after_a_refused_update_the_next_connection_is_a_devices_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cloud pod closes the connection of an update that it refuses.

    The model after it is waited for without a read timeout, and the kernel watches the peer.
    """
    refused = threading.Event()

    def refused_first(
        connection: http.client.HTTPConnection, report: UpdateReport, **sent: Any
    ) -> Answer:
        try:
            return send_update(connection, of_another_round(report), **sent)
        finally:
            refused.set()

    waited: list[tuple[int, float | None, bool, bool]] = []

    def watched(connection: http.client.HTTPConnection, client: str, **more: Any) -> Work | None:
        work = get_work(connection, client, **more)
        if work is not None:
            sock = connection.sock
            nodelay = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            alive = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            waited.append((work.task.round, sock.gettimeout(), bool(nodelay), bool(alive)))
        return work

    monkeypatch.setattr(device_loop, "send_update", refused_first)
    monkeypatch.setattr(device_loop, "get_work", watched)
    planner = FakePlanner(rounds=2, quorum=1, deadline_seconds=0.2)
    async with cloud(tmp_path, planner, replicas=2) as server:
        second = keeper(server.url, "d-1")
        async with running(server, saying_client()) as done:
            other = asyncio.ensure_future(
                asyncio.to_thread(one_update, server, second, once=refused)
            )
            await asyncio.wait_for(done, PATIENCE_S)
            await other
    assert waited == [(1, None, True, True), (2, None, True, True)]


async def test_a_url_that_asks_for_tls_is_not_spoken_to_in_plain_http(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(), replicas=1) as server:
        with pytest.raises(Untrusted, match="no CA to know its server by"):
            connect(server.url.replace("http://", "https://"))
        url = server.url.replace("http://", "ftp://")
        with pytest.raises(InvalidJob, match="neither http:// nor https://"):
            connect(url)
        session = keeper(url)
        with pytest.raises(InvalidJob, match="https"):
            await asyncio.wait_for(asyncio.to_thread(session.wait_open), PATIENCE_S)


async def test_a_device_accounts_for_all_the_time_that_it_is_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that ticks at each look: training takes one tick, and so does each wait between.

    Before its first task a device is not part of a round: there only the download counts.
    """
    ticks = itertools.count(1000)
    clock = SimpleNamespace(monotonic=lambda: next(ticks), process_time=time.process_time)
    monkeypatch.setattr(device_loop, "time", clock)
    accounted: list[tuple[float, float]] = []
    uploads: list[bool] = []

    def record(
        _job: object, _group: object, *, used: Spent, idle_s: float, upload_s: float
    ) -> EnergyJoules:
        accounted.append((idle_s, used.compute_s))
        uploads.append(upload_s > 0)
        return EnergyJoules(model=1.0, cpu=0.0)

    monkeypatch.setattr(spending, "energy", record)
    async with cloud(tmp_path, FakePlanner(rounds=3), replicas=1) as server:
        device = parts(server, saying_client())
        metrics = device.metrics
        await asyncio.wait_for(asyncio.to_thread(DeviceLoop(device).run), PATIENCE_S)
    assert accounted[0][0] < PATIENCE_S  # the seconds of the first download, by the real clock
    assert accounted[0][1] == 1
    assert accounted[1:] == [(1, 1), (1, 1), (1, 0)]
    assert uploads == [False, True, True, True]
    labels = {"job": "job", "client": "d-0", "source": "model"}
    assert metrics.registry.get_sample_value("lockstep_energy_joules_total", labels) == 4


async def test_a_task_with_a_throttle_reaches_the_training(tmp_path: Path) -> None:
    """The plan says cooperative: the device is told its millicores, and holds the training up."""

    class Slowed(SayingClient):
        """Uses up CPU time before it lets itself be held up."""

        def train(
            self,
            received: Mapping[str, Vector],
            task: LocalTask,
            *,
            memory: ClientMemory = NO_MEMORY,
            pace: Pace | None = None,
            enough: Enough | None = None,
        ) -> Trained:
            assert pace is not None
            until = time.process_time() + 0.02
            while time.process_time() < until:
                pass
            assert isinstance(task, Task)
            assert task.throttle_cores() == 0.1
            pace()
            return super().train(received, task, memory=memory, pace=pace)

    class Cooperative(FakePlanner):
        """Leaves the limits to the devices."""

        def plan(self, request: PlanRequest) -> RoundPlan:
            plan = super().plan(request)
            told = {"actuator": Actuator.COOPERATIVE, "cpu_milli": 100}
            entries = [entry.model_copy(update=told) for entry in plan.participants]
            return plan.model_copy(update={"participants": entries})

    async with cloud(tmp_path, Cooperative(rounds=1), replicas=1) as server:
        async with running(server, saying_client(of=Slowed)) as done:
            await asyncio.wait_for(done, PATIENCE_S)
        last = server.rounds.outcome
        assert last is not None
        assert last.report is not None
        (report,) = (client.update for client in last.report.clients)
    assert report.cpu_seconds >= 0.02  # the server, in the same process, adds a little
    assert report.compute_seconds >= 0.9 * report.cpu_seconds / 0.1
    assert report.frequency_ghz <= 1.1 * 2.0 * 0.1 / 0.5


def of_another_round(report: UpdateReport) -> UpdateReport:
    """What is refused of round 1."""
    return report.model_copy(update={"round": 99}) if report.round == 1 else report


def one_update(server: Cloud, session: SessionKeeper, *, once: threading.Event) -> None:
    """d-1 gives the update of round 1 that closes it after its deadline, and nothing after it.

    Not before d-0 has given its own of that round.
    """
    opened = session.wait_open()
    assert opened is not None
    connection = connect(server.url)
    work = get_work(connection, "d-1", key=opened.key, after=0)
    assert work is not None
    assert once.wait(PATIENCE_S)
    report = UpdateReport(
        client="d-1", round=1, examples=10, steps=1, download_seconds=0, compute_seconds=0,
        cpu_seconds=0, throttled_seconds=0, frequency_ghz=1, energy_joules=EnergyJoules(),
    )  # fmt: skip
    assert send_update(connection, report, key=opened.key, body=work.body).accepted
    connection.close()


async def test_the_session_ends_with_the_job(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=1), replicas=1) as server:
        device = parts(server, saying_client())
        session = device.session
        await asyncio.wait_for(asyncio.to_thread(DeviceLoop(device).run), PATIENCE_S)
        over = asyncio.to_thread(session_over, session)
        await asyncio.wait_for(over, PATIENCE_S)
        assert session.is_open()  # ready, although there is nothing left to do


def session_over(session: SessionKeeper) -> None:
    """Waits until the session knows that the job is over."""
    with session._state:
        session._state.wait_for(lambda: session._over)
    assert session.wait_open() is None


OPENED = SessionOpened(key="k" * 43).to_json().encode() + b"\n"


async def test_a_device_waits_for_its_cloud_pod(tmp_path: Path) -> None:
    """The first connections are refused: nobody listens yet."""
    port = free_port()
    session = keeper(f"http://127.0.0.1:{port}")
    assert not session.is_open()
    opened = threading.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"}")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + OPENED)
        await asyncio.to_thread(opened.wait, 10)
        writer.write(b'{"over":"Failed"}\n')
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    first = await asyncio.wait_for(asyncio.to_thread(session.wait_open), PATIENCE_S)
    assert first == Opened(1, "k" * 43)
    opened.set()
    await asyncio.wait_for(asyncio.to_thread(session_over, session), PATIENCE_S)
    server.close()
    await server.wait_closed()


async def test_a_client_that_the_job_has_not_is_told_so(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(), replicas=1) as server:
        session = keeper(server.url, "x-9")
        with pytest.raises(NotAdmitted, match="no client x-9"):
            await asyncio.wait_for(asyncio.to_thread(session.wait_open), PATIENCE_S)
