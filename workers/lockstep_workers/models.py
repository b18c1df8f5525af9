"""The model of a job: a built-in one by name, or what the user's functions return.

Also the cloud's half of a split model. Called by devices, edges, the cloud role and the trial.
Invariant: initial weights depend on the seed alone.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lockstep_api.spec import Distillation, Model
from lockstep_workers.data import Dataset, as_batch
from lockstep_workers.entrypoints import call, explained
from lockstep_workers.errors import InvalidJob
from lockstep_workers.residual import deeper, resnet10, resnet18
from lockstep_workers.words import some, where_defined

_TRIED = 4  # examples that a model is tried with


def _check(name: str, value: object, *, multiple_of: int) -> None:
    if not isinstance(value, int) or value < 1 or value % multiple_of:
        raise ValueError(f"{name} must be a positive multiple of {multiple_of}, not {value!r}")


def mlp(*, hidden: int = 128, inputs: int = 28 * 28, classes: int = 10) -> nn.Module:
    """A perceptron with one hidden layer for inputs of so many values."""
    for name, value in (("hidden", hidden), ("inputs", inputs), ("classes", classes)):
        _check(name, value, multiple_of=1)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )


def cnn(
    *, channels: int = 16, classes: int = 10, colours: int = 1, height: int = 28, width: int = 28
) -> nn.Module:
    """Two 5×5 convolutions with GroupNorm and pooling for (colours, height, width) images."""
    _check("channels", channels, multiple_of=4)
    for name, value in (("classes", classes), ("colours", colours)):
        _check(name, value, multiple_of=1)
    for name, value in (("height", height), ("width", width)):
        if not isinstance(value, int) or value < 4:
            raise ValueError(f"{name} must be at least 4 pixels, not {value!r}")
    pixels = (height // 4) * (width // 4)
    return nn.Sequential(
        nn.Conv2d(colours, channels, 5, padding=2), nn.GroupNorm(4, channels), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(channels, 2 * channels, 5, padding=2),
        nn.GroupNorm(4, 2 * channels), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(2 * channels * pixels, classes),
    )  # fmt: skip


_BUILT_IN: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp, "cnn": cnn, "resnet10": resnet10, "resnet18": resnet18,
}  # fmt: skip


def sized_args(name: str, *, shape: Sequence[int], classes: int) -> dict[str, int]:
    """The arguments with which a built-in model takes inputs of a shape.

    Raises:
        InvalidJob: it takes no such inputs.
    """
    if name == "mlp":
        return {"inputs": math.prod(shape), "classes": classes}
    if len(shape) != 3:
        raise InvalidJob(
            f"model.name {name} takes images, (channels, height, width), not examples of shape "
            f"{tuple(shape)}: use mlp"
        )
    colours, height, width = shape
    return {"classes": classes, "colours": colours, "height": height, "width": width}


def build_model(spec: Model, *, seed: int) -> nn.Module:
    """The model of a job with initial weights drawn from `seed`.

    Two functions for the halves make one model, whose layers are `front` and `back`.

    Raises:
        InvalidJob: no such model, arguments that it does not take, or nothing that can be trained.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if spec.entrypoint is not None:
            return _own(spec.entrypoint, spec.args, field="model.entrypoint")
        if spec.front is None or spec.back is None:
            return _built_in(spec)
        halves = {"front": spec.front, "back": spec.back}
        made = {half: _own(at, spec.args, field=f"model.{half}") for half, at in halves.items()}
    return nn.Sequential(OrderedDict(made))


def build_cloud_model(
    spec: Distillation, shape: Sequence[int], *, classes: int, seed: int, args: Mapping[str, Any]
) -> nn.Module:
    """The cloud's half for activations of `shape` at the cut, with weights drawn from `seed`.

    `args` are those of the model's own functions.

    Raises:
        InvalidJob: the user's function does not give one that takes them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if spec.cloud_entrypoint is None:
            return deeper(shape, classes=classes)
        module = _own(spec.cloud_entrypoint, args, field="distillation.cloudEntrypoint")
        _check_cloud_model(module, shape, classes=classes, own=spec.cloud_entrypoint)
    return module


@torch.no_grad()
def _check_cloud_model(module: nn.Module, shape: Sequence[int], *, classes: int, own: str) -> None:
    what = f"the cloud's model does not fit the cut: activations of shape {(_TRIED, *shape)}"
    advice = "make it take what the front half gives at model.cut"
    with explained(f"{what} made it raise", own=own, advice=advice):
        scores = module.eval()(torch.zeros(_TRIED, *shape))
    check_scores(scores, (_TRIED, classes), what=what)


def _own(entrypoint: str, args: Mapping[str, Any], *, field: str) -> nn.Module:
    """What the user's function returns, if it can be trained."""
    made = call(entrypoint, args, field=field, args="model.args")
    what = f"{field} {entrypoint}"
    if not isinstance(made, nn.Module):
        raise InvalidJob(f"{what} returned {type(made).__name__}: return a torch.nn.Module")
    with explained(f"{what}: looking at what it returned raised", own=entrypoint):
        _check_tensors(made, f"{what} ({where_defined(entrypoint)}) returned a module")
    return made


def _check_tensors(module: nn.Module, what: str) -> None:
    """Whether a module's tensors are such that it can be trained."""
    parameters, everything = dict(module.named_parameters()), _tensors(module)
    if lazy := [name for name, tensor in everything.items() if is_lazy(tensor)]:
        raise InvalidJob(
            f"{what} with lazy layers ({some(lazy)}): give their sizes, as in nn.Linear(in, out)"
        )
    if away := [name for name, tensor in everything.items() if tensor.device.type != "cpu"]:
        device = everything[away[0]].device
        raise InvalidJob(f"{what} on device {device} ({some(away)}): build it on the CPU")
    if not any(p.numel() for p in parameters.values()):
        raise InvalidJob(f"{what} without parameters: there is nothing to train")
    trained = {name: p for name, p in parameters.items() if p.requires_grad and p.numel()}
    if not trained:
        raise InvalidJob(
            f"{what} whose {len(parameters)} parameters are all frozen (requires_grad is False): "
            "there is nothing to train, so leave some of them as they are"
        )
    if odd := [name for name, p in trained.items() if not p.is_floating_point()]:
        kind = trained[odd[0]].dtype
        raise InvalidJob(f"{what} with parameters of {kind} ({some(odd)}): use real numbers")
    _check_sharing(trained, what)


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _check_sharing(parameters: Mapping[str, nn.Parameter], what: str) -> None:
    """Whether no two parameters have the same memory: each would be trained for itself."""
    seen: dict[int, str] = {}
    for name, parameter in parameters.items():
        other = seen.setdefault(parameter.data_ptr(), name)
        if other != name:
            raise InvalidJob(
                f"{what} whose parameters {other} and {name} share their memory: tie them by "
                "assigning one nn.Parameter to both (head.weight = embedding.weight)"
            )


def _built_in(spec: Model) -> nn.Module:
    build = _BUILT_IN.get(spec.name or "")
    if build is None:
        known = ", ".join(_BUILT_IN)
        raise InvalidJob(f"model.name {spec.name!r} is not in this version: use one of {known}")
    try:
        return build(**spec.args)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, MemoryError) as error:
        raise InvalidJob(f"model.args do not fit model {spec.name}: {error}") from error


@torch.no_grad()
def check_fit(
    module: nn.Module, dataset: Dataset, *, own: str | None = None, advice: str = ""
) -> None:
    """Whether a model takes a data set's inputs and gives a score for each class.

    `own` and `advice` as for `entrypoints.explained`.

    Raises:
        InvalidJob: it does not; says what it gave instead.
    """
    x, _ = as_batch(dataset.train, np.arange(min(_TRIED, len(dataset.train))))
    what = f"the model does not fit the data: inputs of shape {tuple(x.shape)}"
    module.eval()
    with explained(f"{what} made it raise", own=own, advice=advice):
        scores = module(x)
    check_scores(scores, (len(x), dataset.classes), what=what)


def check_scores(scores: object, wanted: tuple[int, int], *, what: str) -> None:
    """Whether a model gave a score for each class of each example, (b, classes).

    Raises:
        InvalidJob: it did not; says what it gave instead.
    """
    if not isinstance(scores, torch.Tensor) or tuple(scores.shape) != wanted:
        got = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise InvalidJob(f"{what} gave {got}, expected scores of shape {wanted}, one a class")
    if not scores.is_floating_point():
        raise InvalidJob(f"{what} gave scores of {scores.dtype}, expected floating point")
