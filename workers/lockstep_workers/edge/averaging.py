"""A cluster's part of a round in mode hierarchical: its devices' updates become one sum.

Made by `edge.running` from an order. The cluster is a round of its own at the edge's reception,
with the cloud pod's plan, turn and numbers; what comes of it is the sums as they are, which the
cloud pod merges. Weights come from the strategy there and here, so only the reports travel.
Invariant: a member is lost only because the cloud pod says so, or because its update was bad; that
its connection here breaks means nothing.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from lockstep_api.orders import ClusterOrder, ClusterProgress, ClusterResult
from lockstep_workers.edge.running import ClusterOutcome
from lockstep_workers.hosting.reception import Reception
from lockstep_workers.learning.clipping import Measured
from lockstep_workers.learning.cluster_averaging import LATE, ClusterAverage, limits_of
from lockstep_workers.learning.privacy import Bound
from lockstep_workers.learning.strategy import Contribution, Strategy
from lockstep_workers.learning.sums import SUMS, RoundSum
from lockstep_workers.parcels import Tensor
from lockstep_workers.tensors import Flat, encode


@dataclass(slots=True)
class _Sink:
    """Adds a cluster's updates up."""

    average: ClusterAverage
    body: bytearray
    n_values: int
    constants: bytes = b""
    """Devices take them from the cloud pod."""
    added: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, client: str, flat: Flat, *, contribution: Contribution) -> Measured:
        """Adds a checked update."""
        measured = self.average.add(client, flat, contribution=contribution)
        self.added.set()
        return measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Averaging:
    """How an edge averages."""

    edge: str
    reception: Reception
    strategy: Strategy
    momentum: float
    """Of local SGD."""
    exact: bool
    """With training.deterministic."""
    clip_norm: float | None = None
    """The longest update of a job that hides its clients."""
    tell: Callable[[ClusterProgress], None]
    """Tells the cloud pod how far a cluster is whose deadline has passed."""
    now: Callable[[], float] = field(default=time.monotonic)
    """The clock of the reception."""

    def runner(self, order: ClusterOrder, vectors: Mapping[str, Tensor]) -> "AveragingRunner":
        """A runner of an order."""
        return AveragingRunner(self, order, vectors=vectors)


class AveragingRunner:
    """One cluster's part of one round."""

    def __init__(
        self, how: Averaging, order: ClusterOrder, *, vectors: Mapping[str, Tensor]
    ) -> None:
        """`vectors` are what its devices begin with, by the strategy's names."""
        self._how, self._order = how, order
        names = how.strategy.broadcasts
        sent = [np.asarray(vectors[name], np.float32) for name in names]
        uploads = len(how.strategy.uploads)
        n_values = sent[0].size * uploads
        total = RoundSum(n_values, vectors=uploads, exact=how.exact)
        given = dict(zip(names, sent, strict=True))
        bound = None if how.clip_norm is None else Bound(sent[0], how.clip_norm)
        limits = limits_of(order, how.strategy, vectors=given, momentum=how.momentum)
        self._average = ClusterAverage(order, how.strategy, total, how.now(), bound or limits)
        self._round = self._average.round
        self._sink = _Sink(self._average, encode(sent), n_values)

    async def run(self) -> ClusterOutcome:
        """Until all members are in or lost, or the cloud pod says that what is there will do."""
        reception = self._how.reception
        telling = asyncio.create_task(self._tell_progress())
        try:
            with reception.opened(self._round, self._sink):
                reception.tell_devices()
                await reception.closed(self._round)
        finally:
            telling.cancel()
        return ClusterOutcome(self._result(), {SUMS: self._average.sum.part().sums})

    async def _tell_progress(self) -> None:
        """From the deadline on, with each update: the quorum may be in here and elsewhere."""
        order = self._order
        if order.deadline_seconds is None:
            return
        await asyncio.sleep(self._round.began_s + order.deadline_seconds - self._how.now())
        while True:
            self._sink.added.clear()
            self._how.tell(
                ClusterProgress(
                    round=order.round,
                    cluster=order.cluster,
                    turn=order.turn,
                    accepted=len(self._average.sum.shares),
                )
            )
            await self._sink.added.wait()

    def gone(self, clients: Mapping[str, str]) -> None:
        """The cloud pod's news of members that will give nothing."""
        for client, why in clients.items():
            self._round.lose(client, why)
        self._how.reception.wake()

    def close(self) -> None:
        """Members whose update is not in are late."""
        self.gone(dict.fromkeys(self._round.waiting(), LATE))

    def _result(self) -> ClusterResult:
        how = self._how
        return self._average.result(edge=how.edge, now_s=how.now(), down_bytes=len(self._sink.body))
