"""A model as two halves: the front that devices train, and the back that edges train.

A model is cut after one of its layers, the children of an `nn.Sequential`; two functions of the
user's make one of two children (`models.build_model`). Called by devices, edges and the cloud role.
Invariant: the front's trained parameters are the first values of the model's vector, so that both
halves' vectors one after the other are the whole model's.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lockstep_workers.entrypoints import explained
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.parameters import FlatModel, flatten

_TRIED = 2  # examples


@dataclass(frozen=True, slots=True)
class Halves:
    """A model that is cut: its halves are views, and share the model's parameters."""

    front: nn.Module
    back: nn.Module
    n_front: int
    """Values of the front's trained parameters."""
    cut: str
    """The layer after which it is cut."""


def layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers that a model is a chain of; none: it is no chain."""
    if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward:
        return []
    # named_children() would leave out a layer that is used twice.
    return [(name, layer) for name, layer in module._modules.items() if layer is not None]


def layer_names(module: nn.Module) -> list[str]:
    """The layers after which a model can be cut.

    Both halves have parameters that are trained then, and none that is tied to the other half's.
    """
    names = [name for name, _ in layers(module)]
    return [name for index, name in enumerate(names) if _cuts(module, index + 1)]


def _cuts(module: nn.Module, count: int) -> bool:
    assert isinstance(module, nn.Sequential)
    front, back = _trained(module[:count]), _trained(module[count:])
    return bool(front and back and not front.keys() & back.keys())


def _trained(module: nn.Module) -> dict[int, int]:
    """Values of each trained parameter, by what it is."""
    return {id(p): p.numel() for p in module.parameters() if p.requires_grad and p.numel()}


def halves(model: FlatModel, cut: str) -> Halves:
    """The halves of a model that is cut after this layer.

    Raises:
        InvalidJob: it cannot be cut there; names the layers after which it can.
    """
    module, known = model.module, layer_names(model.module)
    if cut not in known:
        raise InvalidJob(cannot_cut(module, cut, known=known))
    assert isinstance(module, nn.Sequential)
    count = 1 + [name for name, _ in layers(module)].index(cut)
    front, back = module[:count], module[count:]
    return Halves(front, back, sum(_trained(front).values()), cut)


def cannot_cut(module: nn.Module, cut: str = "", *, known: Sequence[str]) -> str:
    """Why a model cannot be cut after this layer, when it can be after the known ones."""
    if known:
        return f"model.cut {cut!r} is no layer to cut after: use auto, or one of {', '.join(known)}"
    if layers(module):
        return (
            "the model cannot be cut for mode split: after none of its layers are there parameters "
            "to train on both sides that are not tied to each other"
        )
    return (
        f"the model is a {type(module).__name__}, and mode split cuts an nn.Sequential between its "
        "children: return one, or give two functions, model.front and model.back"
    )


def own(half: nn.Module) -> FlatModel:
    """A copy of a half, its trained parameters in a vector of their own."""
    return flatten(copy.deepcopy(half))


def cut_shape(
    front: nn.Module, example: Sequence[int], *, entrypoint: str | None = None
) -> list[int]:
    """The shape of an example's activations at the cut, from the example's own.

    Args:
        front: the front half.
        example: shape of an example as the model takes it, without the batch.
        entrypoint: the user's function that made it; None: it is built in.

    Raises:
        InvalidJob: what the front half gives are no activations of each example.
    """
    what = f"the front half of the model, on inputs of shape {(_TRIED, *example)},"
    training = front.training
    with explained(f"{what} raised", own=entrypoint), torch.no_grad():
        found = front.eval()(torch.zeros(_TRIED, *example))
        front.train(training)
    if wrong := not_activations(found, _TRIED):
        raise InvalidJob(f"{what} gave {wrong}: cut the model after another layer")
    return list(found.shape[1:])


def not_activations(found: object, examples: int) -> str | None:
    """What is wrong with what a front half gave for so many examples; None: nothing."""
    if not isinstance(found, Tensor):
        return f"a {type(found).__name__}, not a tensor"
    if found.dtype != torch.float32:
        return f"{found.dtype}, not float32"
    if found.dim() < 2 or found.shape[0] != examples or not found.numel():
        return f"values of shape {tuple(found.shape)}, not some for each of {examples} examples"
    return None
