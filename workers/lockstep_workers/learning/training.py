"""Local training: SGD with momentum on one client's examples; changes only the model given."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from lockstep_workers.data import Examples, as_batch
from lockstep_workers.learning.parameters import FlatModel, flat_gradient
from lockstep_workers.learning.strategy import Correction

Pace = Callable[[], bool]
"""What a training calls between steps, so that somebody can hold it up; it says whether it wants to
be called within steps too, as they are long."""
Enough = Callable[[], bool]
"""What a training asks after each step: whether it ends with it."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The SGD steps of a training."""

    done: int
    loss: float
    """Mean training loss over them, in nats."""


@dataclass(frozen=True, slots=True)
class Sgd:
    """Hyper-parameters of local training."""

    learning_rate: float
    momentum: float
    batch_size: int


def batches(
    n_examples: int, *, batch_size: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Mini-batches without end: a new random order each time all examples were used."""
    while True:
        order = rng.permutation(n_examples)
        for start in range(0, n_examples, batch_size):
            yield order[start : start + batch_size]


def drawn(
    n_examples: int, *, batch_size: int, seed: tuple[int, ...]
) -> Iterator[NDArray[np.int64]]:
    """The mini-batches of a training with this seed, without end."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    return batches(n_examples, batch_size=batch_size, rng=rng)


def flush_denormals() -> None:
    """Numbers too small to be normal are 0: for this thread, and those that it starts, from now on.

    With them some processors are a hundred times slower, and a client that is not honest can send
    them, or such that their products are. Every process that trains or evaluates does the same, so
    that what it computes is the same.
    """
    torch.set_flush_denormal(True)


def be_deterministic() -> None:
    """One thread, and only algorithms that repeat bit for bit: for this process, from now on.

    An operation that has no such algorithm warns instead of failing.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)


def train(
    model: FlatModel,
    examples: Examples,
    *,
    steps: int,
    sgd: Sgd,
    correction: Correction | None,
    seed: tuple[int, ...],
    pace: Pace | None = None,
    enough: Enough | None = None,
) -> Steps:
    """Does at most `steps` SGD steps on `model` in place, and one at least.

    Args:
        model: the model, at the received weights.
        examples: the client's own examples.
        steps: mini-batches, at least 1.
        sgd: hyper-parameters; momentum starts at 0.
        correction: changes each gradient before the step.
        seed: entropy of the order of the examples and of what the model draws (dropout): (job's
            seed, client's index, round).
        pace: called between steps and, when it asks for that, between the layers of the model.
        enough: asked between steps; the first one that it is enough after is the last.
    """
    torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    velocity = torch.zeros_like(model.vector) if sgd.momentum else None
    chosen = drawn(len(examples), batch_size=sgd.batch_size, seed=seed)
    model.module.train()
    gradient = flat_gradient(model)
    losses = []
    with ExitStack() as hooks:
        for _ in range(steps):
            batch = as_batch(examples, next(chosen))
            loss = _step(
                model, batch, gradient=gradient, sgd=sgd, correction=correction, velocity=velocity
            )
            losses.append(loss)
            if pace is not None and pace():
                hooks.close()
                pace_layers(model.module, pace, hooks=hooks)
            if enough is not None and enough():
                break
    return Steps(len(losses), float(torch.stack(losses).mean()))


def pace_layers(module: torch.nn.Module, pace: Pace, *, hooks: ExitStack) -> None:
    """Calls `pace` after each layer's part of the forward and of the backward pass.

    A single operation of a layer is not interrupted.
    """

    def after_gradient(_gradient: Tensor) -> None:
        pace()

    def after(_module: torch.nn.Module, _inputs: object, output: object) -> None:
        pace()
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(after_gradient)  # type: ignore[no-untyped-call]

    for layer in module.modules():
        if next(layer.children(), None) is None:
            hooks.callback(layer.register_forward_hook(after).remove)


def _step(
    model: FlatModel,
    batch: tuple[Tensor, Tensor],
    *,
    gradient: Tensor,
    sgd: Sgd,
    correction: Correction | None,
    velocity: Tensor | None,
) -> Tensor:
    x, y = batch
    gradient.zero_()
    loss = cross_entropy(model.module(x), y)
    loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        if correction is not None:
            correction(model.vector, gradient)
        descend(model.vector, gradient, sgd=sgd, velocity=velocity)
    return loss.detach()


def descend(weights: Tensor, gradient: Tensor, *, sgd: Sgd, velocity: Tensor | None) -> None:
    """A step against the gradient, in place; all of one shape. Velocity: with momentum only."""
    step = gradient if velocity is None else velocity.mul_(sgd.momentum).add_(gradient)
    weights.add_(step, alpha=-sgd.learning_rate)
