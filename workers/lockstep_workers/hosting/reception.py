"""Receives devices: their sessions, long-polls and updates, and the rounds that are open.

The devices' routes (`hosting.bulk`) call it, all in one event loop, so state changes between two
awaits are whole. Its owner opens rounds (`cloud.job`, `edge.running`; it knows of no planner, no
checkpoint and no evaluation), a sink takes the updates. At the cloud pod one round is open at a
time; at an edge one for each cluster that it runs, of which a client is in one. The owner waits on
`_pulse`, the long-polls on `_news`, a session on its own event: an update wakes the owner and
nobody else.
Invariant: an update reaches the sink while a round waits for it or not at all, and nothing that is
not of an open session and for the open round changes either (`hosting.sessions` has the sessions).
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import structlog

from lockstep_api.sessions import ClientFailure, Refusal, Registration
from lockstep_api.wire import ClientReport, RoundPlan, Task, UpdateReport
from lockstep_serving.rarely import Rarely
from lockstep_workers.errors import NoSession, RefusedUpdate
from lockstep_workers.hosting.around import Sink, Tally
from lockstep_workers.hosting.open_rounds import OpenRound, OpenRounds
from lockstep_workers.hosting.sessions import DeviceSession, Sessions
from lockstep_workers.learning.rounds import NO_BASE, Base, Round
from lockstep_workers.learning.troubles import Troubles
from lockstep_workers.tensors import Flat

_log = structlog.get_logger()
_GIVEN_UP = "GivenUp"
"""How the job ended for a client that it does without."""
_TRIES = 5
"""How often a client may send an update that the server fails to take."""
# The update itself is bad: its client gives none to this round.
_FATAL = frozenset(
    {
        Refusal.CONTENT_TYPE,
        Refusal.BAD_REPORT,
        Refusal.TOO_LARGE,
        Refusal.MALFORMED,
        Refusal.SHAPE,
        Refusal.DTYPE,
        Refusal.NON_FINITE,
        Refusal.TOO_SLOW,
    }
)


@dataclass(frozen=True, slots=True)
class Offer:
    """An update that is on its way: of whose session, and for which round."""

    session: DeviceSession
    round: Round | None
    """The round that was open when it was announced; None: it names another one."""

    @property
    def client(self) -> str:
        """Whose it is."""
        return self.session.client


class Reception:
    """The devices of one server."""

    def __init__(
        self,
        clients: Collection[str],
        sink: Sink,
        *,
        tally: Tally,
        now: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes these clients only; `now` gives the seconds in which rounds are timed.

        `sink` takes the updates of rounds that have none of their own.
        """
        self._known, self._sink, self._tally, self._now = frozenset(clients), sink, tally, now
        self._sessions = Sessions[Registration]()
        self._rounds = OpenRounds()
        self.result: str | None = None
        """How it all ended; None: it has not."""
        self._turn = 0
        self._pulse = asyncio.Event()
        self._news = asyncio.Event()
        self._rarely = Rarely(clock)
        self._logged: set[tuple[str, Refusal]] = set()
        self._failures: dict[str, int] = {}
        self.troubles = Troubles()
        """Clients on which the user's code failed."""

    @property
    def sessions(self) -> Mapping[str, DeviceSession]:
        """The open sessions by client."""
        return self._sessions.by_client

    @property
    def round(self) -> Round | None:
        """The open round; of several the first."""
        return self._rounds.first()

    # -- called by the routes --------------------------------------------------------------------

    @property
    def constants(self) -> bytes:
        """What a device takes over of the model once."""
        return self._sink.constants

    def knows(self, client: str) -> bool:
        """Whether there is such a client."""
        return client in self._known

    def is_over(self) -> bool:
        """Whether there will be no more rounds, which anybody may know."""
        return self.result is not None

    def session_of(self, client: str, key: bytes) -> DeviceSession:
        """The open session of whoever shows its key.

        Raises:
            NoSession: there is none with this key.
        """
        return self._sessions.check(client, key)

    async def open_session(
        self, registration: Registration, *, key: bytes, proved: bool, is_silent: Callable[[], bool]
    ) -> DeviceSession:
        """A client is there, maybe `proved`. `key` is that of the session it had, if it had one.

        Raises:
            SessionTaken: it has a session that somebody else holds (`hosting.sessions`).
        """
        client = registration.client
        await self._sessions.room_for(client, key, proved=proved, who=client)
        if client in self.sessions:
            self._tally.session_ended()
            self._disconnect(client, "it started anew")
        session = self._sessions.open(registration, is_silent)
        self._tally.sessions(self.sessions.keys())
        if self._rarely.due(f"connected {client}") is not None:
            _log.info("client connected", client=client, examples=registration.examples)
        if self.result is not None:
            session.end(self.result)
        elif self.troubles.is_given_up(client):
            session.end(_GIVEN_UP)
        self._pulse.set()
        return session

    def close_session(self, session: DeviceSession) -> None:
        """The connection is closed: the client is gone at once."""
        if not self._sessions.close(session):
            return
        self._tally.sessions(self.sessions.keys())
        if session.result is None:
            self._tally.session_ended()
        self._disconnect(session.client, "its connection closed")
        self._pulse.set()

    async def next_task(self, session: DeviceSession, after: int) -> tuple[Task, bytearray] | None:
        """Waits for a turn after `after` with this client; None when there is none any more.

        A task for an edge has no body: its model is there.
        """
        while self.result is None:
            now = self._rounds.of(session.client)
            task = None if now is None else now.round.task_of(session.client)
            if now is not None and task is not None and task.turn > after:
                return task, bytearray() if task.edge is not None else now.sink.body
            await self._news.wait()
        return None

    def expect(self, client: str, key: bytes, *, round_number: int) -> Offer:
        """An update is announced by whoever shows the key of its client's session.

        Raises:
            RefusedUpdate: there is no such client, or no such session.
        """
        if not self.knows(client):
            raise RefusedUpdate(Refusal.UNKNOWN_CLIENT, f"this job has no client {client}")
        try:
            session = self._sessions.check(client, key)
        except NoSession as error:
            raise RefusedUpdate(Refusal.NO_SESSION, str(error)) from error
        now = self._rounds.of(client)
        is_open = now is not None and now.round.number == round_number
        return Offer(session, now.round if now is not None and is_open else None)

    def check(self, offer: Offer, report: UpdateReport) -> None:
        """Whether an update is welcome, before its body is read.

        Raises:
            RefusedUpdate: it is not; says why.
        """
        self._welcome(offer, report)

    def _welcome(self, offer: Offer, report: UpdateReport) -> OpenRound:
        if not self._sessions.is_open(offer.session):
            raise RefusedUpdate(Refusal.NO_SESSION, f"the session of {offer.client} has ended")
        now = self._rounds.of(offer.client)
        if now is None:
            raise RefusedUpdate(Refusal.WRONG_ROUND, "no round is under way")
        now.round.check(report)
        if offer.round is not now.round:
            message = f"round {now.round.number} is done again: the update is of the turn before"
            raise RefusedUpdate(Refusal.WRONG_ROUND, message)
        return now

    def add(self, offer: Offer, report: ClientReport, *, flat: Flat) -> None:
        """Adds a checked update; errors as `check`."""
        update = report.update
        now = self._welcome(offer, update)
        contribution = now.round.contribution(update)
        measured = now.sink.add(update.client, flat, contribution=contribution)
        now.round.accept(report, measured)
        self._tally.took()
        self._pulse.set()

    def refuse(self, error: RefusedUpdate, offer: Offer | None) -> None:
        """Counts a refused update; a bad one loses its client to the round that it is for.

        One without a session, or of another session or round than the open ones, changes nothing.
        """
        self._tally.refused(error.reason)
        if offer is None:
            if (left_out := self._rarely.due(error.reason)) is not None:
                _log.warning(
                    "updates of nobody's session refused",
                    reason=error.reason.value,
                    count=left_out + 1,
                )
            return
        self._log_refusal(offer, error)
        if (now := self._round_of(offer)) is not None:
            now.count_refusal(error.reason)
            why = f"its update was refused ({error.reason.value}): {error}"
            if error.reason in _FATAL and now.reject(offer.client, why):
                self._lost(offer.client, now, why=why)
                self._pulse.set()

    def _log_refusal(self, offer: Offer, error: RefusedUpdate) -> None:
        """Of each client and reason one line a round."""
        if (offer.client, error.reason) not in self._logged:
            self._logged.add((offer.client, error.reason))
            _log.warning(
                "update refused",
                client=offer.client,
                round=self.round.number if self.round else 0,
                reason=error.reason.value,
                why=str(error),
            )

    def failed(self, error: Exception, offer: Offer | None) -> None:
        """An update could not be taken, by no fault of its sender, who may send it again.

        After some tries the round waits for the client no longer.
        """
        now = None if offer is None else self._round_of(offer)
        if offer is None or now is None:
            if self._rarely.due("not taken") is not None:
                _log.error("update not taken", exc_info=error)
            return
        client = offer.client
        _log.error("update not taken", client=client, round=now.number, exc_info=error)
        self._failures[client] = tries = self._failures.get(client, 0) + 1
        why = f"its update could not be taken {tries} times: {type(error).__name__}: {error}"
        if tries >= _TRIES and now.lose(client, why):
            self._lost(client, now, why=why)
            self._pulse.set()

    def _round_of(self, offer: Offer) -> Round | None:
        """The open round, if the update is for it and of an open session."""
        is_open = self._rounds.has(offer.round) and self._sessions.is_open(offer.session)
        return offer.round if is_open else None

    def client_failed(self, failure: ClientFailure, key: bytes) -> bool:
        """The user's code failed on a client, which gives nothing; whether it may go on.

        Raises:
            NoSession: it is in a round, or has a session, and this is not its key.
        """
        client, found = failure.client, self._rounds.of(failure.client)
        now = None if found is None else found.round
        if failure.round > 0 or client in self.sessions:
            self._sessions.check(client, key)
        waited_for = (
            now is not None and now.number == failure.round and now.reject(client, failure.message)
        )
        if waited_for and now is not None:
            self._lost(client, now, why=failure.message)
        if self.troubles.add(failure, waited_for=waited_for):
            self._tally.client_failed()
        again = not self.troubles.is_given_up(client)
        if not again and client in self.sessions:
            self.sessions[client].end(_GIVEN_UP)
        self._pulse.set()
        return again

    def n_values(self, offer: Offer) -> int:
        """Values of an update that is welcome."""
        now = self._rounds.of(offer.client)
        return self._sink.n_values if now is None else now.sink.n_values

    def elapsed_s(self, offer: Offer) -> float:
        """Seconds since its round began."""
        return 0.0 if offer.round is None else self._now() - offer.round.began_s

    def _disconnect(self, client: str, why: str) -> None:
        now = self._rounds.of(client)
        if now is not None and now.round.disconnect(client, why):
            self._lost(client, now.round, why=why)

    def _lost(self, client: str, now: Round, *, why: str) -> None:
        _log.warning("client lost", client=client, round=now.number, why=why)

    # -- called by the owner ---------------------------------------------------------------------

    def missing(self) -> list[str]:
        """Clients without a session, but for those that are given up."""
        return sorted(self._known - self.sessions.keys() - self.troubles.given_up().keys())

    def registrations(self) -> list[Registration]:
        """The clients that are there, by name."""
        given_up, sessions = self.troubles.given_up(), sorted(self.sessions.items())
        return [one.registration for client, one in sessions if client not in given_up]

    async def changed(self, timeout_s: float | None = None) -> None:
        """Waits until sessions or the round have changed since the last call."""
        with suppress(TimeoutError):  # not wait_for: in 3.11 it can swallow a cancellation
            async with asyncio.timeout(timeout_s):
                await self._pulse.wait()
        self._pulse.clear()

    def next_turn(self, least: int = 0) -> int:
        """A number above all that were given, `least` at least."""
        self._turn = max(self._turn + 1, least)
        return self._turn

    async def play(
        self,
        plan: RoundPlan,
        *,
        patient: bool = False,
        base: Base = NO_BASE,
    ) -> Round:
        """One round, from handing out the sink's body until it closes; see `Round`."""
        turn = self.next_turn(plan.round)
        now = Round(plan, began_s=self._now(), patient=patient, base=base, turn=turn)
        with self.opened(now):
            for client in now.participants():
                if client not in self.sessions:
                    self._disconnect(client, "it is not connected")
            self.tell_devices()
            await self.closed(now)
        return now

    @contextmanager
    def opened(self, now: Round, sink: Sink | None = None) -> Iterator[None]:
        """A round is open inside; its updates go to `sink`, or to that of the reception."""
        if self._rounds.first() is None:
            self._logged.clear()
            self._failures.clear()
        with self._rounds.opened(now, self._sink if sink is None else sink):
            yield

    async def closed(self, now: Round) -> None:
        """Waits until a round is closed."""
        while not now.is_closed(self._now()):
            deadline = now.deadline_s()
            left = None if deadline is None else deadline - self._now()
            await self.changed(left if left is not None and left > 0 else None)

    def wake(self) -> None:
        """Something that the owner waits for has changed."""
        self._pulse.set()

    def end(self, result: str) -> None:
        """There will be no more rounds: everything that waits is told."""
        self.result = result
        for session in self.sessions.values():
            session.end(result)
        self.tell_devices()

    def tell_devices(self) -> None:
        """Wakes the long-polls: there may be tasks, or there will be none."""
        old, self._news = self._news, asyncio.Event()
        old.set()
