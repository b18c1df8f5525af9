"""Edges of this process, as their role wires them, and devices made by hand that go to them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lockstep_api import names
from lockstep_api.sessions import Registration, key_at_edge
from lockstep_api.tiers import EdgeRegistration
from lockstep_api.wire import Task
from lockstep_workers.device import connection as device
from lockstep_workers.edge.averaging import Averaging
from lockstep_workers.edge.members import Members
from lockstep_workers.edge.metrics import EdgeMetrics
from lockstep_workers.edge.reception import EdgeReception
from lockstep_workers.edge.running import Running
from lockstep_workers.edge.upward import Upward, http_client
from lockstep_workers.hosting.bulk import BulkRoutes
from lockstep_workers.hosting.front import server_config
from lockstep_workers.learning.strategies import fedavg
from lockstep_workers.tensors import encode
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.wire.cloud import Cloud, Device, cloud, report
from tests.wire.jobs import FakePlanner, serving

HOLD_S = 0.5
"""How long these edges hold a request that waits for an order."""


@dataclass
class Edge:
    """An edge under test."""

    name: str
    url: str
    reception: EdgeReception
    members: Members
    metrics: EdgeMetrics
    keeping: "asyncio.Future[None]"

    def metric(self, name: str, **labels: str) -> float | None:
        """A series of the edge."""
        whole = {"job": "job", "edge": self.name} | labels
        return self.metrics.registry.get_sample_value(name, whole)


@dataclass
class Scene:
    """A cloud pod and its edges."""

    cloud: Cloud
    urls: dict[str, str]
    deterministic: bool
    edges: dict[str, Edge] = field(default_factory=dict)
    _stacks: dict[str, AsyncExitStack] = field(default_factory=dict)

    async def start(self, name: str) -> Edge:
        """An edge comes."""
        stack = AsyncExitStack()
        self._stacks[name] = stack
        made = edge(self.cloud, name, url=self.urls[name], exact=self.deterministic)
        self.edges[name] = await stack.enter_async_context(made)
        return self.edges[name]

    async def kill(self, name: str) -> None:
        """An edge goes, with all its connections."""
        await self._stacks.pop(name).aclose()
        del self.edges[name]

    async def close(self) -> None:
        """All go."""
        for name in list(self._stacks):
            await self.kill(name)


@asynccontextmanager
async def edge(server: Cloud, name: str, *, url: str, exact: bool) -> AsyncIterator[Edge]:
    """An edge of a cloud pod, over real sockets."""
    metrics, members = EdgeMetrics("job", name), Members(HOLD_S)
    reception = EdgeReception(server.job.clients(), members, metrics=metrics)
    app = BulkRoutes(reception)
    port = int(url.rpartition(":")[2])
    async with (
        http_client() as http,
        serving(app, port, config=server_config(app, len(server.job.clients()))),
    ):
        registration = EdgeRegistration(edge=name, incarnation="1")
        upward = Upward(server.url, registration, client=http)
        how = Averaging(
            edge=name, reception=reception, strategy=fedavg(), momentum=0.0, exact=exact,
            tell=upward.tell,
        )  # fmt: skip
        running = Running(name, how.runner, members=members, metrics=metrics)
        keeping = asyncio.ensure_future(upward.keep(running, dropped=reception.close_all))
        try:
            yield Edge(name, url, reception, members, metrics, keeping)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)


@asynccontextmanager
async def tiers(
    folder: Path,
    planner: FakePlanner,
    *,
    edges: int = 2,
    deterministic: bool = False,
    **more: Any,
) -> AsyncIterator[Scene]:
    """A running cloud pod with edges e-0, e-1, …"""
    urls = {f"e-{i}": f"http://127.0.0.1:{free_port()}" for i in range(edges)}
    async with cloud(
        folder, planner, edge_urls=urls, deterministic=deterministic, **more
    ) as server:
        scene = Scene(server, urls, deterministic)
        try:
            for name in urls:
                await scene.start(name)
            yield scene
        finally:
            await scene.close()


class Guest(Device):
    """A device that goes where it is sent."""

    def __init__(self, scene: Scene, client: str) -> None:
        """Connects lazily."""
        super().__init__(scene.cloud, client)
        self.scene = scene
        self.at: Any = None
        """Its session at an edge."""
        self.where = ""

    async def sent(self, after: int = 0) -> Task:
        """Waits for the cloud pod to say where to go."""
        work = await asyncio.wait_for(self.work(after=after), PATIENCE_S)
        assert work is not None
        assert work.body == b"", "the model is at the edge"
        assert work.task.edge is not None
        return work.task

    async def enter(self, edge: str, *, key: str | None = None) -> None:
        """Opens a session at an edge, with what it makes of the key of that at the cloud pod."""
        self.where = self.scene.urls[edge]
        connection = await self._connected()
        registration = Registration(client=self.client, incarnation="1", examples=10)
        shown = key_at_edge(self.key, edge) if key is None else key
        self.at = await asyncio.to_thread(device.open_session, connection, registration, key=shown)
        self._open.append(self.at)

    async def _connected(self) -> Any:
        connection = await asyncio.to_thread(device.connect, self.where)
        self._open.append(connection)
        return connection

    async def fetch(self, task: Task) -> device.Work:
        """Gets the model at the edge."""
        connection = await self._connected()
        work = await asyncio.to_thread(
            device.get_work, connection, self.client, key=self.at.key, after=task.turn - 1
        )
        assert work is not None
        assert (work.task.round, work.task.turn) == (task.round, task.turn)
        return work

    async def bring(self, task: Task, value: float, **more: Any) -> device.Answer:
        """Brings an update of this value to the edge."""
        connection = await self._connected()
        body = encode([np.full(self.cloud.n_values, value, np.float32)])
        told = report(self.client, task.round, **({"memory_round": None} | more))
        return await asyncio.to_thread(
            device.send_update, connection, told, key=self.at.key, body=body
        )

    async def play(self, value: float, after: int = 0) -> Task:
        """A whole round: to the edge, the model, an update, taken."""
        task = await self.sent(after)
        assert task.edge is not None
        await self.enter(task.edge)
        await self.fetch(task)
        answer = await self.bring(task, value)
        assert answer.accepted, answer.message
        return task


@asynccontextmanager
async def guests(scene: Scene, count: int) -> AsyncIterator[list[Guest]]:
    """Devices d-0, d-1, … with a session at the cloud pod."""
    made = [Guest(scene, f"d-{i}") for i in range(count)]
    try:
        for each in made:
            await each.open()
        yield made
    finally:
        for each in made:
            each.close()


def work_path(client: str, after: int = 0) -> str:
    """The long-poll of a device."""
    return f"{names.WORK_ROUTE.format(client=client)}?after={after}"
