"""Plays the rounds of a job with edges: sessions, orders and news of edges, and their results.

Owned by the job, beside its reception, which has the devices' sessions; the routes
(`cloud.edge_routes`) call it, all in one event loop. What becomes of a round is
`learning.cluster_rounds`' matter. An edge gets what it has to know as numbered answers of its
long-poll, in order, each until it asks for the next; they end with its session, orders with their
round.
Invariant: a result reaches the sink while its round waits for it or not at all, and nothing that is
not of an open session changes either.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from lockstep_api.orders import (
    ClusterNews,
    ClusterOrder,
    ClusterProgress,
    ClusterResult,
    EdgeWork,
)
from lockstep_api.sessions import Refusal
from lockstep_api.tiers import EdgeRegistration
from lockstep_api.wire import RoundPlan
from lockstep_workers.errors import NoSession, RefusedUpdate
from lockstep_workers.hosting.reception import Reception
from lockstep_workers.hosting.sessions import Session, Sessions
from lockstep_workers.learning.cluster_rounds import ClusterRun, TieredRound
from lockstep_workers.learning.rounds import NO_BASE, Base, Round
from lockstep_workers.learning.strategy import Contribution, Vector
from lockstep_workers.parcels import Tensor, wrap

_log = structlog.get_logger()

EdgeSession = Session[EdgeRegistration]
_MOST_UNHEARD = 10_000
"""Answers that an edge lets wait; it asks for the next as soon as it has one."""


class ClusterSink(Protocol):
    """Where results go, and what edges begin a round with."""

    @property
    def constants(self) -> bytes:
        """What the model has beside its trained parameters."""

    def broadcast(self) -> Mapping[str, Vector]:
        """What an order carries, by name; valid until the round is settled."""

    def completed(self, order: ClusterOrder, plan: RoundPlan) -> ClusterOrder:
        """An order with what its edge has to know of the model."""

    def most_result_bytes(self, members: int) -> int:
        """The largest result of so many clients."""

    def add_cluster(
        self,
        result: ClusterResult,
        tensors: Mapping[str, Tensor],
        *,
        contributions: Mapping[str, Contribution],
    ) -> None:
        """Takes a result; raises RefusedUpdate, and has changed nothing, when it does not fit."""


class TierTally(Protocol):
    """What is counted for people."""

    def edges(self, count: int) -> None:
        """So many edges have a session."""

    def moved(self) -> None:
        """A cluster was taken from an edge that is lost."""

    def took(self) -> None:
        """An update was added."""

    def refused(self, reason: Refusal) -> None:
        """An update, or a result, was refused."""


@dataclass(frozen=True, slots=True)
class ResultOffer:
    """A result that is on its way."""

    session: EdgeSession
    round: TieredRound
    run: ClusterRun
    turn: int


@dataclass(frozen=True, slots=True)
class _Answer:
    number: int
    pieces: list[bytes | memoryview]
    is_order: bool


@dataclass(slots=True)
class _Outbox:
    """What an edge has to know, until it has asked for what comes after it."""

    answers: list[_Answer] = field(default_factory=list)
    number: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, work: Callable[[int], EdgeWork], tensors: Mapping[str, Tensor]) -> None:
        """One more answer."""
        self.number += 1
        told = work(self.number)
        pieces = wrap(told.to_json(), tensors)
        self.answers.append(_Answer(self.number, pieces, told.order is not None))
        self.news.set()

    async def after(self, number: int) -> list[bytes | memoryview]:
        """The answer after this one."""
        self.answers = [one for one in self.answers if one.number > number]
        while not self.answers:
            self.news.clear()
            await self.news.wait()
        return self.answers[0].pieces

    def forget_orders(self) -> None:
        """Those of a round that is over, which the edge has not asked for: each holds a model."""
        self.answers = [one for one in self.answers if not one.is_order]


class Tiers:
    """The edges of one job."""

    def __init__(
        self,
        edges: Collection[str],
        reception: Reception,
        *,
        sink: ClusterSink,
        tally: TierTally,
        now: Callable[[], float],
        tell: Callable[[str], None],
    ) -> None:
        """Takes these edges only; `tell` has words for people."""
        self._known, self._reception = frozenset(edges), reception
        self._sink, self._tally, self._now, self._tell = sink, tally, now, tell
        self._sessions = Sessions[EdgeRegistration]()
        self._outboxes: dict[str, _Outbox] = {}
        self._round: TieredRound | None = None
        self.result: str | None = None
        """How it all ended; None: it has not."""

    # -- called by the routes ----------------------------------------------------------------------

    @property
    def constants(self) -> bytes:
        """What the model has beside its trained parameters."""
        return self._sink.constants

    def knows(self, client: str) -> bool:
        """Whether there is such an edge."""
        return client in self._known

    def is_over(self) -> bool:
        """Whether there will be no more rounds, which anybody may know."""
        return self.result is not None

    def session_of(self, edge: str, key: bytes) -> EdgeSession:
        """The open session of whoever shows its key.

        Raises:
            NoSession: there is none with this key.
        """
        return self._sessions.check(edge, key)

    async def open_session(
        self,
        registration: EdgeRegistration,
        *,
        key: bytes,
        proved: bool,
        is_silent: Callable[[], bool],
    ) -> EdgeSession:
        """An edge is there.

        Raises:
            SessionTaken: it has a session that somebody else holds (`hosting.sessions`).
        """
        edge = registration.edge
        await self._sessions.room_for(edge, key, proved=proved, who=f"edge {edge}")
        if older := self._sessions.by_client.get(edge):
            self.close_session(older)
            older.over.set()
        session = self._sessions.open(registration, is_silent)
        self._outboxes[edge] = _Outbox()
        self._tally.edges(len(self._sessions.by_client))
        _log.info("edge connected", edge=edge)
        if self.result is not None:
            session.end(self.result)
        self._reception.wake()
        return session

    def close_session(self, session: EdgeSession) -> None:
        """The connection is closed: the edge is gone at once."""
        if not self._sessions.close(session):
            return
        edge = session.client
        del self._outboxes[edge]
        self._tally.edges(len(self._sessions.by_client))
        _log.warning("edge lost", edge=edge)
        if self._round is not None:
            self._round.edge_gone(edge)
        self._reception.wake()

    async def next_work(self, session: EdgeSession, after: int) -> list[bytes | memoryview] | None:
        """Waits for the answer after this one; None when there is none any more."""
        outbox = self._outboxes.get(session.client)
        if outbox is None or not self._sessions.is_open(session):
            raise NoSession(f"the session of {session.client} has ended")
        coming = asyncio.ensure_future(outbox.after(after))
        over = asyncio.ensure_future(session.over.wait())
        try:
            await asyncio.wait({coming, over}, return_when=asyncio.FIRST_COMPLETED)
            return coming.result() if coming.done() else None
        finally:
            for one in (coming, over):
                one.cancel()

    def expect(
        self, session: EdgeSession, *, round_number: int, cluster: str, turn: int
    ) -> ResultOffer:
        """A result is announced.

        Raises:
            RefusedUpdate: nobody waits for it.
        """
        now = self._round
        if now is None or now.number != round_number:
            at = "no round" if now is None else f"round {now.number}"
            message = f"{at} is under way, the result is of round {round_number}"
            raise RefusedUpdate(Refusal.WRONG_ROUND, message)
        run = now.expects(session.client, cluster=cluster, turn=turn)
        return ResultOffer(session, now, run, turn)

    def progress(self, session: EdgeSession, told: ClusterProgress) -> None:
        """How far an edge is with a cluster; of one that is not its own it is no news."""
        now = self._round
        if now is None or now.number != told.round:
            return
        with suppress(RefusedUpdate):
            run = now.expects(session.client, cluster=told.cluster, turn=told.turn)
            run.progress = min(told.accepted, len(run.members))
            self._reception.wake()

    def most_bytes(self, offer: ResultOffer) -> int:
        """The largest result that is taken."""
        return self._sink.most_result_bytes(len(offer.run.members))

    def take(
        self, offer: ResultOffer, result: ClusterResult, *, tensors: Mapping[str, Tensor]
    ) -> None:
        """A whole result.

        Raises:
            RefusedUpdate: nobody waits for it any more, or it is not in order.
        """
        if offer.round is not self._round or not self._sessions.is_open(offer.session):
            message = "the round, or the session, has ended meanwhile"
            raise RefusedUpdate(Refusal.WRONG_ROUND, message)
        edge, run = offer.session.client, offer.run
        offer.round.expects(edge, cluster=run.name, turn=offer.turn)
        contributions = offer.round.contributions(run, result)
        if result.failure is None and contributions:
            self._sink.add_cluster(result, tensors, contributions=contributions)
        offer.round.take(run, result, now_s=self._now())
        for _ in result.clients:
            self._tally.took()
        _log.info(
            "cluster done",
            cluster=run.name,
            round=offer.round.number,
            edge=edge,
            clients=len(result.clients),
            failure=result.failure,
        )
        self._reception.wake()

    def refuse(self, error: RefusedUpdate, session: EdgeSession) -> None:
        """A result was refused, which changes nothing."""
        self._tally.refused(error.reason)
        _log.warning("result refused", edge=session.client, why=str(error))

    # -- called by the owner -----------------------------------------------------------------------

    def registrations(self) -> list[EdgeRegistration]:
        """The edges that are there, by name."""
        return [one.registration for _, one in sorted(self._sessions.by_client.items())]

    def missing(self) -> list[str]:
        """Edges without a session."""
        return sorted(self._known - self._sessions.by_client.keys())

    async def play(self, plan: RoundPlan, *, patient: bool = False, base: Base = NO_BASE) -> Round:
        """One round, from the orders until it closes; as `Reception.play`."""
        now = TieredRound(
            plan,
            began_s=self._now(),
            patient=patient,
            base=base,
            turn=self._reception.next_turn(plan.round),
        )
        self._round = now
        try:
            with self._reception.opened(now):
                await self._until_closed(now)
        finally:
            self._round = None
            for outbox in self._outboxes.values():
                outbox.forget_orders()
            for edge, news in now.drop(f"round {now.number} is closed"):
                self._put_news(edge, news)
        return now

    async def _until_closed(self, now: TieredRound) -> None:
        sessions = self._reception.sessions
        if not now.patient:
            for client in now.waiting():
                if client not in sessions:
                    now.lose(client, "it is not connected")
        while True:
            self._update(now)
            if now.is_closed(self._now()):
                return
            deadline = now.deadline_s()
            left = None if deadline is None else deadline - self._now()
            await self._reception.changed(left if left is not None and left > 0 else None)

    def _update(self, now: TieredRound) -> None:
        """Edges are told what has changed: of sessions, theirs and the devices'."""
        keys = {client: one.key for client, one in self._reception.sessions.items()}
        for edge, news in now.news(keys):
            self._put_news(edge, news)
        placed = now.place(
            self._sessions.by_client, now_s=self._now(), next_turn=self._reception.next_turn
        )
        for edge, news in now.closing(self._now()):
            self._put_news(edge, news)
        for run in placed:
            self._put_order(now, run, keys=keys)
        if placed:
            self._reception.tell_devices()
        for move in now.moves:
            self._tally.moved()
            self._tell(f"round {now.number}: {move}")
        now.moves.clear()

    def _put_order(self, now: TieredRound, run: ClusterRun, *, keys: Mapping[str, str]) -> None:
        assert run.edge is not None
        order = self._sink.completed(now.order(run, keys=keys), now.plan)
        self._outboxes[run.edge].put(
            lambda number: EdgeWork(number=number, order=order), self._sink.broadcast()
        )

    def _put_news(self, edge: str, news: ClusterNews) -> None:
        if (outbox := self._outboxes.get(edge)) is None:
            return
        outbox.put(lambda number: EdgeWork(number=number, news=news), {})
        if len(outbox.answers) > _MOST_UNHEARD:
            _log.warning("edge does not listen", edge=edge, answers=len(outbox.answers))
            session = self._sessions.by_client[edge]
            self.close_session(session)
            session.over.set()

    def end(self, result: str) -> None:
        """There will be no more rounds: everything that waits is told."""
        self.result = result
        for session in self._sessions.by_client.values():
            session.end(result)
