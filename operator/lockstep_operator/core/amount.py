"""Amounts of all that a node can run out of; `placement` and `occupancy` reckon with them.

Every resource that pods of a job ask for has a field here: what is not counted, kube-scheduler
still counts, and a pod would wait without a word.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

_SLACK = 1e-9
"""Of a pod: sums of decimal fractions are not exact."""


@dataclass(frozen=True, slots=True)
class Amount:
    """What a pod asks for, or a node has."""

    cpu: float = 0.0
    """Cores."""
    memory: float = 0.0
    """Bytes."""
    pods: float = 0.0
    storage: float = 0.0
    """Bytes of ephemeral storage."""

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(
            self.cpu + other.cpu,
            self.memory + other.memory,
            self.pods + other.pods,
            self.storage + other.storage,
        )

    def __sub__(self, other: "Amount") -> "Amount":
        return self + -1 * other

    def __rmul__(self, factor: float) -> "Amount":
        return Amount(
            factor * self.cpu, factor * self.memory, factor * self.pods, factor * self.storage
        )

    def parts(self) -> tuple[float, float, float, float]:
        """The fields in their order."""
        return self.cpu, self.memory, self.pods, self.storage

    def larger(self, other: "Amount") -> "Amount":
        """Of each resource the larger amount."""
        return Amount(*map(max, self.parts(), other.parts()))

    def smaller(self, other: "Amount") -> "Amount":
        """Of each resource the smaller amount."""
        return Amount(*map(min, self.parts(), other.parts()))

    def holds(self, need: "Amount") -> int:
        """How many times `need`, which is not nothing, fits."""
        pairs = zip(self.parts(), need.parts(), strict=True)
        return max(0, int(min(have / want for have, want in pairs if want > 0) + _SLACK))

    def covers(self, need: "Amount") -> bool:
        """Whether `need` fits."""
        pairs = zip(self.parts(), need.parts(), strict=True)
        return all(have + _SLACK >= want for have, want in pairs)


UNBOUNDED = Amount(math.inf, math.inf, math.inf, math.inf)
"""As much as anybody likes."""


def total(amounts: Iterable[Amount]) -> Amount:
    """The sum of all."""
    return sum(amounts, start=Amount())
