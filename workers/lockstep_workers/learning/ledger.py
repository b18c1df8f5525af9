"""How many models the updates of each client of a private job are in. No I/O.

Kept by `cloud.account`. ε follows from the count of the client of which most are
(`lockstep_operator.core.privacy`). Invariant: no count ever becomes less.
"""

from collections.abc import Iterable

from pydantic import Field

from lockstep_api.base import WireModel
from lockstep_api.wire_types import Number


class Ledger(WireModel):
    """The counts of a job's clients."""

    least: Number = 0
    """What every client counts at least."""
    rounds: dict[str, Number] = Field(default_factory=dict)
    """Client → models that its updates are in; those of rounds that were done again count, too."""

    @property
    def most(self) -> int:
        """The count of the client that most models know."""
        return max([self.least, *self.rounds.values()])

    def of(self, client: str) -> int:
        """The count of a client."""
        return max(self.least, self.rounds.get(client, 0))

    def at_least(self, rounds: int) -> "Ledger":
        """The ledger in which no client has less."""
        return self.model_copy(update={"least": max(self.least, rounds)})

    def after(self, clients: Iterable[str]) -> "Ledger":
        """The ledger once the updates of these clients are in one more model."""
        more = {client: self.of(client) + 1 for client in clients}
        return self.model_copy(update={"rounds": {**self.rounds, **more}})

    def allows(self, clients: Iterable[str], *, most: int | None) -> bool:
        """Whether updates of these clients may be in one more model."""
        return most is None or all(self.of(client) < most for client in clients)
