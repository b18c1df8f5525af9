"""What a strategy learns of a client's gradients while it trains; strategies make one a round."""

from torch import Tensor


class RawMean:
    """The mean of a round's raw gradients, from before corrections and momentum."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self.steps = 0
        """How many were added."""

    def add(self, gradient: Tensor) -> None:
        """Adds the gradient of a step, (n,), which may change afterwards."""
        self._sum = gradient.clone() if self._sum is None else self._sum.add_(gradient)
        self.steps += 1

    def take(self) -> Tensor:
        """The mean, (n,), of at least one step; the next round makes another."""
        assert self._sum is not None, "no step was taken"
        return self._sum.div_(self.steps)
