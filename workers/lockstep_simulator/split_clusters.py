"""A cluster's part of a round of split training, step by step on a virtual clock.

`splitting` plays the clusters of a round with it. What edges and devices compute is their own code
(`edge.split_work`, `learning.front`), values are rounded as on the wire; here is only in which
order, and what time it takes. Invariant: what is computed does not depend on the clock, but for a
deadline that ends the round.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch

from lockstep_api.orders import ClusterOrder, ClusterResult
from lockstep_api.tiers import ClusterReport
from lockstep_api.wire import ClientReport, UpdateReport, told_loss
from lockstep_simulator.split_trips import SplitTrip
from lockstep_workers.edge.split_work import SplitWork
from lockstep_workers.entrypoints import explained
from lockstep_workers.learning.front import FrontHalf, Matrix
from lockstep_workers.split_frames import Kind


@dataclass(slots=True)
class EdgeClock:
    """An edge's time for back halves, of which it runs one at a time."""

    example_s: float
    """Seconds of the back half for an example."""
    core_s: float
    """Core-seconds of the same."""
    free_s: float = 0.0

    def run(self, examples: int, *, at_s: float) -> float:
        """A back half on these; when it is done."""
        self.free_s = max(self.free_s, at_s) + examples * self.example_s
        return self.free_s


@dataclass(frozen=True, slots=True)
class SplitMember:
    """A client in its cluster."""

    trip: SplitTrip
    front: FrontHalf
    leaves: float = math.inf
    """The step at which it is gone; none when infinite."""
    why: str = ""
    """Why it is."""


@dataclass(slots=True)
class SplitCluster:
    """A cluster under way."""

    order: ClusterOrder
    work: SplitWork
    members: Mapping[str, SplitMember]
    edge: EdgeClock
    began_s: float
    """When the edge had its order."""
    own: str | None = None
    """The user's function that made the front half."""
    now_s: float = field(init=False)
    step: int = 0
    back_cpu_s: float = 0.0
    clients: list[ClientReport] = field(default_factory=list)
    _here: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """No step is done."""
        self.now_s = self.began_s

    def forward(self) -> float | None:
        """The front halves of the next step; when all activations are in. None: there is none."""
        self._here = [name for name, one in self.members.items() if one.leaves > self.step]
        if self.step == self._steps or not self._here or self._is_due():
            return None
        return max(self._sent_by(name) for name in self._here)

    @property
    def _steps(self) -> int:
        return max(one.plan.steps for one in self.order.members)

    def _is_due(self) -> bool:
        """Whether the round may close: after a step, with the cluster's part of the quorum."""
        due_s, members = self.order.deadline_seconds, len(self.members)
        quorum = min(self.order.quorum or members, members)
        passed = due_s is not None and self.now_s >= self.began_s + due_s
        return self.step > 0 and passed and len(self._here) >= quorum

    def _sent_by(self, name: str) -> float:
        training, trip = self.work.training, self.members[name].trip
        front = self.members[name].front
        if not self.work.keeps_front or self.step == 0:
            trip.receive(Kind.FRONT, sent_s=self.now_s)
            front.use(training.front)
        trip.run_half_step()
        rows = training.rows(name)
        what = f"the front half, in step {self.step + 1} of round {self.order.round}, raised"
        with explained(f"client {name}: {what}", own=self.own):
            made, labels = front.forward(
                self.order.round, self.step, batch_size=rows.stop - rows.start
            )
        training.activations[rows] = self._arrived(made)
        training.labels[rows] = labels
        trip.samples += len(labels)
        return trip.send(Kind.ACTIVATIONS)

    def backward(self, all_in_s: float) -> None:
        """The back half, and the front halves' gradients."""
        training, keeps = self.work.training, self.work.keeps_front
        rows = sum(self.members[name].trip.shape.rows for name in self._here)
        ended_s = self.edge.run(rows, at_s=all_in_s)
        self.back_cpu_s += rows * self.edge.core_s
        gradients = self.work.step_now(self.step, self._here)
        arrived = [self._contributed(name, gradients, sent_s=ended_s) for name in self._here]
        if not keeps:
            training.finish_step(self._here)
        self.now_s = ended_s if keeps else max(arrived)
        self.step += 1

    def _contributed(self, name: str, gradients: Matrix, *, sent_s: float) -> float:
        trip, training = self.members[name].trip, self.work.training
        trip.receive(Kind.GRADIENT, sent_s=sent_s)
        trip.run_half_step()
        what = f"the front half's gradient, in step {self.step + 1} of round {self.order.round},"
        with explained(f"client {name}: {what} raised", own=self.own):
            told = self.members[name].front.backward(self._arrived(gradients[training.rows(name)]))
        trip.steps += 1
        if self.work.keeps_front:
            return trip.now_s
        training.add_front(name, told)
        return trip.send(Kind.FRONT_GRADIENT)

    def _arrived(self, values: Matrix) -> Matrix:
        """Values as they arrive over the wire."""
        if not self.work.is_narrow:
            return values
        rounded: Matrix = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
        return rounded

    def end(self) -> None:
        """All steps are done: those who are there tell what it took, the others are lost."""
        staying = [name for name, one in self.members.items() if one.leaves > self.step]
        for name, one in self.members.items():
            if name not in staying:
                one.trip.settle()
        reports = {name: self._ended(name) for name in staying if self.step}
        if self.work.keeps_front:
            for name in reports:
                self.work.training.add_front(name, self.members[name].front.front)
            self.work.training.finish_round([*reports])
        loss = told_loss(self.work.training.result().loss)
        self.clients = [
            self._told(name, report.model_copy(update={"train_loss": loss}))
            for name, report in reports.items()
        ]
        self.now_s = max([self.now_s, *(self.members[name].trip.now_s for name in reports)])

    def _ended(self, name: str) -> UpdateReport:
        trip = self.members[name].trip
        trip.receive(Kind.DONE, sent_s=self.now_s)
        report = trip.settle()
        trip.send_end(report)
        return report

    def _told(self, name: str, report: UpdateReport) -> ClientReport:
        trip = self.members[name].trip
        return ClientReport(
            update=report,
            arrived_seconds=trip.now_s - self.began_s,
            upload_seconds=trip.up_s,
            bytes=trip.up_bytes,
        )

    def result(self, edge: str) -> ClusterResult:
        """What goes up beside the halves."""
        order, done = self.order, self.work.training.result()
        lost = {name: one.why for name, one in self.members.items() if one.leaves <= self.step}
        trips = [one.trip for one in self.members.values()]
        report = ClusterReport(
            cluster=order.cluster,
            edge=edge,
            tries=order.tries,
            clients=len(self.clients),
            examples=sum(one.update.examples for one in self.clients),
            seconds=self.now_s - self.began_s,
            samples=done.samples,
            steps=self.step,
            back_cpu_seconds=self.back_cpu_s,
            missed=done.missed,
            up_bytes=sum(trip.up_bytes for trip in trips),
            down_bytes=sum(trip.down_bytes for trip in trips),
        )
        return ClusterResult(
            report=report, round=order.round, turn=order.turn, clients=self.clients, lost=lost
        )


def played(clusters: list[SplitCluster]) -> Iterator[SplitCluster]:
    """All steps of all clusters; each cluster as it ends. Edges take back halves as they come."""
    waiting = {place: cluster.forward() for place, cluster in enumerate(clusters)}
    while waiting:
        for place in [place for place, all_in_s in waiting.items() if all_in_s is None]:
            del waiting[place]
            clusters[place].end()
            yield clusters[place]
        if waiting:
            all_in_s, place = min(
                (at_s, place) for place, at_s in waiting.items() if at_s is not None
            )
            clusters[place].backward(all_in_s)
            waiting[place] = clusters[place].forward()
