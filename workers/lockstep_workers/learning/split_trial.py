"""The trial of a cut before round 1: the steps that split rounds are made of.

Called by `split_server` when it is known where the model is cut, after `trial` has tried the whole
model. What goes wrong only because the model is cut ends the job here, with what to change.
Invariant: afterwards the model has the weights that it had before; copies are tried.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from lockstep_workers.data import Examples
from lockstep_workers.entrypoints import explained
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.cluster_training import ClusterTraining, HalfVectors, Member
from lockstep_workers.learning.constants import unchanged
from lockstep_workers.learning.front import FrontHalf
from lockstep_workers.learning.halves import Halves, own
from lockstep_workers.learning.parameters import FlatModel
from lockstep_workers.learning.strategy import Vector
from lockstep_workers.learning.training import Sgd

_EXAMPLES = 2
_WHO = "tried"
_ADVICE = (
    "cut it after another layer, or mend the layers behind the cut: the first of them must not "
    "change its input in place (ReLU(inplace=True)), and scores must have a gradient by it"
)


def try_halves(
    cut: Halves,
    examples: Examples,
    *,
    cut_shape: Sequence[int],
    sgd: Sgd,
    entrypoint: str | None = None,
) -> None:
    """A step of split training on these examples.

    Raises:
        InvalidJob: a half cannot be trained.
    """
    what = f"a step of the model that is cut after layer {cut.cut}"
    with (
        explained(f"{what} raised", own=entrypoint, advice=_ADVICE),
        torch.random.fork_rng(devices=[]),
    ):
        device = FrontHalf(cut.front, examples, seed=(0, 0), sgd=sgd)
        start = HalfVectors(device.front, own(cut.back).vector.numpy())
        training = ClusterTraining(
            cut,
            start,
            members=[Member(_WHO, len(examples), len(examples))],
            cut_shape=cut_shape,
            sgd=sgd,
            seed=(0,),
        )
        values, labels = device.forward(0, 0, batch_size=len(examples))
        training.activations[:], training.labels[:] = values, labels
        gradients = training.step([_WHO]).gradients
        _check(gradients, f"{what}: the gradient by the activations")
        _check(device.backward(gradients), f"{what}: the gradient of the front half")


def _check(values: Vector, what: str) -> None:
    if not np.isfinite(values).all():
        raise InvalidJob(f"{what} is not finite: {_ADVICE}")


def try_cloud(
    cloud: FlatModel, shape: Sequence[int], *, classes: int, entrypoint: str | None = None
) -> None:
    """A training step of the cloud's half, without the step.

    Raises:
        InvalidJob: it cannot be trained.
    """
    inputs = torch.zeros(_EXAMPLES, *shape)
    what = f"a training step of the cloud's half, activations of shape {tuple(inputs.shape)},"
    advice = "mend the function that distillation.cloudEntrypoint names"
    module = cloud.module
    with (
        explained(f"{what} raised", own=entrypoint, advice=advice),
        torch.random.fork_rng(devices=[]),
        unchanged(module, frozen=True),
    ):
        scores = module.train()(inputs)
        loss = cross_entropy(scores, torch.zeros(_EXAMPLES, dtype=torch.int64) % classes)
        torch.autograd.grad(loss, cloud.trained, allow_unused=True)
