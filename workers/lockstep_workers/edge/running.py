"""An edge's clusters: orders become runners, of each mode its own, and their outcomes are sent up.

Fed by `edge.upward` with what the cloud pod says; made by `edge.main`. An order is run until its
outcome has been sent, until the cloud pod drops it or orders the cluster anew, or until the session
with the cloud pod ends: then somebody else has the cluster.
Invariant: at most one run of a cluster, and all runs are of one round.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from lockstep_api.orders import ClusterNews, ClusterOrder, ClusterResult, EdgeWork
from lockstep_api.tiers import ClusterReport
from lockstep_workers.edge.members import Members
from lockstep_workers.edge.metrics import EdgeMetrics
from lockstep_workers.errors import JobFailed
from lockstep_workers.parcels import Tensor

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ClusterOutcome:
    """What came of an order."""

    result: ClusterResult
    tensors: Mapping[str, Tensor]
    """The sums, or the halves of the model and what goes on to the cloud pod."""

    def without_anything(self, why: str) -> "ClusterOutcome":
        """The same order's outcome when there is nothing in it, and why."""
        update = {"clients": [], "lost": {}, "rejected": [], "failure": why}
        return ClusterOutcome(self.result.model_copy(update=update), {})


class ClusterRunner(Protocol):
    """Runs a cluster's part of a round."""

    async def run(self) -> ClusterOutcome:
        """From the order to the outcome; cancelled when nobody waits for it any more."""

    def gone(self, clients: Mapping[str, str]) -> None:
        """These members will give nothing any more, and why."""

    def close(self) -> None:
        """The deadline has passed and the round's quorum is in: what is there will do."""


MakeRunner = Callable[[ClusterOrder, Mapping[str, Tensor]], ClusterRunner]
"""A runner of an order with the vectors that came with it, views of a body that is kept."""
Send = Callable[[ClusterOutcome], Awaitable[None]]


@dataclass(slots=True)
class _Run:
    order: ClusterOrder
    runner: ClusterRunner
    task: "asyncio.Task[None]"


class Running:
    """The clusters that an edge runs now."""

    def __init__(
        self, edge: str, make: MakeRunner, *, members: Members, metrics: EdgeMetrics
    ) -> None:
        """Of an edge; `make` makes a runner of an order."""
        self._edge, self._make, self._members, self._metrics = edge, make, members, metrics
        self._runs: dict[str, _Run] = {}

    def take(self, work: EdgeWork, tensors: Mapping[str, Tensor], *, send: Send) -> None:
        """What the cloud pod says; outcomes go to `send`."""
        if work.order is not None:
            self._begin(work.order, tensors, send=send)
        if work.news is not None:
            self._hear(work.news)

    def drop_all(self) -> None:
        """The session with the cloud pod has ended: it gives the clusters to others."""
        for cluster in list(self._runs):
            self._drop(cluster, "the session with the cloud pod has ended")
        self._members.forget()

    def _begin(self, order: ClusterOrder, tensors: Mapping[str, Tensor], *, send: Send) -> None:
        for cluster, run in list(self._runs.items()):
            if cluster == order.cluster or run.order.round != order.round:
                self._drop(cluster, f"round {order.round}, turn {order.turn} has been ordered")
        _log.info(
            "cluster ordered",
            cluster=order.cluster,
            round=order.round,
            turn=order.turn,
            members=len(order.members),
        )
        self._metrics.ordered(order)
        self._members.know({one.client: one.key for one in order.members if one.key is not None})
        runner = self._make(order, tensors)
        task = asyncio.create_task(self._run(order, runner, send=send))
        self._runs[order.cluster] = _Run(order, runner, task)
        self._metrics.running(len(self._runs))

    async def _run(self, order: ClusterOrder, runner: ClusterRunner, *, send: Send) -> None:
        began = asyncio.get_running_loop().time()
        try:
            outcome = await runner.run()
        except Exception as error:  # noqa: BLE001 - the cloud pod counts how often that happens
            _log.error("cluster failed", cluster=order.cluster, round=order.round, exc_info=error)
            outcome = _failed(order, self._edge, error=error)
        self._metrics.ran(outcome.result, asyncio.get_running_loop().time() - began)
        await send(outcome)
        if (run := self._runs.get(order.cluster)) is not None and run.order is order:
            del self._runs[order.cluster]
            self._metrics.running(len(self._runs))

    def _hear(self, news: ClusterNews) -> None:
        self._members.know(news.keys)
        self._members.forget(news.gone)
        run = self._runs.get(news.cluster)
        if run is None or run.order.turn != news.turn:
            return
        if news.gone:
            run.runner.gone(news.gone)
        if news.close:
            run.runner.close()
        if news.dropped is not None:
            self._drop(news.cluster, news.dropped)

    def _drop(self, cluster: str, why: str) -> None:
        run = self._runs.pop(cluster)
        run.task.cancel()
        self._metrics.running(len(self._runs))
        _log.info("cluster dropped", cluster=cluster, round=run.order.round, why=why)


def _failed(order: ClusterOrder, edge: str, *, error: Exception) -> ClusterOutcome:
    """The outcome of an order that could not be run: there is nothing in it."""
    words = str(error) if isinstance(error, JobFailed) else f"{type(error).__name__}: {error}"
    report = ClusterReport(
        cluster=order.cluster, edge=edge, tries=order.tries, clients=0, examples=0, seconds=0.0
    )
    result = ClusterResult(
        report=report, round=order.round, turn=order.turn, clients=[], failure=words
    )
    return ClusterOutcome(result, {})
