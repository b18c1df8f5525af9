"""One round in mode split: virtual devices have the front half, virtual edges the back half.

`simulation` plays its rounds with it, as `playing` plays those without edges. Clusters are
`split_clusters`', what counts and when the round closes is `learning.cluster_rounds`', the model is
`cloud.split_server`'s. Invariant: a cluster's halves reach the server while the round waits for
them, or not at all.
"""

from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from prometheus_client import CollectorRegistry

from lockstep_api.orders import ClusterOrder
from lockstep_api.settings import JobSettings
from lockstep_api.spec import FederatedJobSpec, FrontUpdate, Split
from lockstep_api.wire import RoundPlan
from lockstep_operator.core.split_steps import edge_cores
from lockstep_operator.core.tiers import sites
from lockstep_simulator.averaging import refused, tiered_round
from lockstep_simulator.emulation import VirtualDevice
from lockstep_simulator.half_work import HalfWork, HalvesOf
from lockstep_simulator.observing import Telemetry
from lockstep_simulator.playing import base_of
from lockstep_simulator.split_clusters import EdgeClock, SplitCluster, SplitMember, played
from lockstep_simulator.split_trips import SplitTrip
from lockstep_workers.cloud.split_server import SplitServer
from lockstep_workers.edge.split_metrics import SplitMetrics
from lockstep_workers.edge.split_work import Shop, SplitWork
from lockstep_workers.errors import RefusedUpdate
from lockstep_workers.learning.client import Client
from lockstep_workers.learning.cluster_rounds import ClusterRun, TieredRound
from lockstep_workers.learning.front import FrontHalf, front_half
from lockstep_workers.learning.rounds import Progress, Round
from lockstep_workers.learning.strategy import MODEL
from lockstep_workers.split_frames import Shape

_LEAVES = 0x1EA7E5
"""Tells the draw of a step from others of the same seed."""


def cores_of(spec: FederatedJobSpec) -> dict[str, float]:
    """What each edge of a job may use."""
    return {name: edge_cores(site.group) for name, site in sites(spec).items()}


@dataclass(slots=True, kw_only=True)
class SplitField:
    """What rounds of split training are played with."""

    job: JobSettings
    clients: Mapping[str, Client]
    devices: Mapping[str, VirtualDevice]
    server: SplitServer
    telemetry: Telemetry
    examples: Mapping[str, int]
    """Training examples by client."""
    cores: Mapping[str, float]
    """Of each edge."""
    halves_of: HalvesOf
    patient: bool
    hop_s: float
    """Until an edge has its order, and until its result is at the cloud."""
    turn: int = 0
    _work: HalfWork | None = None
    _fronts: dict[str, FrontHalf] = field(default_factory=dict)
    _nobody: Executor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def play(
        self, plan: RoundPlan, progress: Progress, *, now_s: float, gone: Mapping[str, str]
    ) -> tuple[Round, float]:
        """The round from its orders until it closes, and when that is.

        `gone` are clients that leave at a step that is drawn, and why.
        """
        self.turn = max(self.turn + 1, plan.round)
        base = base_of(progress, examples=self.examples, server=self.server)
        now = tiered_round(self, plan, base=base, edges=(*self.cores,), now_s=now_s)
        self._cut(plan)
        self.server.begin(now.number, now.participants())
        edges = {name: self._edge(name) for name in self.cores}
        runs = [*now.runs.values()]
        clusters = [self._cluster(now, run, edges=edges, gone=gone) for run in runs]
        ended = {one.order.cluster: one for one in played(clusters)}
        closed_s = self._collect(now, ended)
        for cluster in clusters:
            self._home(now, cluster)
        return now, closed_s

    def _cut(self, plan: RoundPlan) -> None:
        """Cuts the model where the plan says; what its halves take is known from then on."""
        assert plan.cut is not None
        self.server.cut_at(plan.cut)
        if self._work is None:
            cut = next(one for one in self.server.candidates if one.layer == plan.cut)
            self._work = self.halves_of(self.clients, cut)
            update = self._split.front_update
            self._fronts = {
                name: front_half(client, plan.cut, update=update)
                for name, client in self.clients.items()
            }

    @property
    def _split(self) -> Split:
        assert self.job.split is not None
        return self.job.split

    def _edge(self, name: str) -> EdgeClock:
        assert self._work is not None
        return EdgeClock(self._work.back / self.cores[name], self._work.back)

    def _cluster(
        self,
        now: TieredRound,
        run: ClusterRun,
        *,
        edges: Mapping[str, EdgeClock],
        gone: Mapping[str, str],
    ) -> SplitCluster:
        assert run.edge is not None
        order = self.server.completed(now.order(run, keys={}), now.plan)
        vectors = {MODEL: self.server.state.vectors[MODEL]}
        return SplitCluster(
            order=order,
            work=SplitWork(order, vectors, shop=self._shop(run.edge)),
            members={
                one.client: self._member(now, order, client=one.client, why=gone.get(one.client))
                for one in order.members
            },
            edge=edges[run.edge],
            began_s=now.began_s + self.hop_s,
            own=self.job.model.front or self.job.model.entrypoint,
        )

    def _shop(self, edge: str) -> Shop:
        """Its series are nobody's, and its thread is not used: this one computes."""
        return Shop(
            edge=edge,
            job=self.job,
            model=self.server.model,
            compute=self._nobody,
            metrics=SplitMetrics(CollectorRegistry(), job=self.job.job, edge=edge),
            refused=lambda _: None,
        )

    def _member(
        self, now: TieredRound, order: ClusterOrder, *, client: str, why: str | None
    ) -> SplitMember:
        task, plan = now.task_of(client), now.waits_for(client)
        assert self._work is not None
        assert task is not None
        assert plan is not None
        split, device = self._split, self.devices[client]
        cut = self.server.cut
        shape = Shape(
            round=now.number,
            rows=plan.batch_size or 1,
            values=int(np.prod(order.cut_shape)),
            front_values=cut.halves.n_front,
            wire=split.wire_dtype,
            keeps_front=split.front_update is FrontUpdate.ROUND,
        )
        trip = SplitTrip(
            device=device,
            client=self.clients[client],
            plan=plan,
            task=task,
            shape=shape,
            example_s=self._work.front[client],
            began_s=max(device.free_s, now.began_s + self.hop_s),
        )
        if why is None:
            return SplitMember(trip, self._fronts[client])
        return SplitMember(trip, self._fronts[client], self._leaves(client, plan.steps), why)

    def _leaves(self, client: str, steps: int) -> int:
        """The step at which a device is gone."""
        entropy = (self.job.training.seed, self.clients[client].index, self.turn, _LEAVES)
        return int(np.random.default_rng(np.random.SeedSequence(entropy)).integers(steps))

    def _collect(self, now: TieredRound, ended: Mapping[str, SplitCluster]) -> float:
        """Takes results in until the round closes; returns when it does."""
        for cluster in sorted(ended.values(), key=lambda one: one.now_s):
            at_s, due_s = cluster.now_s + self.hop_s, now.deadline_s()
            if due_s is not None and due_s < at_s and now.is_closed(due_s):
                return due_s  # edges had their time
            self._take(now, cluster, at_s=at_s)
            for _ in now.closing(at_s):
                pass  # an edge knows the deadline, and its part of the quorum
            if now.is_closed(at_s):
                return at_s
        raise AssertionError("everybody is in or lost: the round is closed")

    def _take(self, now: TieredRound, cluster: SplitCluster, *, at_s: float) -> None:
        """A result is at the cloud."""
        run = now.runs[cluster.order.cluster]
        assert run.edge is not None
        result = cluster.result(run.edge)
        contributions = now.contributions(run, result)
        try:
            if contributions:
                tensors = cluster.work.tensors()
                self.server.add_cluster(result, tensors, contributions=contributions)
        except RefusedUpdate as error:
            result = refused(now, result, error=error)
        now.take(run, result, now_s=at_s)

    def _home(self, now: TieredRound, cluster: SplitCluster) -> None:
        """What devices know at the end, and Prometheus of them."""
        for name, member in cluster.members.items():
            trip, device = member.trip, self.devices[name]
            device.account.uploaded(0.0, taken=name in now.accepted)
            device.free_s = trip.now_s
            if trip.steps:
                self.telemetry.trained(name, at_s=trip.now_s, cpu_s=trip.cpu_s, steps=trip.steps)
                self.telemetry.uploaded(
                    name, at_s=trip.now_s, seconds=trip.up_s, n_bytes=trip.up_bytes
                )
