"""A cluster of split training: an order, its pure play in one process, and an edge that runs it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn
from prometheus_client import CollectorRegistry

from lockstep_api.names import SPLIT_PROTOCOL
from lockstep_api.orders import ClusterOrder, MemberOrder
from lockstep_api.sessions import Refusal, key_at_edge
from lockstep_api.settings import JobSettings
from lockstep_api.spec import Mode, Model, Split, WireDtype
from lockstep_api.wire import ClientPlan, Task
from lockstep_workers.data import Dataset, load_dataset
from lockstep_workers.device import split_round
from lockstep_workers.device.cgroup import CpuCgroup
from lockstep_workers.device.link import Links
from lockstep_workers.device.metrics import DeviceMetrics
from lockstep_workers.device.parts import Parts, memory_file
from lockstep_workers.device.session import SessionKeeper
from lockstep_workers.device.spending import Account
from lockstep_workers.device.split_connection import UNPACED, SplitConnection, open_split
from lockstep_workers.device.split_round import SplitRounds
from lockstep_workers.edge.members import Members
from lockstep_workers.edge.running import ClusterOutcome
from lockstep_workers.edge.split_metrics import SplitMetrics
from lockstep_workers.edge.split_routes import SplitRoutes
from lockstep_workers.edge.split_work import Shop
from lockstep_workers.edge.splitting import SplitRunner
from lockstep_workers.hosting.asgi import no_such_route
from lockstep_workers.hosting.front import server_config
from lockstep_workers.learning.client import deal, sgd_of
from lockstep_workers.learning.cluster_training import (
    ClusterTrained,
    ClusterTraining,
    HalfVectors,
    Member,
)
from lockstep_workers.learning.front import FrontHalf, Matrix
from lockstep_workers.learning.halves import cut_shape, halves
from lockstep_workers.learning.parameters import flatten
from lockstep_workers.learning.pool import Pool, Reservoir
from lockstep_workers.learning.strategy import MODEL, Vector
from lockstep_workers.models import build_model
from tests.support.clients import client_of

CUT = "2"
"""After the hidden layer of the perceptron."""


def split_settings(job: JobSettings, **split: Any) -> JobSettings:
    """A job of small perceptrons in mode split, with an edge `e-0`."""
    return job.model_copy(
        update={
            "mode": Mode.SPLIT,
            "model": Model(name="mlp", args={"hidden": 8}),
            "split": Split(**split),
        }
    )


def key_of(client: str) -> str:
    """That of a client's session at the cloud pod."""
    return f"key-of-the-session-of-{client}"


def order_of(
    job: JobSettings,
    dataset: Dataset,
    *,
    steps: int,
    batch_size: int = 8,
    cut: str = CUT,
    **more: Any,
) -> ClusterOrder:
    """All clients of a job in one cluster of round 1."""
    example = dataset.train.inputs.shape[1:]
    model = flatten(build_model(job.model, seed=job.training.seed))
    plans = [
        ClientPlan(
            client=name, frequency_ghz=2.0, cpu_milli=500, steps=steps,
            batch_size=batch_size + 2 * index, applied=True,
        )
        for index, name in enumerate(job.clients())
    ]  # fmt: skip
    members = members_of(job, plans, dataset=dataset)
    return ClusterOrder(
        round=1, cluster="c0", turn=1, members=members, cut=cut, classes=dataset.classes,
        cut_shape=cut_shape(halves(model, cut).front, example), **more,
    )  # fmt: skip


def members_of(
    job: JobSettings, plans: Sequence[ClientPlan], *, dataset: Dataset
) -> list[MemberOrder]:
    """The clients of a cluster, as its edge is told of them."""
    held = deal(job, dataset.train)
    sizes = {name: len(part) for name, part in zip(job.clients(), held, strict=True)}
    return [
        MemberOrder(plan=plan, key=key_of(plan.client), examples=sizes[plan.client])
        for plan in plans
    ]


def start_of(job: JobSettings) -> Vector:
    """The model that round 1 begins with."""
    return flatten(build_model(job.model, seed=job.training.seed)).vector.numpy().copy()


def rounded(values: Matrix, wire: WireDtype) -> Matrix:
    """Values as they arrive."""
    if wire is WireDtype.FLOAT32:
        return values
    return torch.from_numpy(values).bfloat16().float().numpy()


def play_cluster(
    job: JobSettings, order: ClusterOrder, start: Vector, *, dataset: Dataset
) -> tuple[ClusterTrained, Pool | None]:
    """The pure parts alone, without connections and threads; also what goes on to the cloud."""
    split = job.split
    assert split is not None
    assert order.cut is not None
    parted = halves(flatten(build_model(job.model, seed=job.training.seed)), order.cut)
    training = ClusterTraining(
        parted,
        HalfVectors(start[: parted.n_front], start[parted.n_front :]),
        members=[Member(m.client, m.examples, m.plan.batch_size or 1) for m in order.members],
        cut_shape=order.cut_shape,
        sgd=sgd_of(job),
        seed=(job.training.seed, order.round, int(order.cluster[1:])),
        update=split.front_update,
    )
    keeps = split.front_update == "round"
    pool = reservoir_of(job, order)
    fronts = {}
    for member in order.members:
        client = client_of(job, member.client, dataset=dataset)
        fronts[member.client] = FrontHalf(
            parted.front, client.examples, seed=(client.seed, client.index), sgd=client.sgd,
            update=split.front_update,
        )  # fmt: skip
        fronts[member.client].use(start[: parted.n_front])
    names = list(fronts)
    for step in range(max(m.plan.steps for m in order.members)):
        for name, front in fronts.items():
            rows = training.rows(name)
            if not keeps:
                front.use(training.front)
            made, labels = front.forward(order.round, step, batch_size=rows.stop - rows.start)
            training.activations[rows] = rounded(made, split.wire_dtype)
            training.labels[rows] = labels
        gradients = training.step(names).gradients
        pool.add(step, training.batch(names))
        for name, front in fronts.items():
            told = front.backward(rounded(gradients[training.rows(name)], split.wire_dtype))
            if not keeps:
                training.add_front(name, told)
        if not keeps:
            training.finish_step(names)
    if keeps:
        for name, front in fronts.items():
            training.add_front(name, front.front)
        training.finish_round(names)
    return training.result(), pool.take()


def reservoir_of(job: JobSettings, order: ClusterOrder) -> Reservoir:
    """What keeps a cluster's examples for the cloud."""
    first = job.clients().index(order.members[0].client)
    return Reservoir(order.pool_samples, (job.training.seed, order.round, first))


@dataclass
class SplitEdge:
    """An edge without a cloud pod: its split route, and the runner of an order."""

    job: JobSettings
    port: int
    hold_s: float = 2.0
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    refused: list[Refusal] = field(default_factory=list)

    def __post_init__(self) -> None:
        """With the job's model."""
        self.members = Members(self.hold_s)
        self.compute = ThreadPoolExecutor(1)
        shop = Shop(
            edge="e-0",
            job=self.job,
            model=flatten(build_model(self.job.model, seed=self.job.training.seed)),
            compute=self.compute,
            metrics=SplitMetrics(self.registry, job="job", edge="e-0"),
            refused=self.refused.append,
        )
        self.routes = SplitRoutes(self.members, no_such_route, shop=shop, hold_s=self.hold_s)

    def runner(self, order: ClusterOrder, model: Vector) -> SplitRunner:
        """Takes an order."""
        made = self.routes.runner(order, {MODEL: model})
        self.members.know(
            {one.client: key_at_edge(one.key, "e-0") for one in order.members if one.key}
        )
        return made

    def config(self) -> uvicorn.Config:
        """How it is served."""
        upgrades = frozenset({SPLIT_PROTOCOL.encode()})
        return server_config(self.routes, 16, upgrades=upgrades)


class SplitDevice:
    """A device that has its task already."""

    def __init__(
        self,
        job: JobSettings,
        name: str,
        *,
        dataset: Dataset,
        folder: Path,
        links: Links = UNPACED,
        throttle_milli: int | None = None,
    ) -> None:
        """Nothing happens until `play`."""
        client = client_of(job, name, dataset=dataset)
        known: Any = None
        self.parts = Parts(
            job=job, client=client, session=SessionKeeper(job.cloud_url, known),
            metrics=DeviceMetrics("job", name),
            memory=memory_file(job, client, folder=folder), links=links,
        )  # fmt: skip
        self.throttle_milli = throttle_milli
        self.account = Account(job, job.group_of(name))
        self.rounds = SplitRounds(self.parts, self.account, cgroup=CpuCgroup())

    @property
    def name(self) -> str:
        """The client's."""
        return self.parts.client.name

    def play(self, order: ClusterOrder, *, until: Callable[[], bool] = lambda: True) -> bool:
        """Its part of an order, over as many connections as it needs while `until` says so."""
        plan = next(one.plan for one in order.members if one.client == self.name)
        task = Task(
            round=order.round, turn=order.turn, steps=plan.steps, edge="e-0",
            cluster=order.cluster, batch_size=plan.batch_size, cut=order.cut, frequency_ghz=2.0,
            throttle_milli=self.throttle_milli,
        )  # fmt: skip
        while not (done := self.rounds.play(task, key=key_of(self.name))) and until():
            pass
        return done


async def play_round(
    edge: SplitEdge, order: ClusterOrder, start: Vector, *, devices: list[SplitDevice]
) -> ClusterOutcome:
    """All of a cluster's round."""
    running = asyncio.ensure_future(edge.runner(order, start).run())
    over: list[ClusterOutcome] = []
    running.add_done_callback(lambda done: over.append(done.result()))
    await asyncio.gather(
        *(asyncio.to_thread(one.play, order, until=lambda: not over) for one in devices)
    )
    return await running


@asynccontextmanager
async def a_cluster(
    job: JobSettings, folder: Path
) -> AsyncIterator[tuple[Dataset, list[SplitDevice]]]:
    """The data set and the devices of a job, with one thread of torch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        dataset = load_dataset(job.data, folder / "datasets")
        made = [SplitDevice(job, name, dataset=dataset, folder=folder) for name in job.clients()]
        yield dataset, made
    finally:
        torch.set_num_threads(threads)


def same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    """Bit for bit."""
    return one.tobytes() == other.tobytes()


Look = Callable[[str, str], None]
"""Told of each call of a split connection before and after it; may wait, or break it."""


class Watched:
    """A device's split connection, of whose calls somebody is told."""

    def __init__(self, inner: SplitConnection, look: Look) -> None:
        """What `look` raises breaks the connection."""
        self._inner, self._look = inner, look

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *_error: object) -> None:
        self._inner.close()

    def __getattr__(self, name: str) -> Any:
        """The call of the connection."""
        call = getattr(self._inner, name)
        if not callable(call):
            return call

        def watched(*given: Any, **more: Any) -> Any:
            try:
                self._look("before", name)
                done = call(*given, **more)
                self._look("after", name)
            except ConnectionResetError:
                self._inner.close()
                raise
            return done

        return watched


def broken_once(when: str, name: str, *, after: int) -> Look:
    """Breaks once, at the call of this name that follows so many others of it."""
    left = [after]

    def look(at: str, called: str) -> None:
        if (at, called) == (when, name):
            left[0] -= 1
            if left[0] == -1:
                raise ConnectionResetError(f"broken {when} {name}")

    return look


@contextmanager
def watching(looks: Mapping[str, Look]) -> Iterator[None]:
    """Inside, the split connections of these clients are watched; `opened` is a call, too."""

    def opened(url: str, name: str, **more: Any) -> Any:
        made = open_split(url, name, **more)
        if name not in looks:
            return made
        looks[name]("after", "opened")
        return Watched(made, looks[name])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split_round, "open_split", opened)
        yield


@contextmanager
def breaking(client: str, look: Look) -> Iterator[None]:
    """Inside, the split connections of a client break as it says."""
    with watching({client: look}):
        yield
