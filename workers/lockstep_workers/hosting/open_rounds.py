"""The rounds that a reception has open, and the sink that each one's updates go to.

At the cloud pod that is one at a time, at an edge one for each cluster that it runs. Invariant: a
client is in one of them at most.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lockstep_workers.hosting.around import Sink
from lockstep_workers.learning.rounds import Round


@dataclass(frozen=True, slots=True)
class OpenRound:
    """A round under way."""

    round: Round
    sink: Sink


class OpenRounds:
    """All that are under way."""

    def __init__(self) -> None:
        """None."""
        self._all: list[OpenRound] = []

    def first(self) -> Round | None:
        """The one that was opened first."""
        return self._all[0].round if self._all else None

    def of(self, client: str) -> OpenRound | None:
        """The one that a client is in; else any, which can say that it is not."""
        of_it = (one for one in self._all if one.round.has(client))
        return next(of_it, self._all[0] if self._all else None)

    def has(self, round_: Round | None) -> bool:
        """Whether a round is open."""
        return any(one.round is round_ for one in self._all)

    @contextmanager
    def opened(self, now: Round, sink: Sink) -> Iterator[None]:
        """A round is open inside."""
        one = OpenRound(now, sink)
        self._all.append(one)
        try:
            yield
        finally:
            self._all.remove(one)
