"""The trial of a job's model and data before round 1: the steps that its rounds are made of.

Called by the cloud role. What the user's code does in a round it does here first, on the model that
will be trained and the examples of real clients, so that the job fails with the user's own error
and not with pods that start again and again.
Invariant: afterwards the model has the weights that it had before.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lockstep_api.settings import JobSettings
from lockstep_workers.data import Dataset, Examples, as_batch, load_dataset
from lockstep_workers.entrypoints import explained
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.bounding import distance
from lockstep_workers.learning.client import deal, sgd_of
from lockstep_workers.learning.clipping import Reached
from lockstep_workers.learning.constants import unchanged
from lockstep_workers.learning.evaluation import BATCH, evaluate
from lockstep_workers.learning.parameters import FlatModel, flatten
from lockstep_workers.learning.partition import Indices
from lockstep_workers.learning.safeguards import clip_norm_of
from lockstep_workers.learning.saving import model_file
from lockstep_workers.learning.training import Sgd, train
from lockstep_workers.models import build_model, check_fit, check_scores

_REACH_STEPS = 4
"""More would make a large model begin late; what follows of them is an upper bound."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried."""

    dataset: Dataset
    parts: Sequence[Indices]
    """The training examples of each client."""
    sgd: Sgd
    entrypoint: str | None = None
    """The user's function that made the model; None: it is a built-in one."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a job trains with."""

    module: nn.Module
    """Its model, at the initial weights."""
    dataset: Dataset
    examples: Mapping[str, int]
    """Training examples of each client."""
    reached: Reached | None = None
    """How far the first client's examples took the model; None: nobody knows."""


def load_and_try(job: JobSettings, datasets: Path) -> Loaded:
    """A job's model at its initial weights and its data, both tried; errors as `tried`."""
    return tried(job, load_dataset(job.data, datasets))


def tried(job: JobSettings, dataset: Dataset) -> Loaded:
    """A job's model at its initial weights, tried with a data set.

    Raises:
        InvalidJob: the settings, or the user's code that they name, cannot be trained with.
    """
    parts = deal(job, dataset.train)
    module = build_model(job.model, seed=job.training.seed)
    trial = Trial(dataset, parts, sgd_of(job), job.model.entrypoint)
    try_out(module, trial)
    examples = {name: len(part) for name, part in zip(job.clients(), parts, strict=True)}
    reached = reach_out(module, trial) if clip_norm_of(job) else None
    return Loaded(module, dataset, examples, reached)


def reach_out(module: nn.Module, trial: Trial) -> Reached | None:
    """How far a client's first steps take the model, which is afterwards as it was; None: to no
    place that has a distance.

    Raises:
        InvalidJob: a step went wrong.
    """
    model, sgd = flatten(module), trial.sgd
    examples = trial.dataset.train.part(trial.parts[0])
    begun = model.vector.clone()
    far: list[float] = []
    with torch.random.fork_rng(devices=[]), unchanged(module, frozen=True):
        for steps in (1, _REACH_STEPS):
            with explained("trying the model raised", own=trial.entrypoint, advice=_advice(module)):
                train(model, examples, steps=steps, sgd=sgd, correction=None, seed=(0,))
            far.append(distance(model.vector.numpy(), begun.numpy()))
            model.vector.copy_(begun)
    for parameter in module.parameters():
        parameter.grad = None
    first, last = far
    if not math.isfinite(first + last):
        return None
    return Reached(distance=last, gradient=first / sgd.learning_rate, steps=_REACH_STEPS)


def try_out(module: nn.Module, trial: Trial) -> None:
    """Tries an evaluation step and training steps.

    Raises:
        InvalidJob: one went wrong; says where in the user's code, and what to change.
    """
    advice = _advice(module)
    with explained("trying the model raised", own=trial.entrypoint, advice=advice):
        model = flatten(module)
        weights = model.vector.clone()
        with torch.random.fork_rng(devices=[]):
            check_fit(module, trial.dataset, own=trial.entrypoint, advice=advice)
            with unchanged(module, frozen=True):
                _try_training(model, trial, advice=advice)
            model.vector.copy_(weights)
            _try_evaluation(model, trial, advice=advice)
        for parameter in module.parameters():
            parameter.grad = None
    with explained("loading the model's own state_dict raised", own=trial.entrypoint):
        model_file(module)
        module.load_state_dict(module.state_dict())


def _advice(module: nn.Module) -> str:
    """What to change when a step goes wrong that only the user knows the reason of."""
    cast = {str(p.dtype) for p in module.parameters() if p.dtype != torch.float32}
    if cast:
        return (
            f"parameters are trained in float32, and were {', '.join(sorted(cast))}: let the "
            "model cast nothing, or to the dtype of its parameters (x.to(self.layer.weight.dtype))"
        )
    return "mend the model, or what data gives it: (b, …) in float32 and labels (b,) from 0"


def _try_training(model: FlatModel, trial: Trial, *, advice: str) -> None:
    """On a batch of the first client, and on the smallest that any client will have."""
    first, size = trial.parts[0], trial.sgd.batch_size
    ends = [len(part) % size or min(size, len(part)) for part in trial.parts]
    for count in dict.fromkeys((min(size, len(first)), min(ends))):
        examples = trial.dataset.train.part(first[:count])
        what = f"a training step on {count} examples, {_shape(examples)},"
        with explained(f"{what} raised", own=trial.entrypoint, advice=advice):
            _probe(model, examples, classes=trial.dataset.classes)
            train(model, examples, steps=1, sgd=trial.sgd, correction=None, seed=(0,))


def _shape(examples: Examples) -> str:
    return f"inputs of shape {tuple(examples.inputs.shape)}"


def _probe(model: FlatModel, examples: Examples, *, classes: int) -> None:
    """Whether a training step can do anything: scores, a finite loss, a gradient that is finite."""
    what = f"the model in training: {_shape(examples)}"
    x, y = as_batch(examples, np.arange(len(examples)))
    model.module.train()
    scores = model.module(x)
    check_scores(scores, (len(x), classes), what=what)
    loss = cross_entropy(scores, y)
    _check_loss(loss, what)
    trained = {n: p for n, p in model.module.named_parameters() if p.requires_grad}
    if not loss.requires_grad:
        raise InvalidJob(f"{what} gave scores without a gradient: {_NO_GRADIENT}")
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise InvalidJob(
            f"{what} gave scores that no trainable parameter is part of: {_NO_GRADIENT}"
        )
    for name, gradient in zip(trained, gradients, strict=True):
        if gradient is not None and not bool(torch.isfinite(gradient).all()):
            raise InvalidJob(
                f"{what} gave a gradient that is not finite, for parameter {name}: look for a "
                "division by 0, a logarithm or a root of 0"
            )


_NO_GRADIENT = (
    "look for no_grad, detach(), .data, argmax or a way over numpy between parameters and scores"
)


def _check_loss(loss: Tensor, what: str) -> None:
    if not bool(torch.isfinite(loss)):
        raise InvalidJob(
            f"{what} gave a loss of {loss.item()}: initial weights or inputs are too large, or the "
            "model divides by 0; normalise the inputs (mean and scale), and draw smaller weights"
        )


def _try_evaluation(model: FlatModel, trial: Trial, *, advice: str) -> None:
    """On a whole batch of the held-out examples, and on the last one."""
    test, classes = trial.dataset.test, trial.dataset.classes
    for count in dict.fromkeys((min(BATCH, len(test)), len(test) % BATCH or BATCH)):
        examples = test.part(np.arange(min(count, len(test))))
        what = f"evaluation on {len(examples)} held-out examples, {_shape(examples)},"
        with explained(f"{what} raised", own=trial.entrypoint, advice=advice):
            model.module.eval()
            with torch.inference_mode():
                x, _ = as_batch(examples, np.arange(len(examples)))
                check_scores(model.module(x), (len(x), classes), what=what)
            evaluate(model, examples)
