"""What a client is asked to do, for trainings without a server."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Task:
    """A task of a round; at first nothing of the client is in the model."""

    round: int
    steps: int = 3
    base_round: int | None = None
    mean_steps: float = 0.0
    numbers: Mapping[str, float] = field(default_factory=dict)


def no_probe(minibatches: int | None = None) -> Tensor:
    """Of a client whose strategy asks for no gradient at the received model."""
    raise AssertionError(minibatches)
