"""Evaluation of the global model on held-out examples."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from lockstep_workers.data import Examples, as_batch
from lockstep_workers.learning.parameters import FlatModel

BATCH = 100  # small enough that a convolution's images stay in the cache


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result on the held-out examples."""

    accuracy: float
    """Share of examples classified right, 0 to 1."""
    loss: float
    """Mean cross-entropy in nats."""


@torch.inference_mode()
def evaluate(model: FlatModel, examples: Examples) -> Evaluation:
    """Accuracy and loss of `model` on `examples`."""
    model.module.eval()
    right, loss, count = 0, 0.0, len(examples.labels)
    for start in range(0, count, BATCH):
        x, y = as_batch(examples, np.arange(start, min(start + BATCH, count)))
        scores = model.module(x)
        right += int((scores.argmax(dim=1) == y).sum())
        loss += float(cross_entropy(scores, y, reduction="sum"))
    return Evaluation(right / count, loss / count)
