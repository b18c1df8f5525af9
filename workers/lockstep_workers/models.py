"""Built-in models by name."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lockstep_api.spec import Model
from lockstep_workers.data import CLASSES
from lockstep_workers.errors import InvalidJob


def _check(name: str, value: object, *, multiple_of: int) -> None:
    if not isinstance(value, int) or value < 1 or value % multiple_of:
        raise ValueError(f"{name} must be a positive multiple of {multiple_of}, not {value!r}")


def mlp(*, hidden: int = 128) -> nn.Module:
    """A perceptron with one hidden layer for (1, 28, 28) images."""
    _check("hidden", hidden, multiple_of=1)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(28 * 28, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES)
    )


def cnn(*, channels: int = 16) -> nn.Module:
    """Two 5×5 convolutions with GroupNorm and pooling for (1, 28, 28) images."""
    _check("channels", channels, multiple_of=4)
    return nn.Sequential(
        nn.Conv2d(1, channels, 5, padding=2), nn.GroupNorm(4, channels), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 5, padding=2), nn.GroupNorm(4, 2 * channels), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2 * channels * 7 * 7, CLASSES),
    )  # fmt: skip


_BUILT_IN: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "cnn": cnn}


def build_model(spec: Model, *, seed: int) -> nn.Module:
    """The model of a job with initial weights drawn from `seed`.

    Raises:
        InvalidJob: no such model, or arguments that it does not take.
    """
    build = _BUILT_IN.get(spec.name or "")
    if build is None:
        known = ", ".join(_BUILT_IN)
        raise InvalidJob(f"model.name {spec.name!r} is not in this version: use one of {known}")
    arguments: dict[str, Any] = dict(spec.args)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return build(**arguments)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidJob(f"model.args do not fit model {spec.name}: {error}") from error
