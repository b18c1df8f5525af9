"""Models and data that cannot work; each function has one fault of those that people make."""

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lockstep_workers.data import Dataset, Examples


def load(features: int = 20, means: int = 0) -> Dataset:
    """A data set that is in order, unless it is given a mean for each feature."""
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(90, features)).astype(np.float32), np.arange(90) % 3
    mean: Any = np.zeros(means) if means else 0.0
    return Dataset(
        Examples(inputs[:60], labels[:60], mean=mean), Examples(inputs[60:], labels[60:])
    )


def load_on_first() -> Dataset:
    """Fails in the pod of one device."""
    if os.environ.get("LOCKSTEP_POD", "").endswith("-1"):
        raise FileNotFoundError("no sensor on this machine")
    return load()


def plain() -> nn.Module:
    """A model that is in order."""
    return nn.Linear(20, 3)


def frozen() -> nn.Module:
    """All of its parameters are frozen."""
    return nn.Linear(20, 3).requires_grad_(False)


class Halves(nn.Module):
    """Works in bfloat16 only."""

    def __init__(self) -> None:
        """One layer."""
        super().__init__()
        self.layer = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Casts its input."""
        scores = self.layer(x.to(torch.bfloat16))
        assert isinstance(scores, Tensor)
        return scores.float()


def halves() -> nn.Module:
    """A bfloat16 module that casts its input."""
    return Halves().to(torch.bfloat16)


class Late(nn.Module):
    """Fails in the second round of one device."""

    def __init__(self) -> None:
        """One layer."""
        super().__init__()
        self.layer, self.passes = nn.Linear(20, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        """Counts its training passes."""
        self.passes += self.training
        if self.passes > 10 and os.environ.get("LOCKSTEP_POD", "").endswith("-1"):
            raise IndexError(f"pass {self.passes} has no schedule")
        scores = self.layer(x)
        assert isinstance(scores, Tensor)
        return scores


def late() -> nn.Module:
    """A model whose data provoke an error in a later round."""
    return Late()
