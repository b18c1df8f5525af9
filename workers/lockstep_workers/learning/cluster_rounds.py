"""The state of a round whose clients work in clusters, each with an edge. No I/O, no clock.

The cloud role's `tiers` feeds it and acts on what it says; the simulator does the same. The planner
chooses clusters and edges, and names for each cluster whom to turn to should its edge be lost; here
that is only followed. A cluster waits for an edge, is at one, or is done; what becomes of its
clients its edge says, in one result.
Invariant: a client is exactly one of waiting, accepted or lost, as in any round; and a cluster's
result counts once, from the edge that has its newest order.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from lockstep_api.orders import ClusterNews, ClusterOrder, ClusterResult, MemberOrder
from lockstep_api.sessions import Refusal, key_at_edge
from lockstep_api.tiers import ClusterPlan, ClusterReport
from lockstep_api.wire import ClientReport, Task, UpdateReport
from lockstep_api.wire_types import MOST_INT
from lockstep_workers.errors import RefusedUpdate
from lockstep_workers.learning.rounds import Round
from lockstep_workers.learning.strategy import Contribution

_LEAST_SLACK_S, _MOST_SLACK_S, _SLACK = 1.0, 10.0, 0.1
"""For results on their way, once edges were told to close: a share of the deadline, bounded."""


@dataclass(slots=True)
class ClusterRun:
    """A cluster in a round."""

    plan: ClusterPlan
    members: list[str]
    """Of the round's participants, in the plan's order."""
    edge: str | None = None
    """The edge that has it; None: it waits for one."""
    turn: int = 0
    """Of its newest order."""
    tries: int = 0
    """Edges that had it."""
    ordered_s: float = 0.0
    """When that was, on the round's clock."""
    lost_edge: str | None = None
    """The edge that it was taken from, until another one has it."""
    told_waiting: bool = False
    """People know that it waits for one."""
    report: ClusterReport | None = None
    """Of its result; None: it is not done."""
    told_keys: dict[str, str | None] = field(default_factory=dict)
    """The keys of sessions of which its edge knows, by member."""
    told_gone: set[str] = field(default_factory=set)
    """Members that its edge waits for no longer."""
    told_close: bool = False
    """Its edge closes it with what is in."""
    progress: int = 0
    """Clients whose work its edge has, as it says after the deadline."""

    @property
    def name(self) -> str:
        """Its name in the round."""
        return self.plan.cluster


@dataclass(frozen=True, slots=True)
class Move:
    """A cluster was taken from an edge."""

    cluster: str
    lost_edge: str
    to: str | None
    """Who has it now; None: nobody is there."""

    def __str__(self) -> str:
        then = "waits for an edge" if self.to is None else f"is done again by {self.to}"
        return f"edge {self.lost_edge} is lost: cluster {self.cluster} {then}"


@dataclass
class TieredRound(Round):
    """A round under way, in clusters."""

    runs: dict[str, ClusterRun] = field(init=False)
    """By cluster."""
    moves: list[Move] = field(default_factory=list)
    """What its owner has not told people yet."""
    closing_s: float | None = None
    """When edges were told to close what they have, since the quorum was in after the deadline."""

    def __post_init__(self) -> None:
        """All clusters wait for their edges; whom the plan has in none is lost."""
        Round.__post_init__(self)
        self._cluster_of: dict[str, ClusterRun] = {}
        self.runs = {}
        for plan in self.plan.clusters:
            members = [c for c in plan.clients if c in self._plans and c not in self._cluster_of]
            run = ClusterRun(plan, members)
            self.runs[run.name] = run
            self._cluster_of.update(dict.fromkeys(members, run))
        for client in self.waiting():
            if client not in self._cluster_of:
                self.lose(client, "the plan has it in no cluster")

    # -- clients -----------------------------------------------------------------------------------

    def task_of(self, client: str) -> Task | None:
        """What a client has to do, and where; None while its cluster waits for an edge."""
        task, run = Round.task_of(self, client), self._cluster_of.get(client)
        if task is None or run is None or run.edge is None or run.report is not None:
            return None
        plan = self._plans[client]
        told = {"turn": run.turn, "edge": run.edge, "cluster": run.name}
        return task.model_copy(update=told | {"batch_size": plan.batch_size, "cut": self.plan.cut})

    def check(self, report: UpdateReport) -> None:
        """No update comes here: each goes to its client's edge.

        Raises:
            RefusedUpdate: always.
        """
        message = f"the update of {report.client} is for its edge"
        raise RefusedUpdate(Refusal.NOT_IN_ROUND, message)

    def disconnect(self, client: str, why: str) -> bool:
        """A connection of a client here; its edge is told (`news`), and says what that means."""
        return False

    # -- edges -------------------------------------------------------------------------------------

    def edge_gone(self, edge: str) -> None:
        """An edge's session has ended: what it had waits for another one."""
        for run in self._open_runs():
            if run.edge == edge:
                run.edge, run.lost_edge = None, edge

    def place(
        self, connected: Collection[str], *, now_s: float, next_turn: Callable[[], int]
    ) -> list[ClusterRun]:
        """Gives clusters that wait for an edge to those that are there; returns them."""
        wanting = [run for run in self._open_runs() if run.edge is None and self._waits_in(run)]
        for run in wanting:
            run.edge = self._choose(run, connected)
            if run.lost_edge is not None and not (run.edge is None and run.told_waiting):
                self.moves.append(Move(run.name, run.lost_edge, run.edge))
                run.told_waiting = True
            if run.edge is not None:
                run.turn, run.ordered_s, run.lost_edge = next_turn(), now_s, None
                run.tries, run.told_waiting = run.tries + 1, False
                run.told_close, run.progress = False, 0
        return [run for run in wanting if run.edge is not None]

    def _waits_in(self, run: ClusterRun) -> list[str]:
        """Members that are neither in nor lost."""
        return [client for client in run.members if self.waits_for(client) is not None]

    def _choose(self, run: ClusterRun, connected: Collection[str]) -> str | None:
        """Its own edge at first; then the one of the others that is there with the least to do."""
        if run.tries == 0 and run.plan.edge in connected:
            return run.plan.edge
        ranked = [run.plan.edge, *run.plan.fallbacks]
        there = [edge for edge in ranked if edge in connected]
        there += sorted(set(connected) - set(ranked))
        loads = [sum(one.edge == edge for one in self._open_runs()) for edge in there]
        return there[loads.index(min(loads))] if there else None

    def order(self, run: ClusterRun, *, keys: Mapping[str, str]) -> ClusterOrder:
        """What a cluster's edge is told; `keys` are those of the clients' sessions."""
        members = self._waits_in(run)
        run.told_keys = {client: keys.get(client) for client in members}
        run.told_gone = set(run.members) - set(members)
        deadline_s = self.plan.deadline_seconds
        passed_s = run.ordered_s - self.began_s
        return ClusterOrder(
            round=self.number,
            cluster=run.name,
            turn=run.turn,
            members=[self._member(client, run, key=keys.get(client)) for client in members],
            tries=run.tries,
            saved_round=self.base.saved_round,
            mean_steps=self._mean_steps,
            numbers=dict(self.base.numbers),
            cut=self.plan.cut,
            bounds=dict(self.base.bounds),
            quorum=self._quorum_of(members),
            deadline_seconds=None if deadline_s is None else max(0.0, deadline_s - passed_s),
        )

    def _member(self, client: str, run: ClusterRun, *, key: str | None) -> MemberOrder:
        assert run.edge is not None
        return MemberOrder(
            plan=self._plans[client].model_copy(update={"basis": None}),
            key=None if key is None else key_at_edge(key, run.edge),
            examples=self.base.held_by(client),
            base_round=self.base.counted.get(client),
        )

    def _quorum_of(self, members: list[str]) -> int | None:
        """A cluster's part of the quorum: when all clusters have theirs, the round has its own."""
        if self.plan.quorum is None:
            return None
        share = self.plan.quorum / len(self.plan.participants)
        return min(len(members), math.ceil(share * len(members)))

    def closing(self, now_s: float) -> Iterator[tuple[str, ClusterNews]]:
        """Tells edges to close when, after the deadline, the quorum is in wherever it is."""
        due_s, everyone = Round.deadline_s(self), len(self.plan.participants)
        there = len(self.accepted) + sum(run.progress for run in self._open_runs())
        if due_s is None or now_s < due_s or there < min(self.plan.quorum or everyone, everyone):
            return
        self.closing_s = now_s if self.closing_s is None else self.closing_s
        for run in self._open_runs():
            if run.edge is not None and not run.told_close:
                run.told_close = True
                yield run.edge, self._news(run, close=True)

    def news(self, keys: Mapping[str, str]) -> Iterator[tuple[str, ClusterNews]]:
        """What edges have to know by now, given the keys of the clients' open sessions.

        A patient round waits for a client whose session has ended; any other loses it, by word of
        its edge, or at once when its cluster is at none.
        """
        for run in list(self._open_runs()):
            new, gone = self._changed(run, keys)
            if run.edge is None:
                for client, why in gone.items():
                    self.lose(client, why)
            elif new or gone:
                run.told_keys.update(new)
                run.told_gone.update(gone)
                shown = {client: key_at_edge(key, run.edge) for client, key in new.items()}
                yield run.edge, self._news(run, keys=shown, gone=gone)

    def _changed(
        self, run: ClusterRun, keys: Mapping[str, str]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Members with a new key, and those that are gone, and why."""
        new: dict[str, str] = {}
        gone: dict[str, str] = {}
        for client in run.members:
            key = keys.get(client)
            if client in run.told_gone:
                continue
            if client in self.lost:
                gone[client] = self.lost[client]
            elif key is None and not self.patient:
                gone[client] = "its connection closed"
            elif key is not None and key != run.told_keys.get(client):
                new[client] = key
        return new, gone

    def drop(self, why: str) -> Iterator[tuple[str, ClusterNews]]:
        """The round is over: what edges still have is of no use."""
        for run in self._open_runs():
            if run.edge is not None:
                yield run.edge, self._news(run, dropped=why)

    def _news(
        self,
        run: ClusterRun,
        *,
        keys: Mapping[str, str] | None = None,
        gone: Mapping[str, str] | None = None,
        dropped: str | None = None,
        close: bool = False,
    ) -> ClusterNews:
        return ClusterNews(
            round=self.number,
            cluster=run.name,
            turn=run.turn,
            keys=dict(keys or {}),
            gone=dict(gone or {}),
            dropped=dropped,
            close=close,
        )

    # -- results -----------------------------------------------------------------------------------

    def expects(self, edge: str, *, cluster: str, turn: int) -> ClusterRun:
        """The cluster whose result may come from this edge now.

        Raises:
            RefusedUpdate: it may not.
        """
        run = self.runs.get(cluster)
        if run is None:
            raise RefusedUpdate(Refusal.NOT_IN_ROUND, f"round {self.number} has no {cluster}")
        if run.report is not None:
            raise RefusedUpdate(Refusal.DUPLICATE, f"cluster {cluster} is done")
        if run.edge != edge or run.turn != turn:
            has = "nobody" if run.edge is None else run.edge
            message = f"turn {turn} of {cluster} is {edge}'s no longer: {has} has turn {run.turn}"
            raise RefusedUpdate(Refusal.WRONG_ROUND, message)
        return run

    def contributions(self, run: ClusterRun, result: ClusterResult) -> dict[str, Contribution]:
        """What the clients of a result give, by client.

        Raises:
            RefusedUpdate: the result is not of this cluster, or names others than its members.
        """
        told = (result.round, result.turn, result.report.cluster, result.report.edge)
        if told != (self.number, run.turn, run.name, run.edge):
            raise RefusedUpdate(Refusal.BAD_REPORT, "the result and its path do not agree")
        clients = [one.update.client for one in result.clients]
        named = [*clients, *result.lost]
        if len(set(named)) < len(named) or not set(named) <= set(run.members):
            message = f"the result names others than members of {run.name}, or one twice"
            raise RefusedUpdate(Refusal.BAD_REPORT, message)
        if any(one.update.round != self.number for one in result.clients):
            raise RefusedUpdate(Refusal.BAD_REPORT, "an update of the result is of another round")
        return {
            one.update.client: replace(
                self.contribution(one.update), distances=tuple(one.distances)
            )
            for one in result.clients
        }

    def take(self, run: ClusterRun, result: ClusterResult, *, now_s: float) -> None:
        """A result is in the sums: its clients are accepted, its other members lost."""
        for one in result.clients:
            self._accept_late(one.update.client)
            self.accept(self._on_this_clock(one, run, now_s=now_s))
        for client in run.members:
            why = result.failure or result.lost.get(client, "its edge says nothing of it")
            bad = result.failure is not None or client in result.rejected
            (self.reject if bad else self.lose)(client, why)
        if result.failure is not None:
            self.failures.append(result.failure)
        for reason, count in result.refused.items():
            self.refused[reason] = min(MOST_INT, self.refused.get(reason, 0) + count)
        update = {"seconds": now_s - run.ordered_s, "tries": run.tries}
        run.report = result.report.model_copy(update=update)

    def _accept_late(self, client: str) -> None:
        """One that was lost meanwhile, but had given its update before."""
        if self.lost.pop(client, None) is not None:
            self.rejected.discard(client)
            self._waiting[client] = self._plans[client]

    def _on_this_clock(self, one: ClientReport, run: ClusterRun, *, now_s: float) -> ClientReport:
        """A report whose seconds count from the round's start, not from the order's; whatever its
        edge says, the update has not come later than now."""
        arrived_s = min(one.arrived_seconds + run.ordered_s, now_s) - self.began_s
        return one.model_copy(update={"arrived_seconds": arrived_s})

    def cluster_reports(self) -> list[ClusterReport]:
        """Of the clusters that are done, in the plan's order."""
        return [run.report for run in self.runs.values() if run.report is not None]

    def deadline_s(self) -> float | None:
        """When to look next: at the deadline, then when edges had time to close."""
        if self.closing_s is None:
            return Round.deadline_s(self)
        share_s = _SLACK * (self.plan.deadline_seconds or 0.0)
        return self.closing_s + min(_MOST_SLACK_S, max(_LEAST_SLACK_S, share_s))

    def is_closed(self, now_s: float) -> bool:
        """All are in or lost; or edges were told to close, had the time, and the quorum is in."""
        return not self.waiting() or (self.closing_s is not None and Round.is_closed(self, now_s))

    def _open_runs(self) -> list[ClusterRun]:
        return [run for run in self.runs.values() if run.report is None]
