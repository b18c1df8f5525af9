"""Who has to be there before a round: clients, and edges in a mode that has some.

Owned by the job. Round 1, and the first one after a resume, waits for everyone; any other is
planned for those that are there. Invariant: clients on which the user's code fails count while it
waits.
"""

from collections.abc import Callable

import structlog

from lockstep_api.settings import JobSettings
from lockstep_api.text import few
from lockstep_api.wire import NoticeReason
from lockstep_workers.cloud.journal import Journal
from lockstep_workers.cloud.tiers import Tiers
from lockstep_workers.hosting.reception import Reception
from lockstep_workers.learning.rounds import SHOWN, may_begin

_log = structlog.get_logger()
_RETURN_WITHIN_S = 60.0
"""How long a resumed job without a deadline waits for all its clients to come back."""
_MISSING_LOG_S = (10.0, 30.0, 60.0)


class Assembly:
    """The clients and edges of one job, before its rounds."""

    def __init__(
        self,
        job: JobSettings,
        reception: Reception,
        *,
        tiers: Tiers | None,
        journal: Journal,
        check: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """`check` raises JobFailed when the job ends without some clients."""
        self._job, self._reception, self._tiers = job, reception, tiers
        self._journal, self._check, self._clock = journal, check, clock
        self._edges_were_there = False

    async def everyone(self, *, resumed: bool) -> None:
        """Waits until all are there, and says at growing intervals who is missing.

        With a quorum and a deadline only so long; a resumed job that need not repeat bit for bit
        goes on with those that came back within a minute.
        """
        waits = iter(_MISSING_LOG_S)
        began, next_log = self._clock(), _MISSING_LOG_S[0]
        participation, limit_s = self._job.participation, self._limit_s(resumed)
        known = len(self._job.clients())
        while missing := self._reception.missing() + self._missing_edges():
            self._check()
            waited = self._clock() - began
            everyone = known - len(self._reception.troubles.given_up())
            is_late = limit_s is not None and waited >= limit_s
            if (is_late or not self._missing_edges()) and may_begin(
                everyone - len(self._reception.missing()), clients=everyone,
                quorum=participation.quorum, waited_s=waited, limit_s=limit_s,
            ):  # fmt: skip
                self._journal.notify(
                    "Warning", NoticeReason.CLIENTS_MISSING, message=_missing(missing, waited)
                )
                break
            if waited >= next_log:
                _log.info("waiting for clients", missing=missing, seconds=round(waited))
                next_log = waited + next(waits, _MISSING_LOG_S[-1])
            wake_s = min(next_log, limit_s if limit_s and waited < limit_s else next_log)
            await self._reception.changed(max(0.1, wake_s - waited))
        self._edges_were_there = True

    def _missing_edges(self) -> list[str]:
        """Edges that have not come yet; later rounds are planned for those that are there."""
        return [] if self._tiers is None or self._edges_were_there else self._tiers.missing()

    def _limit_s(self, resumed: bool) -> float | None:
        participation, patient = self._job.participation, self._job.training.deterministic
        if participation.quorum is not None and participation.round_deadline_seconds is not None:
            return participation.round_deadline_seconds
        return _RETURN_WITHIN_S if resumed and not patient else None

    async def anybody(self) -> None:
        """A plan needs somebody to plan for: with nobody there the job waits, it does not fail."""
        if not self._is_anybody():
            _log.warning("no client, or no edge, is connected: waiting for one")
        while not self._is_anybody():
            await self._reception.changed()
            self._check()

    def _is_anybody(self) -> bool:
        edges = self._tiers is None or bool(self._tiers.registrations())
        return edges and bool(self._reception.sessions)


def _missing(clients: list[str], waited_s: float) -> str:
    return f"goes on without {few(clients, SHOWN)}: not connected for {waited_s:.0f} s"
