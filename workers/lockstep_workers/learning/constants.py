"""What a model has beside its trained parameters: buffers and frozen parameters.

Training does not change them, so no update carries them. They go once from the cloud pod to every
client, since each client builds the model itself, and what is drawn or computed in doing so may
differ from machine to machine. Called by the cloud role, by devices, and around every training.
Invariant: what training would change (running statistics) ends the job by name.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lockstep_workers.errors import InvalidJob
from lockstep_workers.words import some


def constants(module: nn.Module) -> dict[str, Tensor]:
    """Frozen parameters and buffers by name, each once."""
    frozen = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
    return {**frozen, **_buffers(module)}


def pack(module: nn.Module) -> bytes:
    """The constants as safetensors; empty: there are none."""
    found = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in constants(module).items()
    }
    return save(found) if found else b""


@torch.no_grad()
def unpack(module: nn.Module, body: bytes) -> None:
    """Takes the constants over that another pod has packed.

    Raises:
        InvalidJob: they are of another model.
    """
    own = constants(module)
    try:
        given = load(body) if body else {}
    except SafetensorError as error:
        raise InvalidJob(f"the model's constants cannot be read: {error}") from error
    if _shapes(own) != _shapes(given):
        odd = sorted(dict(_shapes(own).items() ^ _shapes(given).items()))
        raise InvalidJob(
            f"the model that is built here has other buffers or frozen parameters than the cloud "
            f"pod's ({some(odd)}): the function must build the same model in every pod"
        )
    for name, tensor in own.items():
        tensor.copy_(given[name])


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}


@contextmanager
def unchanged(module: nn.Module, *, frozen: bool = False) -> Iterator[None]:
    """Around a training: its buffers must be afterwards what they were before.

    A buffer that is no part of the state (persistent=False) may come, go and grow, as caches do.
    With `frozen` the frozen parameters are looked at, too, which takes a copy of them.

    Raises:
        InvalidJob: something has changed, which is named and put back.
    """
    look = constants if frozen else _buffers
    before = {name: tensor.clone() for name, tensor in look(module).items()}
    yield
    after, state = look(module), module.state_dict(keep_vars=True).keys()
    changed = [
        name
        for name in {**before, **after}
        if _differs(before.get(name), after.get(name), persistent=name in state)
    ]
    if changed:
        _put_back(before, after)
        raise InvalidJob(_what_changed(module, changed))


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_buffers())


@torch.no_grad()
def _put_back(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    for name, tensor in after.items():
        if name in before and before[name].shape == tensor.shape:
            tensor.copy_(before[name])


def _differs(old: Tensor | None, new: Tensor | None, *, persistent: bool) -> bool:
    if old is None or new is None or old.shape != new.shape or old.dtype != new.dtype:
        return persistent
    return not torch.equal(_bytes(old), _bytes(new))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _what_changed(module: nn.Module, names: list[str]) -> str:
    said = (
        f"training changes what the model has beside its trained parameters ({some(names)}), and "
        "averaging does not carry that: "
    )
    owners = [module.get_submodule(name.rpartition(".")[0]) for name in names]
    if any(isinstance(owner, _NormBase) for owner in owners):
        return said + (
            "use GroupNorm or LayerNorm instead of BatchNorm, or track_running_stats=False"
        )
    kind = type(owners[0]).__name__
    return said + f"{kind} must leave its buffers and frozen parameters as they are built"
