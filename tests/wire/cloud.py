"""A real cloud server on loopback, and devices made by hand that talk to it over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from torch import nn

from lockstep_api import names
from lockstep_api.sessions import Refusal, Registration
from lockstep_api.settings import JobSettings
from lockstep_api.spec import CheckpointSpec, Mode, Participation, Privacy
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import UpdateReport
from lockstep_workers.cloud.job import Job
from lockstep_workers.cloud.journal import Journal
from lockstep_workers.cloud.main import routes_of
from lockstep_workers.cloud.metrics import CloudMetrics
from lockstep_workers.cloud.parts import Parts
from lockstep_workers.cloud.server import Server
from lockstep_workers.cloud.signing_keys import SigningKeys
from lockstep_workers.cloud.split_server import SplitServer
from lockstep_workers.cloud.store import Store
from lockstep_workers.data import Examples
from lockstep_workers.device import connection as device
from lockstep_workers.hosting.front import server_config
from lockstep_workers.hosting.reception import Reception
from lockstep_workers.learning.constants import pack
from lockstep_workers.learning.privacy import noise_of
from lockstep_workers.learning.safeguards import NO_SAFEGUARDS, Safeguards
from lockstep_workers.learning.strategies import strategy_of
from lockstep_workers.learning.strategy import Strategy
from lockstep_workers.models import build_model
from lockstep_workers.planner_client import PlannerClient
from lockstep_workers.tensors import encode
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.wire.jobs import FakePlanner, serving, settings


@dataclass
class Cloud:
    """A cloud server under test and the URL of its job."""

    folder: Path
    job: JobSettings
    rounds: Job
    planner: FakePlanner
    metrics: CloudMetrics
    url: str
    running: "asyncio.Future[None]"
    """The job; ends with it."""

    def polls(self) -> list[str]:
        """Clients that wait for work."""
        return [client for client, one in self.reception.sessions.items() if one.is_waiting()]

    @property
    def n_values(self) -> int:
        """Values of an update."""
        return self.vectors.n_values

    @property
    def vectors(self) -> Server | SplitServer:
        """The vectors of the job."""
        return self.rounds.server

    @property
    def reception(self) -> Reception:
        """Who is there, and the open round."""
        return self.rounds.reception

    def metric(self, name: str, **labels: str) -> float | None:
        """A series of the cloud pod."""
        return self.metrics.registry.get_sample_value(name, {"job": "job"} | labels)

    def refused(self, reason: Refusal) -> float:
        """How often updates were refused for a reason."""
        labels = {"job": "job", "reason": reason.value}
        return self.metrics.registry.get_sample_value("lockstep_updates_refused_total", labels) or 0


def report(client: str, round_number: int, **more: Any) -> UpdateReport:
    """A report that is in order, but for what `more` says: no model checks it."""
    fields: dict[str, Any] = {
        "client": client, "round": round_number, "examples": 10, "steps": 1, "train_loss": 1.0,
        "download_seconds": 0, "compute_seconds": 0, "cpu_seconds": 0, "throttled_seconds": 0,
        "frequency_ghz": 1.0, "energy_joules": EnergyJoules(model=1.0),
    }  # fmt: skip
    return UpdateReport.model_construct(**(fields | more))


@asynccontextmanager
async def cloud(
    folder: Path,
    planner: FakePlanner,
    *,
    replicas: int = 3,
    strategy: Strategy | None = None,
    every_rounds: int = 1,
    participation: dict[str, Any] | None = None,
    module: nn.Module | None = None,
    edge_urls: dict[str, str] | None = None,
    examples: dict[str, int] | None = None,
    keys: SigningKeys | None = None,
    safeguards: Safeguards = NO_SAFEGUARDS,
    privacy: Privacy | None = None,
    idle_watts: float = 1e15,
    **training: Any,
) -> AsyncIterator[Cloud]:
    """A running cloud pod in this process, over real sockets; a client has ten examples when
    `examples` does not name it. With keys it checks tokens. Devices made by hand tell energy that
    only `idle_watts` explain."""
    job = settings(cloud_port=free_port(), planner_port=free_port(), replicas=replicas, **training)
    job = job.model_copy(
        update={
            "checkpoint": CheckpointSpec(every_rounds=every_rounds),
            "participation": Participation.model_validate(participation or {}),
            "privacy": privacy,
            "groups": (job.groups[0].model_copy(update={"idle_watts": idle_watts}),),
        }
    )
    if edge_urls:
        job = job.model_copy(update={"mode": Mode.HIERARCHICAL, "edge_urls": edge_urls})
    rng = np.random.default_rng(0)
    test = Examples(rng.integers(0, 256, (50, 1, 28, 28), np.uint8), rng.integers(0, 10, 50))
    metrics = CloudMetrics(job.job)
    made_of = module or build_model(job.model, seed=0)
    async with httpx2.AsyncClient() as http:
        client = PlannerClient(job, folder / "token", client=http)
        made = Job(
            Parts(
                job=job, strategy=strategy or strategy_of(job), module=made_of,
                examples=dict.fromkeys(job.clients(), 10) | (examples or {}),
                test=test, planner=client,
                journal=Journal(Store(folder, job.uid), metrics, every_rounds), metrics=metrics,
                constants=pack(made_of), safeguards=safeguards, noise=noise_of(job),
            )
        )  # fmt: skip
        whole = routes_of(made, job, planner=client, keys=keys)
        config = server_config(whole, replicas)
        port, planner_port = (int(u.rpartition(":")[2]) for u in (job.cloud_url, job.planner_url))
        async with serving(planner.app(), planner_port), serving(whole, port, config=config):
            running = asyncio.ensure_future(made.run())
            try:
                yield Cloud(folder, job, made, planner, metrics, job.cloud_url, running)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                await made.stop()


class Device:
    """A device made by hand, from the calls of the real one."""

    def __init__(self, cloud: Cloud, client: str, *, token: str = "") -> None:
        """Connects lazily; shows the token of its pod, if it has one."""
        self.cloud, self.client = cloud, client
        self.proof = {"authorization": f"Bearer {token}"} if token else {}
        self._open: list[Any] = []
        self.session: Any = None

    async def connect(self) -> Any:
        """A new connection to the cloud pod."""
        connection = await asyncio.to_thread(device.connect, self.cloud.url)
        self._open.append(connection)
        return connection

    @property
    def key(self) -> str:
        """The key of its session; empty: it has none."""
        return "" if self.session is None else str(self.session.key)

    async def open(self, *, key: str = "") -> Any:
        """Opens the session, with the key of the one before; returns its connection."""
        connection = await self.connect()
        registration = Registration(client=self.client, incarnation="1", examples=10)
        self.session = await asyncio.to_thread(
            device.open_session, connection, registration, key=key, proof=self.proof
        )
        self._open.append(self.session)
        return connection

    async def work(self, after: int = 0) -> device.Work | None:
        """Waits for work."""
        connection = await self.connect()
        return await asyncio.to_thread(
            device.get_work, connection, self.client, key=self.key, after=after
        )

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
                names.SESSION_HEADER: self.key.encode(),
            }
            content = bytes(self.update(0.0) if body is None else body)
            answer = await http.put(self.cloud.url + path, content=content, headers=headers)
            return answer.status_code, answer.json()

    def update(self, value: float) -> bytearray:
        """An update with all values alike."""
        return encode([np.full(self.cloud.n_values, value, np.float32)])

    def report(self, round_number: int, **more: Any) -> UpdateReport:
        """A report that is in order, but for what `more` says: no model checks it."""
        return report(self.client, round_number, **more)

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


async def tasks(made: list[Device], after: int, *, of_round: int = 1) -> list[device.Work]:
    """Waits until the task after a turn has reached all."""
    waiting = (each.work(after=after) for each in made)
    works = await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE_S)
    assert [(w.task.round, w.task.turn) for w in works if w] == [(of_round, after + 1)] * len(made)
    return [work for work in works if work is not None]
