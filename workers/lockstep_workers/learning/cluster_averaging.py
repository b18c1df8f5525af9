"""A cluster's part of a round in mode hierarchical: its updates as one sum. No I/O, no clock.

An edge's `averaging` feeds it, and the simulator does the same. The cluster is a round of its own,
with the cloud pod's plan, turn and numbers; weights come from the strategy, here and there.
Invariant: a member is lost only because somebody says so, or because its update was bad: the
round's deadline and quorum are the cloud pod's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lockstep_api.orders import ClusterOrder, ClusterResult
from lockstep_api.tiers import ClusterReport
from lockstep_api.wire import RoundPlan
from lockstep_workers.learning.clipping import UNSEEN, Limits, Measured
from lockstep_workers.learning.privacy import Bound
from lockstep_workers.learning.rounds import Base, Round
from lockstep_workers.learning.strategy import Contribution, Strategy, Vector
from lockstep_workers.learning.sums import RoundSum, share_of
from lockstep_workers.tensors import Flat

LATE = "it gave no update in time"


@dataclass(slots=True)
class ClusterAverage:
    """What a cluster has given so far."""

    order: ClusterOrder
    strategy: Strategy
    sum: RoundSum
    began_s: float
    """When the order came."""
    limits: Limits | Bound
    """What updates are held against, as at the cloud pod; a bound where clients are hidden."""
    round: Round = field(init=False)

    def __post_init__(self) -> None:
        """All members are waited for."""
        order = self.order
        self.round = Round(
            _plan(order), began_s=self.began_s, patient=True, base=_base(order), turn=order.turn
        )

    def add(self, client: str, flat: Flat, *, contribution: Contribution) -> Measured:
        """Adds a checked update, which is clipped in its place."""
        measured = UNSEEN
        if isinstance(self.limits, Bound):
            self.limits.keep(flat)
        else:
            measured = self.limits.hold(flat, contribution.steps)
        self.sum.add(client, flat, share=share_of(self.strategy, contribution))
        return measured

    def result(self, *, edge: str, now_s: float, down_bytes: int) -> ClusterResult:
        """What goes up beside the sums; each client has received `down_bytes`."""
        done, order = self.round, self.order
        clients = list(done.accepted.values())
        report = ClusterReport(
            cluster=order.cluster,
            edge=edge,
            tries=order.tries,
            clients=len(clients),
            examples=sum(one.update.examples for one in clients),
            seconds=now_s - self.began_s,
            up_bytes=sum(one.bytes for one in clients),
            down_bytes=down_bytes * len(clients),
        )
        return ClusterResult(
            report=report,
            round=order.round,
            turn=order.turn,
            clients=clients,
            lost=done.lost,
            rejected=sorted(done.rejected),
            refused=done.refused,
        )


def limits_of(
    order: ClusterOrder, strategy: Strategy, *, vectors: Mapping[str, Vector], momentum: float
) -> Limits:
    """The limits of an order with these vectors."""
    uploads = tuple(strategy.uploads)
    origins = {name: vectors[name] for name in uploads if name in strategy.broadcasts}
    return Limits(uploads=uploads, origins=origins, bounds=order.bounds, momentum=momentum)


def _plan(order: ClusterOrder) -> RoundPlan:
    """Without deadline and quorum: those are the whole round's."""
    return RoundPlan(
        round=order.round,
        rounds=order.round,
        participants=[one.plan for one in order.members],
    )


def _base(order: ClusterOrder) -> Base:
    members = order.members
    return Base(
        counted={one.client: one.base_round for one in members if one.base_round is not None},
        saved_round=order.saved_round,
        examples={one.client: one.examples for one in members},
        numbers=order.numbers,
        mean_steps_of_all=order.mean_steps,
    )
