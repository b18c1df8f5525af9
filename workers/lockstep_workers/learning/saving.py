"""The model as a file: all of its state_dict, so that `load_state_dict` takes it as it is.

Called by the cloud role's store, and by the trial, which finds out before round 1 what cannot be
saved. Names that stand for one tensor (tied parameters) each get it, since a file knows no ties.
Invariant: nothing is copied; the pieces are views of the module's own tensors where they can be.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lockstep_workers.errors import InvalidJob
from lockstep_workers.tensors import Part, head

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A safetensors file, in pieces."""

    head: bytes
    values: tuple[memoryview, ...]


def model_file(module: nn.Module) -> ModelFile:
    """The file of a module's state.

    Raises:
        InvalidJob: something in it is no tensor that can be saved; names it.
    """
    state = {name: _savable(name, value) for name, value in module.state_dict().items()}
    wide_first = sorted(state, key=lambda name: -state[name].element_size())  # so all are aligned
    parts = {
        name: Part(_DTYPES[state[name].dtype], state[name].shape, state[name].nbytes)
        for name in wide_first
    }
    return ModelFile(head(parts), tuple(_bytes(state[name]) for name in wide_first))


def _savable(name: str, value: object) -> Tensor:
    kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
    if not isinstance(value, Tensor) or kind not in _DTYPES or value.layout is not torch.strided:
        raise InvalidJob(
            f"{name} in the model's state_dict is {kind}, which cannot be saved: keep such a value "
            "in an attribute, or in a buffer that is no part of the state (persistent=False)"
        )
    return value


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
