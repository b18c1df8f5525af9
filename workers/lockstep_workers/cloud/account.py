"""The account of a private job: its ledger, in a file of its own that no checkpoint takes back.

Owned by the job, which asks before a round and tells before its model is made. Invariant: what a
model shows of its clients is on the volume before its noise is drawn, so that rounds that are done
again, or that nobody could evaluate, count as well. Of a job that hides nobody there is no account.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from lockstep_api.privacy import LedgerMark, PrivacyPlan, PrivacyReport
from lockstep_api.wire import Outcome, RoundPlan
from lockstep_workers.learning.ledger import Ledger
from lockstep_workers.learning.rounds import Progress

MODELS_LOST = (
    "privacy.epsilonBudget was spent on models that are lost with their volume: nothing is left to"
    " train another with; apply the job anew with a volume that lasts"
)
_log = structlog.get_logger()


class Ledgers(Protocol):
    """Where a ledger is kept (`cloud.store`)."""

    def ledger(self) -> Ledger:
        """The one that is kept; an empty one when none is."""

    def save_ledger(self, ledger: Ledger) -> None:
        """Keeps it.

        Raises:
            OSError: the volume is full or broken.
        """


@dataclass(slots=True)
class InMemory:
    """A ledger that ends with its process, of a job that is simulated."""

    kept: Ledger = field(default_factory=Ledger)

    def ledger(self) -> Ledger:
        """As `Ledgers`."""
        return self.kept

    def save_ledger(self, ledger: Ledger) -> None:
        """As `Ledgers`."""
        self.kept = ledger


class Account:
    """What the clients of one job have shown."""

    def __init__(self, store: Ledgers, *, private: bool) -> None:
        """As it is kept; none, if the job is not `private`."""
        self._store = store
        self._ledger = self._begun(store.ledger()) if private else None

    def _begun(self, ledger: Ledger) -> Ledger:
        """One that has a name on the volume before it is told: a new one there is another one."""
        if ledger.name:
            return ledger
        begun = ledger.begun()
        try:
            self._store.save_ledger(begun)
        except OSError as error:  # the job ends at its first model, unless there is room by then
            _log.warning("the account cannot be written down", error=str(error))
        return begun

    @property
    def rounds(self) -> int | None:
        """Models that the updates of a client are in, of that of which most are."""
        return None if self._ledger is None else self._ledger.most

    @property
    def mark(self) -> LedgerMark | None:
        """Of the ledger that says so."""
        return None if self._ledger is None else self._ledger.mark

    def resume(self, progress: Progress) -> None:
        """Takes in what a checkpoint knows, should the file be lost and it not."""
        if self._ledger is not None and progress.report is not None:
            told = progress.report.privacy
            self._ledger = self._ledger.at_least(0 if told is None else told.rounds)

    def allows(self, plan: RoundPlan) -> bool:
        """Whether a round may be played, as far as its plan's budget goes."""
        if self._ledger is None or plan.privacy is None:
            return True
        least = plan.privacy.least_rounds
        if least > self._ledger.most or plan.privacy.least_models > self._ledger.models:
            _log.warning("the account was lost: all clients count as the status says")
            self._ledger = self._ledger.at_least(least, models=plan.privacy.least_models)
        clients = (one.client for one in plan.participants)
        return self._ledger.allows(clients, most=plan.privacy.most_rounds)

    def spend(self, clients: Collection[str]) -> None:
        """The updates of these clients will be in a model: first of all it is written down.

        Raises:
            OSError: it is not: the volume is full or broken.
        """
        if self._ledger is not None:
            after = self._ledger.after(clients)
            self._store.save_ledger(after)
            self._ledger = after

    def told_at_end(self, outcome: Outcome) -> Outcome:
        """The outcome with what the job has come to."""
        told = outcome.result == "PrivacyBudgetSpent"
        why = "; another round would spend more than privacy.epsilonBudget" if told else ""
        update = {"private_rounds": self.rounds, "message": outcome.message + why}
        return outcome.model_copy(update=update)

    def report(self, plan: RoundPlan) -> PrivacyReport | None:
        """The account after the round of a plan."""
        if self._ledger is None:
            return None
        rounds, told = self._ledger.most, plan.privacy
        delta = None if told is None else told.delta
        epsilon = None if told is None else _epsilon_at(told, rounds)
        return PrivacyReport(rounds=rounds, epsilon=epsilon, delta=delta)


def _epsilon_at(told: PrivacyPlan, rounds: int) -> float | None:
    """ε after so many rounds, where a plan says it: one that is used again is too old to."""
    return {told.rounds: told.epsilon, told.rounds + 1: told.epsilon_after}.get(rounds)
