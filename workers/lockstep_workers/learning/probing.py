"""The gradient of a client's loss at the model that it received, before it trains.

Called by `learning.client` for strategies that ask for it. Invariant: the weights stay as they are,
and no draw of the training that follows depends on whether there was a probe.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from lockstep_workers.data import Examples, as_batch
from lockstep_workers.learning.parameters import FlatModel, flat_gradient
from lockstep_workers.learning.training import Pace, batches, pace_layers


def gradient_at(
    model: FlatModel,
    examples: Examples,
    *,
    minibatches: int | None,
    batch_size: int,
    seed: tuple[int, ...],
    pace: Pace | None = None,
) -> Tensor:
    """The mean gradient, (n,), of so many mini-batches, or (None) of all examples.

    Args:
        model: the model, at the weights at which the gradient is taken.
        examples: the client's own examples.
        minibatches: how many are drawn; None: every example counts once.
        batch_size: examples in a mini-batch; as many are in memory at once.
        seed: entropy of the order of the examples and of what the model draws (dropout).
        pace: as in `training.train`.
    """
    entropy = np.random.SeedSequence(seed)
    torch.manual_seed(int(entropy.generate_state(1)[0]))
    model.module.train()
    gradient = flat_gradient(model)
    drawn = _weighted(len(examples), minibatches, batch_size=batch_size, entropy=entropy)
    with ExitStack() as hooks:
        for batch, weight in drawn:
            x, y = as_batch(examples, batch)
            (cross_entropy(model.module(x), y) * weight).backward()  # type: ignore[no-untyped-call]
            if pace is not None and pace():
                hooks.close()
                pace_layers(model.module, pace, hooks=hooks)
    return gradient


def _weighted(
    count: int, minibatches: int | None, *, batch_size: int, entropy: np.random.SeedSequence
) -> Iterator[tuple[NDArray[np.int64], float]]:
    """Batches, and what the gradient of each counts in the mean."""
    if minibatches is None:
        for start in range(0, count, batch_size):
            batch = np.arange(start, min(start + batch_size, count))
            yield batch, len(batch) / count
    else:
        rng = np.random.default_rng(entropy)
        for batch in islice(batches(count, batch_size=batch_size, rng=rng), minibatches):
            yield batch, 1.0 / minibatches
