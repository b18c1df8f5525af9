"""Who holds connections, by address: who makes room when there are too many.

Used by `bounded`, `securing` and `probes`. Invariants: a source that holds more than another gives
way first, its oldest connection before its newer ones: nobody keeps others out by holding on. Where
connections have time to settle, half of a source's do: nobody keeps others out by coming fast.
"""

from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")


class Connected(Protocol):
    """A transport, as far as it is needed here."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Its peer's address."""


def source_of(transport: Connected) -> str:
    """Where a connection comes from; empty once nobody knows."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""


@dataclass(slots=True)
class Sources(Generic[T]):
    """Connections by the address that they come from."""

    settle_s: float = 0.0
    """While a source's oldest is younger, its newer half gives way and its older half stays."""
    _of: dict[str, dict[T, float]] = field(default_factory=dict)
    """With the time that each came at."""

    def add(self, source: str, one: T, *, now_s: float = 0.0) -> None:
        """Another one, the newest."""
        self._of.setdefault(source, {})[one] = now_s

    def discard(self, source: str, one: T) -> None:
        """It is gone, or counts no more."""
        held = self._of.get(source, {})
        held.pop(one, None)
        if not held:
            self._of.pop(source, None)

    def __len__(self) -> int:
        """Connections of all."""
        return sum(map(len, self._of.values()))

    def count(self, source: str) -> int:
        """Connections of one source."""
        return len(self._of.get(source, ()))

    def oldest(self, source: str) -> T:
        """The oldest of a source that has one."""
        return next(iter(self._of[source]))

    def next_to_go(self, now_s: float = 0.0) -> tuple[str, T] | None:
        """One of the source that holds most; of sources that hold as many the first.

        Its oldest, once that has had time to settle. Else the oldest of its newer half: would the
        oldest go, nobody who needs longer for a first word than a flood to come by could say it.
        """
        source = max(self._of, key=self.count, default=None)
        if source is None:
            return None
        held = self._of[source]
        oldest, came_s = next(iter(held.items()))
        if now_s - came_s >= self.settle_s:
            return source, oldest
        return source, next(islice(held, len(held) // 2, None))

    def all(self) -> list[T]:
        """Every one."""
        return [one for held in self._of.values() for one in held]
