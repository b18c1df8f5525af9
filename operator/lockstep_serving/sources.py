"""Who holds connections, by address: who makes room when there are too many.

Used by `bounded`, `securing` and `probes`. Invariant: a source that holds more than another gives
way first, its oldest connection before its newer ones; so nobody keeps others out by holding on.
"""

from dataclasses import dataclass, field
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

    _of: dict[str, dict[T, None]] = field(default_factory=dict)

    def add(self, source: str, one: T) -> None:
        """Another one, the newest."""
        self._of.setdefault(source, {})[one] = None

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

    def next_to_go(self) -> tuple[str, T] | None:
        """The oldest of the source that holds most; of sources that hold as many the first."""
        source = max(self._of, key=self.count, default=None)
        return None if source is None else (source, self.oldest(source))

    def all(self) -> list[T]:
        """Every one."""
        return [one for held in self._of.values() for one in held]
