"""Log lines that strangers can provoke: of each kind one in a while, with how many it stands for.

Used by `bounded`, and by the cloud pod for refusals. Invariant: what is kept grows with the kinds,
never with the calls; so a kind is named after what this program knows, never after what it was
sent.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

EVERY_S = 60.0


@dataclass(slots=True)
class _Kind:
    last_s: float
    left_out: int = 0


@dataclass(slots=True)
class Rarely:
    """Says when a line is due."""

    clock: Callable[[], float]
    every_s: float = EVERY_S
    _kinds: dict[str, _Kind] = field(default_factory=dict)

    def due(self, kind: str) -> int | None:
        """How often this kind was left out since its last line; None: leave it out again."""
        now_s, known = self.clock(), self._kinds.get(kind)
        if known is not None and now_s < known.last_s + self.every_s:
            known.left_out += 1
            return None
        self._kinds[kind] = _Kind(now_s)
        return 0 if known is None else known.left_out
