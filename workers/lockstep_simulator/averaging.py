"""One round in mode hierarchical: virtual devices bring their updates to virtual edges.

`simulation` plays its rounds with it. Devices train as in mode federated (`playing`); which edge
has a cluster, when edges close and which results count is `learning.cluster_rounds`' matter, an
edge's sums are `learning.cluster_averaging`'s. Edges are there from the first round to the last.
Invariant: as of `playing`; and what an edge has summed up reaches the server once, as it is.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from lockstep_api.orders import ClusterResult
from lockstep_api.wire import RoundPlan
from lockstep_simulator.playing import Field, Going, moments
from lockstep_workers.errors import RefusedUpdate
from lockstep_workers.learning.cluster_averaging import LATE, ClusterAverage, limits_of
from lockstep_workers.learning.cluster_rounds import ClusterRun, TieredRound
from lockstep_workers.learning.privacy import Bound
from lockstep_workers.learning.rounds import Base, Round
from lockstep_workers.learning.strategy import MODEL, Strategy
from lockstep_workers.learning.sums import RoundSum

_REFUSED = "its edge's result was refused ({reason}): {error}"


class Grounds(Protocol):
    """What a round with edges is opened for."""

    patient: bool
    turn: int


def tiered_round(
    played: Grounds, plan: RoundPlan, *, base: Base, edges: tuple[str, ...], now_s: float
) -> TieredRound:
    """A round whose clusters are all at their edges."""
    now = TieredRound(plan, began_s=now_s, patient=played.patient, base=base, turn=played.turn)

    def next_turn() -> int:
        played.turn += 1
        return played.turn

    now.place(edges, now_s=now_s, next_turn=next_turn)
    return now


def refused(now: TieredRound, result: ClusterResult, *, error: RefusedUpdate) -> ClusterResult:
    """What an edge sends when its result was refused: there is nothing in it."""
    now.count_refusal(error.reason)
    report = result.report.model_copy(update={"clients": 0, "examples": 0})
    failure = _REFUSED.format(reason=error.reason.value, error=error)
    return result.model_copy(update={"report": report, "clients": [], "failure": failure})


@dataclass(slots=True)
class _Edges:
    """The clusters of a round, and what is still to happen."""

    now: TieredRound
    averages: dict[str, ClusterAverage]
    """By cluster."""
    coming: list[tuple[float, int, Going | ClusterRun | None]] = field(default_factory=list)
    """Moments: an update, an edge's result, or None: the deadline."""
    sent: set[str] = field(default_factory=set)
    """Clusters whose result is on its way, or there."""
    count: int = 0

    def expect(self, at_s: float, what: Going | ClusterRun | None) -> None:
        """This will happen."""
        self.count += 1
        heapq.heappush(self.coming, (at_s, self.count, what))

    def average_of(self, client: str) -> ClusterAverage:
        """The cluster of a client."""
        return next(one for one in self.averages.values() if one.round.has(client))

    def close(self, at_s: float) -> None:
        """Edges that are told so close what they have."""
        for name, one in self.averages.items():
            self.now.runs[name].progress = len(one.sum.shares)
        for _, news in self.now.closing(at_s):
            late = self.averages[news.cluster].round
            for client in late.waiting():
                late.lose(client, LATE)

    def finished(self) -> Iterator[ClusterRun]:
        """Clusters that wait for nobody any more, each once."""
        for name, one in self.averages.items():
            if name not in self.sent and not one.round.waiting():
                self.sent.add(name)
                yield self.now.runs[name]


@dataclass(slots=True, kw_only=True)
class AveragingField(Field):
    """What rounds with averaging edges are played with."""

    edges: tuple[str, ...]
    strategy: Strategy
    momentum: float
    """Of local SGD."""
    exact: bool
    """With training.deterministic."""
    clip_norm: float | None
    """The longest update of a job that hides its clients."""

    def opened(self, plan: RoundPlan, base: Base, *, now_s: float) -> Round:
        """As of `Field`."""
        return tiered_round(self, plan, base=base, edges=self.edges, now_s=now_s)

    def collect(self, now: Round, ways: list[Going]) -> float:
        """As of `Field`: updates go to edges, results to the server."""
        assert isinstance(now, TieredRound)
        edges = _Edges(now, {run.name: self._average(now, run) for run in now.runs.values()})
        for at_s, way in moments(now, ways):
            edges.expect(at_s, way)
        while edges.coming:
            at_s, _, what = heapq.heappop(edges.coming)
            if isinstance(what, Going):
                average = edges.average_of(what.client)
                self.arrived(average.round, what, at_s=at_s, sink=average)
            elif what is not None:
                self._take(now, what, average=edges.averages[what.name], at_s=at_s)
            edges.close(at_s)
            for run in edges.finished():
                edges.expect(at_s + self.hop_s, run)
            if now.is_closed(at_s):
                return at_s
        raise AssertionError("everybody is in or lost: the round is closed")

    def _average(self, now: TieredRound, run: ClusterRun) -> ClusterAverage:
        vectors = len(self.strategy.uploads)
        total = RoundSum(self.server.n_values, vectors=vectors, exact=self.exact)
        order, given = now.order(run, keys={}), self.server.broadcast()
        norm = self.clip_norm
        bound = None if norm is None else Bound(given[MODEL], norm)
        limits = limits_of(order, self.strategy, vectors=given, momentum=self.momentum)
        return ClusterAverage(order, self.strategy, total, now.began_s, bound or limits)

    def _take(
        self, now: TieredRound, run: ClusterRun, *, average: ClusterAverage, at_s: float
    ) -> None:
        """A result is at the server."""
        assert run.edge is not None
        result = average.result(edge=run.edge, now_s=at_s, down_bytes=self.down_bytes)
        contributions = now.contributions(run, result)
        try:
            if contributions:
                self.server.add_part(average.sum.part().sums, contributions=contributions)
        except RefusedUpdate as error:
            result = refused(now, result, error=error)
        now.take(run, result, now_s=at_s)
