"""A model's parameters as one flat vector; the vector is the storage, the module sees views of it.

Called by training and evaluation. Invariant: after `flatten`, writing to the vector writes to the
module, and autograd adds into the gradient vector.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lockstep_workers.errors import InvalidJob


@dataclass(frozen=True, slots=True)
class FlatModel:
    """A module whose parameters live in one vector.

    `vector`, `gradient`: float32 of shape (n,), n = number of parameters.
    """

    module: nn.Module
    vector: Tensor
    gradient: Tensor


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
    parameters = list(module.parameters())
    vector = torch.cat([p.detach().reshape(-1).float() for p in parameters])
    gradient = torch.zeros_like(vector)
    start = 0
    for p in parameters:
        end = start + p.numel()
        p.data = vector[start:end].view_as(p)
        p.grad = gradient[start:end].view_as(p)
        start = end
    return FlatModel(module, vector, gradient)


def named_tensors(flat: FlatModel) -> dict[str, Tensor]:
    """Copies of the parameters by name, for a model file."""
    return {name: p.detach().clone() for name, p in flat.module.named_parameters()}
