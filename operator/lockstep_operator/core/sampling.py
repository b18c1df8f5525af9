"""Which of the connected clients take part in a round; `plan` calls it."""

from collections.abc import Sequence

from numpy.random import SeedSequence, default_rng


def sample(clients: Sequence[str], *, fraction: float, seed: int, round: int) -> list[str]:
    """A share of `clients` without replacement, in their order; the same for one (seed, round)."""
    if not clients:
        return []
    count = min(len(clients), max(1, _nearest(fraction * len(clients))))
    generator = default_rng(SeedSequence((seed, round)))
    chosen = generator.choice(len(clients), size=count, replace=False)
    return [clients[index] for index in sorted(chosen)]


def _nearest(value: float) -> int:
    """The nearest whole number; halves go up."""
    return int(value + 0.5)
