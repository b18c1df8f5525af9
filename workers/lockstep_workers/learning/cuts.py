"""Where a model can be cut, and what each cut means for devices and links: measured, not assumed.

Called by the cloud role before round 1 and by `lockstep explain-cut`; the operator's `core/cuts`
chooses. One training step of a few examples goes through the layers, and after each of them the
following is read off: operations (as torch's FlopCounterMode counts them: convolutions and matrix
products, forward and backward), and what autograd keeps for the backward pass.

The first layer costs a device less than its forward pass suggests: nobody asks for the gradient of
its input. Memory is the harder side: the front half has the largest feature maps.
Invariant: the model's weights stay as they are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lockstep_api.tiers import MOST_CUTS, CutCandidate
from lockstep_workers.entrypoints import explained
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.constants import unchanged
from lockstep_workers.learning.halves import cannot_cut, layer_names, layers, not_activations

_EXAMPLES = 2  # of the step; a normalisation over the batch needs two
_SEED = 0  # of what the model draws


@dataclass(slots=True)
class _Layer:
    """What is known behind a layer."""

    name: str
    front_values: int
    output: Tensor
    version: int
    """Of the output when it was made: a later layer that changes it in place raises it."""
    forward_flops: float
    """Up to here."""
    saved_bytes: int
    """Kept for the backward pass up to here."""
    backward_flops: float = 0.0
    """From the loss back to here."""


@dataclass(slots=True)
class _Saved:
    """Memory that autograd keeps, each piece once, without the model's own tensors."""

    own: set[int]
    """Where the model's tensors lie."""
    seen: dict[int, int] = field(default_factory=dict)
    """Bytes of each piece."""

    def pack(self, tensor: Tensor) -> Tensor:
        """Called by autograd with what it keeps."""
        if (place := _place(tensor)) not in self.own:
            self.seen.setdefault(place, tensor.untyped_storage().nbytes())
        return tensor

    def total(self) -> int:
        """Bytes of all of it."""
        return sum(self.seen.values())


def candidates(
    module: nn.Module, example_shape: Sequence[int], *, entrypoint: str | None = None
) -> list[CutCandidate]:
    """Where a model can be cut, in its order.

    Args:
        module: the model.
        example_shape: shape of an example as the model takes it, without the batch.
        entrypoint: the user's function that made it; None: it is built in.

    Raises:
        InvalidJob: it can be cut nowhere, or cannot be trained; says what to change.
    """
    known = layer_names(module)
    if not known:
        raise InvalidJob(cannot_cut(module, known=known))
    what = f"measuring the model's layers, on inputs of shape {(_EXAMPLES, *example_shape)}, raised"
    with explained(what, own=entrypoint), _left_alone(module):
        measured, whole = _measured(module.train(), torch.zeros(_EXAMPLES, *example_shape))
        found = [_candidate(one, whole) for one in measured if one.name in known]
    if not found:
        raise InvalidJob(
            "the model cannot be cut for mode split: after none of its layers is there a float32 "
            "tensor with values for each example, which the next layer leaves as it is"
        )
    return _spread(found)


@contextmanager
def _left_alone(module: nn.Module) -> Iterator[None]:
    """Mode, gradients and buffers of the model are as before, and so is torch's generator."""
    training, parameters = module.training, [p for p in module.parameters() if p.requires_grad]
    kept = [p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        with torch.random.fork_rng(devices=[]), unchanged(module):
            torch.manual_seed(_SEED)
            yield
    finally:
        module.train(training)
        for parameter, gradient in zip(parameters, kept, strict=True):
            parameter.grad = gradient


def _measured(module: nn.Module, inputs: Tensor) -> tuple[list[_Layer], _Layer]:
    """A training step: the layers behind which the model can be cut, and the whole."""
    saved = _Saved({_place(tensor) for tensor in (*module.parameters(), *module.buffers())})
    passed: list[_Layer] = []
    counter = FlopCounterMode(display=False)
    hooks = torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor)
    value, parameters = inputs, dict[int, int]()
    with counter:
        with hooks:
            for name, layer in layers(module):
                value = layer(value)
                parameters |= {id(p): p.numel() for p in layer.parameters() if p.requires_grad}
                if not isinstance(value, Tensor):
                    continue
                flops, kept = float(counter.get_total_flops()), saved.total()
                values = sum(parameters.values())
                passed.append(_Layer(name, values, value, value._version, flops, kept))
        whole = passed[-1]
        cuts = [one for one in passed[:-1] if _can_cut(one)]
        for one in cuts:
            noted = partial(_note, one, counter=counter, whole=whole)
            one.output.register_hook(noted)  # type: ignore[no-untyped-call]
        whole.output.sum().backward()  # type: ignore[no-untyped-call]
    whole.backward_flops = counter.get_total_flops() - whole.forward_flops
    return cuts, whole


def _can_cut(layer: _Layer) -> bool:
    output = layer.output
    whole = not_activations(output, _EXAMPLES) is None
    return whole and output.requires_grad and output._version == layer.version


def _note(layer: _Layer, _gradient: Tensor, *, counter: FlopCounterMode, whole: _Layer) -> None:
    """The gradient at a layer's output is there: all behind it has been gone back through."""
    layer.backward_flops = counter.get_total_flops() - whole.forward_flops


def _candidate(layer: _Layer, whole: _Layer) -> CutCandidate:
    total = whole.forward_flops + whole.backward_flops
    back = whole.forward_flops - layer.forward_flops + layer.backward_flops
    return CutCandidate(
        layer=layer.name,
        front_flops=(total - back) / _EXAMPLES,
        back_flops=back / _EXAMPLES,
        front_values=layer.front_values,
        cut_values=layer.output[0].numel(),
        saved_bytes=layer.saved_bytes / _EXAMPLES,
        whole_saved_bytes=whole.saved_bytes / _EXAMPLES,
    )


def _spread(found: list[CutCandidate]) -> list[CutCandidate]:
    """So many of them as can be told, evenly."""
    if len(found) <= MOST_CUTS:
        return found
    return [found[index * len(found) // MOST_CUTS] for index in range(MOST_CUTS)]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
