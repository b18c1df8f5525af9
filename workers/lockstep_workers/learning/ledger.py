"""How many models the updates of each client of a private job are in. No I/O.

Kept by `cloud.account`. ε follows from the count of the client of which most are
(`lockstep_operator.core.privacy`). Invariant: no count ever becomes less.
"""

import secrets
from collections.abc import Iterable

from pydantic import Field

from lockstep_api.base import WireModel
from lockstep_api.privacy import LedgerMark
from lockstep_api.wire_types import Number


class Ledger(WireModel):
    """The counts of a job's clients."""

    name: str = ""
    """Drawn when it is begun; empty: it is not."""
    models: Number = 0
    """Models that were made: two states of a ledger in its order."""
    least: Number = 0
    """What every client counts at least."""
    rounds: dict[str, Number] = Field(default_factory=dict)
    """Client → models that its updates are in; those of rounds that were done again count, too."""

    @property
    def mark(self) -> LedgerMark:
        """By which it is told from another one, and from what it was."""
        return LedgerMark(ledger=self.name, models=self.models)

    def begun(self) -> "Ledger":
        """The same with a name that no other has."""
        return self.model_copy(update={"name": secrets.token_hex(16)})

    @property
    def most(self) -> int:
        """The count of the client that most models know."""
        return max([self.least, *self.rounds.values()])

    def of(self, client: str) -> int:
        """The count of a client."""
        return max(self.least, self.rounds.get(client, 0))

    def at_least(self, rounds: int, *, models: int = 0) -> "Ledger":
        """The ledger in which no client has less, and which has seen so many models."""
        more = {"least": max(self.least, rounds), "models": max(self.models, models)}
        return self.model_copy(update=more)

    def after(self, clients: Iterable[str]) -> "Ledger":
        """The ledger once the updates of these clients are in one more model."""
        more = {client: self.of(client) + 1 for client in clients}
        rounds, models = {**self.rounds, **more}, self.models + 1
        return self.model_copy(update={"rounds": rounds, "models": models})

    def allows(self, clients: Iterable[str], *, most: int | None) -> bool:
        """Whether updates of these clients may be in one more model."""
        return most is None or all(self.of(client) < most for client in clients)
