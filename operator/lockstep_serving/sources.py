"""Who holds connections, by address: who makes room when there are too many.

Used by `bounded` and `probes`. Invariant: a source that holds more than another gives way first,
its oldest connection before its newer ones; so nobody keeps others out by holding on.
"""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


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

    def next_to_go(self) -> tuple[str, T] | None:
        """The oldest of the source that holds most; of sources that hold as many the first."""
        source = max(self._of, key=self.count, default=None)
        return None if source is None else (source, next(iter(self._of[source])))

    def all(self) -> list[T]:
        """Every one."""
        return [one for held in self._of.values() for one in held]
