"""Receives devices: their sessions, long-polls and updates, and the round that is open.

The devices' routes (`cloud.bulk`) call it, all in one event loop, so state changes between two
awaits are whole. Its owner opens rounds (`cloud.job`; it knows of no planner, no checkpoint and no
evaluation, so that whoever collects updates can own one), a sink takes the updates. The owner waits
on `_pulse`, the long-polls on `_news`, a session on its own event: an update wakes the owner and
nobody else.
Invariant: a client has at most one session, and an update reaches the sink while a round waits for
it or not at all.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from lockstep_api.wire import ClientReport, Refusal, Registration, RoundPlan, Task, UpdateReport
from lockstep_workers.errors import RefusedUpdate
from lockstep_workers.learning.rounds import Round
from lockstep_workers.tensors import Flat

_log = structlog.get_logger()
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


class Sink(Protocol):
    """Where updates go, and what devices begin a round with."""

    @property
    def n_values(self) -> int:
        """Values of an update."""

    @property
    def body(self) -> bytearray:
        """What a device receives in the open round."""

    def add(self, client: str, flat: Flat, *, examples: int, steps: int) -> None:
        """Takes a checked update; `flat` is valid during the call only."""

    def skip(self, client: str) -> None:
        """A client of the open round gives nothing to it."""


class Tally(Protocol):
    """What is counted for people."""

    def sessions(self, count: int) -> None:
        """So many sessions are open."""

    def took(self) -> None:
        """An update was added."""

    def refused(self, reason: Refusal) -> None:
        """An update was refused."""


@dataclass(eq=False, slots=True)
class Session:
    """A client's open connection."""

    registration: Registration
    over: asyncio.Event = field(default_factory=asyncio.Event)
    result: str | None = None

    def ended(self) -> dict[str, str]:
        """The last line of the session: the result of it all, or that a newer one took over."""
        return {"over": self.result} if self.result else {"replaced": self.registration.client}

    def end(self, result: str) -> None:
        """There will be no more rounds."""
        self.result = result
        self.over.set()


class Reception:
    """The devices of one server."""

    def __init__(
        self, clients: Collection[str], sink: Sink, *, tally: Tally, now: Callable[[], float]
    ) -> None:
        """Takes these clients only; `now` gives the seconds in which rounds are timed."""
        self._known, self._sink, self._tally, self._now = frozenset(clients), sink, tally, now
        self.sessions: dict[str, Session] = {}
        self.round: Round | None = None
        self.result: str | None = None
        """How it all ended; None: it has not."""
        self._pulse = asyncio.Event()
        self._news = asyncio.Event()
        self._logged: set[tuple[str, int, Refusal]] = set()
        self._failures: dict[str, int] = {}

    # -- called by the routes --------------------------------------------------------------------

    @property
    def n_values(self) -> int:
        """Values of an update."""
        return self._sink.n_values

    def knows(self, client: str) -> bool:
        """Whether there is such a client."""
        return client in self._known

    def admits(self, client: str) -> bool:
        """Whether a client may ask for work: it has a session, or needs none any more."""
        return client in self.sessions or self.result is not None

    def open_session(self, registration: Registration) -> Session:
        """A client is there; an older session of it ends."""
        client = registration.client
        if older := self.sessions.get(client):
            older.over.set()
            self._disconnect(client, "it started anew")
        session = self.sessions[client] = Session(registration)
        self._tally.sessions(len(self.sessions))
        _log.info("client connected", client=client, examples=registration.examples)
        if self.result is not None:
            session.end(self.result)
        self._pulse.set()
        return session

    def close_session(self, session: Session) -> None:
        """The connection is closed: the client is gone at once."""
        client = session.registration.client
        if self.sessions.get(client) is not session:
            return
        del self.sessions[client]
        self._tally.sessions(len(self.sessions))
        self._disconnect(client, "its connection closed")
        self._pulse.set()

    async def next_task(self, client: str, after: int) -> tuple[Task, bytearray] | None:
        """Waits for a round after `after` with this client; None when there is none any more."""
        while self.result is None:
            task = None if self.round is None else self.round.task_of(client)
            if task is not None and task.round > after:
                return task, self._sink.body
            await self._news.wait()
        return None

    def check(self, report: UpdateReport) -> None:
        """Whether an update is welcome, before its body is read.

        Raises:
            RefusedUpdate: it is not; says why.
        """
        if not self.knows(report.client):
            message = f"this job has no client {report.client}"
            raise RefusedUpdate(Refusal.UNKNOWN_CLIENT, message)
        if self.round is None:
            raise RefusedUpdate(Refusal.WRONG_ROUND, "no round is under way")
        self.round.check(report)

    def add(self, report: ClientReport, flat: Flat) -> None:
        """Adds a checked update; errors as `check`."""
        update = report.update
        self.check(update)
        assert self.round is not None
        self._sink.add(update.client, flat, examples=update.examples, steps=update.steps)
        self.round.accept(report)
        self._tally.took()
        self._pulse.set()

    def refuse(self, client: str, error: RefusedUpdate) -> None:
        """Counts and logs a refused update; one that is bad loses its client to the round."""
        self._tally.refused(error.reason)
        number = self.round.number if self.round else 0
        if (client, number, error.reason) not in self._logged:
            self._logged.add((client, number, error.reason))
            _log.warning(
                "update refused",
                client=client,
                round=number,
                reason=error.reason.value,
                why=str(error),
            )
        if self.round is not None:
            self.round.count_refusal(error.reason)
            why = f"its update was refused ({error.reason.value}): {error}"
            if error.reason in _FATAL and self.round.reject(client, why):
                self._lost(client, self.round, why=why)
                self._pulse.set()

    def failed(self, client: str, error: Exception) -> None:
        """An update could not be taken, by no fault of its sender, who may send it again.

        After some tries the round waits for the client no longer.
        """
        number = self.round.number if self.round else 0
        _log.error("update not taken", client=client, round=number, exc_info=error)
        self._failures[client] = tries = self._failures.get(client, 0) + 1
        why = f"its update could not be taken {tries} times: {type(error).__name__}: {error}"
        if tries >= _TRIES and self.round is not None and self.round.lose(client, why):
            self._lost(client, self.round, why=why)
            self._pulse.set()

    def elapsed_in_round(self) -> float:
        """Seconds since the open round began."""
        return 0.0 if self.round is None else self._now() - self.round.began_s

    def _disconnect(self, client: str, why: str) -> None:
        if self.round is not None and self.round.disconnect(client, why):
            self._lost(client, self.round, why=why)

    def _lost(self, client: str, now: Round, *, why: str) -> None:
        _log.warning("client lost", client=client, round=now.number, why=why)
        self._sink.skip(client)

    # -- called by the owner ---------------------------------------------------------------------

    def missing(self) -> list[str]:
        """Clients without a session."""
        return sorted(self._known - self.sessions.keys())

    def registrations(self) -> list[Registration]:
        """The clients that are there, by name."""
        return [session.registration for _, session in sorted(self.sessions.items())]

    async def changed(self, timeout_s: float | None = None) -> None:
        """Waits until sessions or the round have changed since the last call."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._pulse.wait(), timeout_s)
        self._pulse.clear()

    async def play(
        self,
        plan: RoundPlan,
        *,
        patient: bool = False,
        counted: Mapping[str, int] | None = None,
        saved_round: int = 0,
    ) -> Round:
        """One round, from handing out the sink's body until it closes; see `Round`."""
        self._logged.clear()
        self._failures.clear()
        self.round = now = Round(
            plan,
            began_s=self._now(),
            patient=patient,
            counted=counted or {},
            saved_round=saved_round,
        )
        for client in now.participants():
            if client not in self.sessions:
                self._disconnect(client, "it is not connected")
        self._tell_devices()
        while not now.is_closed(self._now()):
            deadline = now.deadline_s()
            left = None if deadline is None else deadline - self._now()
            await self.changed(left if left is not None and left > 0 else None)
        self.round = None
        return now

    def end(self, result: str) -> None:
        """There will be no more rounds: everything that waits is told."""
        self.result = result
        for session in self.sessions.values():
            session.end(result)
        self._tell_devices()

    def _tell_devices(self) -> None:
        """Wakes the long-polls: a round has begun or there will be none."""
        old, self._news = self._news, asyncio.Event()
        old.set()
