"""A model's trained parameters as one flat vector, which is their storage: the module sees views.

Called by training, evaluation and the cloud role. What is not trained, frozen parameters and
buffers, is `learning.constants`' matter. Invariant: writing to the vector writes to the module;
after `flat_gradient`, autograd adds into the gradient vector.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

_HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class FlatModel:
    """A module whose trained parameters live in one vector."""

    module: nn.Module
    vector: Tensor
    """float32 of shape (n,), n = number of values of the trained parameters."""
    trained: tuple[nn.Parameter, ...]
    """The parameters, each once, in the vector's order."""


def flatten(module: nn.Module) -> FlatModel:
    """Moves all parameters of `module` that need a gradient into one float32 vector.

    What stays outside of it becomes float32, too, where it has fewer bits: one dtype for all.
    """
    trained = tuple(p for p in module.parameters() if p.requires_grad)
    vector = torch.cat([p.detach().reshape(-1).float() for p in trained])
    _widen(module)
    return use_vector(FlatModel(module, vector, trained), vector)


def _widen(module: nn.Module) -> None:
    for parameter in module.parameters():
        if not parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.float()
    wide: dict[int, Tensor] = {}
    for layer in module.modules():
        for name, buffer in layer.named_buffers(recurse=False, remove_duplicate=False):
            if buffer.dtype in _HALVES:
                setattr(layer, name, wide.setdefault(id(buffer), buffer.float()))


def use_vector(model: FlatModel, vector: Tensor) -> FlatModel:
    """The same model with its parameters in `vector`, float32 of shape (n,): nothing is copied."""
    for p, part in zip(model.trained, _parts(model.trained, vector), strict=True):
        p.data = part
    return replace(model, vector=vector)


def flat_gradient(model: FlatModel) -> Tensor:
    """A new vector of zeros, (n,), into which autograd adds from now on."""
    gradient = torch.zeros_like(model.vector)
    for p, part in zip(model.trained, _parts(model.trained, gradient), strict=True):
        p.grad = part
    return gradient


def _parts(parameters: Iterable[nn.Parameter], vector: Tensor) -> Iterator[Tensor]:
    """A view of `vector` for each parameter, in its shape."""
    start = 0
    for p in parameters:
        end = start + p.numel()
        yield vector[start:end].view_as(p)
        start = end
