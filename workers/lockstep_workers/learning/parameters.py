"""A model's parameters as one flat vector; the vector is the storage, the module sees views of it.

Called by training, evaluation and the cloud role. Invariant: writing to the vector writes to the
module; after `flat_gradient`, autograd adds into the gradient vector.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lockstep_workers.errors import InvalidJob


@dataclass(frozen=True, slots=True)
class FlatModel:
    """A module whose parameters live in one vector.

    `vector`: float32 of shape (n,), n = number of parameters.
    """

    module: nn.Module
    vector: Tensor


def flatten(module: nn.Module) -> FlatModel:
    """Moves all parameters of `module` into one float32 vector.

    Raises:
        InvalidJob: the module has floating-point buffers (BatchNorm statistics), which averaging
            would not carry.
    """
    buffers = [name for name, b in module.named_buffers() if b.is_floating_point()]
    if buffers:
        raise InvalidJob(
            f"the model has running statistics ({', '.join(buffers[:3])}), which are not averaged: "
            "use GroupNorm or LayerNorm instead of BatchNorm"
        )
    vector = torch.cat([p.detach().reshape(-1).float() for p in module.parameters()])
    return use_vector(module, vector)


def use_vector(module: nn.Module, vector: Tensor) -> FlatModel:
    """Puts the parameters of `module` into `vector`, float32 of shape (n,): nothing is copied."""
    for p, part in zip(module.parameters(), _parts(module, vector), strict=True):
        p.data = part
    return FlatModel(module, vector)


def flat_gradient(model: FlatModel) -> Tensor:
    """A new vector of zeros, (n,), into which autograd adds from now on."""
    gradient = torch.zeros_like(model.vector)
    for p, part in zip(model.module.parameters(), _parts(model.module, gradient), strict=True):
        p.grad = part
    return gradient


def _parts(module: nn.Module, vector: Tensor) -> Iterator[Tensor]:
    """A view of `vector` for each parameter, in its shape."""
    start = 0
    for p in module.parameters():
        end = start + p.numel()
        yield vector[start:end].view_as(p)
        start = end


def shapes(flat: FlatModel) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the parameters, in the order in which the vector holds them."""
    return {name: tuple(p.shape) for name, p in flat.module.named_parameters()}
