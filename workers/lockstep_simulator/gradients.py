"""The gradients of several clients' mini-batches at once, each at weights of its own.

`batched` calls it. Two ways: perceptrons (the built-in `mlp` is one) by grouped matrix products,
which cost half as much as the other way, and any other module by `torch.func`. Which models are
worth it, and whether theirs are the gradients that the module itself has, is found out before.
Invariant: row i depends on the weights and the examples of row i alone, but for float error.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy

from lockstep_workers.entrypoints import explained
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.parameters import FlatModel, flat_gradient

MOST_VALUES = 1 << 20
"""Trained values up to which a model counts as small: beyond, arithmetic outweighs all else."""
_SLOWER_AT_ONCE = (nn.modules.conv._ConvNd, nn.RNNBase)
_CLOSE = 1e-4


@dataclass(frozen=True, slots=True)
class Batch:
    """A mini-batch of each client; shorter ones are filled up with examples that weigh nothing."""

    inputs: Tensor
    """(clients, b, …) float32"""
    labels: Tensor
    """(clients, b)"""
    weights: Tensor
    """(clients, b): each client's add up to 1."""


class Gradients(Protocol):
    """How the gradients of several clients are had."""

    def __call__(self, weights: Tensor, batch: Batch, /, *, into: Tensor) -> Tensor:
        """The losses, (clients,).

        The gradient of each goes into its row of `into`, which is of the shape of the weights,
        (clients, n).
        """


def at_once(model: FlatModel, sample: tuple[Tensor, Tensor]) -> Gradients | str:
    """How to have the gradients of several clients of this model at once; or why better not.

    Args:
        model: the model that they share; it stays as it is.
        sample: a mini-batch, to try it with.
    """
    if model.vector.numel() > MOST_VALUES:
        return f"it trains {model.vector.numel():,} values, more than {MOST_VALUES:,}"
    for layer in model.module.modules():
        if isinstance(layer, _SLOWER_AT_ONCE):
            return f"{type(layer).__name__} layers are faster one by one"
    gradients = perceptron(model.module) or functional(model)
    try:
        with explained("trying it raised"), torch.random.fork_rng(devices=[]):
            agree = _agrees(gradients, model, sample=sample)
    except InvalidJob as error:
        return str(error)
    return gradients if agree else "its gradients are others then"


def _agrees(gradients: Gradients, model: FlatModel, *, sample: tuple[Tensor, Tensor]) -> bool:
    """Whether two clients, whose batches are filled up, have the module's own gradients."""
    x, y = sample
    model.module.train()
    expected = flat_gradient(model)
    cross_entropy(model.module(x), y).backward()  # type: ignore[no-untyped-call]
    for p in model.trained:
        p.grad = None
    weights = model.vector.repeat(2, 1)
    found = torch.empty_like(weights)
    share = torch.full((2, len(y) + 1), 1.0 / len(y))
    share[:, -1] = 0.0
    more_x, more_y = torch.cat([x, x[:1]]), torch.cat([y, y[:1]])
    gradients(
        weights, Batch(torch.stack([more_x] * 2), torch.stack([more_y] * 2), share), into=found
    )
    most = _CLOSE * float(expected.norm())
    return all(float((row - expected).norm()) <= most for row in found)


def _rows(parameters: Sequence[nn.Parameter], rows: Tensor) -> Iterator[Tensor]:
    """A view of `rows`, (clients, n), for each parameter: (clients, *its shape)."""
    start = 0
    for p in parameters:
        end = start + p.numel()
        yield rows[:, start:end].view(len(rows), *p.shape)
        start = end


def perceptron(module: nn.Module) -> Gradients | None:
    """For linear layers with ReLU between them, after a Flatten; None: the module is no such."""
    if type(module) is not nn.Sequential or any(_has_hooks(one) for one in module.modules()):
        return None
    linear, every = list(module)[1::2], list(module.parameters())
    wanted = [nn.Flatten, *[nn.Linear, nn.ReLU] * len(linear)][:-1]
    plain = all(p.requires_grad for p in every) and len(every) == 2 * len(linear) > 0
    if not plain or [type(layer) for layer in module] != wanted or not _is_plain(module[0]):
        return None

    def gradients(weights: Tensor, batch: Batch, *, into: Tensor) -> Tensor:
        own, out = list(_rows(every, weights)), list(_rows(every, into))
        activations = [batch.inputs.flatten(2)]
        for matrix, bias in zip(own[:-2:2], own[1:-2:2], strict=True):
            activations.append(_affine(activations[-1], matrix, bias=bias).relu_())
        scores = _affine(activations[-1], own[-2], bias=own[-1])
        losses, back = _loss(scores, batch)
        for place in range(len(linear) - 1, -1, -1):
            x = activations[place]
            torch.bmm(back.transpose(1, 2), x, out=out[2 * place])
            torch.sum(back, 1, out=out[2 * place + 1])
            if place:
                back = torch.bmm(back, own[2 * place]).mul_(x > 0)
        return losses

    return gradients


def _is_plain(flat: nn.Module) -> bool:
    return type(flat) is nn.Flatten and (flat.start_dim, flat.end_dim) == (1, -1)


def _has_hooks(layer: nn.Module) -> bool:
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks)
    return any(hooks) or bool(layer._backward_pre_hooks)


def _affine(x: Tensor, matrix: Tensor, *, bias: Tensor) -> Tensor:
    """(clients, b, in) → (clients, b, out)"""
    return torch.baddbmm(bias.unsqueeze(1), x, matrix.transpose(1, 2))


def _loss(scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy, (clients,), and its gradient by the scores, (clients, b, classes)."""
    logs, chosen = scores.log_softmax(2), batch.labels.unsqueeze(2)
    weights = batch.weights.unsqueeze(2)
    losses = -(logs.gather(2, chosen) * weights).sum((1, 2))
    back = logs.exp_().mul_(weights).scatter_add_(2, chosen, -weights)
    return losses, back


def functional(model: FlatModel) -> Gradients:
    """For any module that `torch.func` can transform."""
    names = {p: name for name, p in model.module.named_parameters()}

    def loss(own: dict[str, Tensor], given: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, y, weights = given
        scores = functional_call(model.module, own, (x,))
        return (cross_entropy(scores, y, reduction="none") * weights).sum()

    every: Any = vmap(grad_and_value(loss))

    def gradients(weights: Tensor, batch: Batch, *, into: Tensor) -> Tensor:
        parts = _rows(model.trained, weights)
        own = {names[p]: part for p, part in zip(model.trained, parts, strict=True)}
        found, losses = every(own, (batch.inputs, batch.labels, batch.weights))
        for name, row in zip(own, _rows(model.trained, into), strict=True):
            row.copy_(found[name])
        out: Tensor = losses
        return out

    return gradients
