"""Mutual distillation: the edges' back half and the cloud's deeper one learn from each other.

After a round's aggregation `SplitServer` lets both learn from the round's activations (`pool`).
With y the label of an example, w its weight, q the learner's scores and p the teacher's, the loss
of a mini-batch is

    Σ w [ CE(y, softmax q) + β τ² KL(softmax(p/τ) ‖ softmax(q/τ)) ] / Σ w

(Hinton et al. 2015; both ways: Zhang et al. 2018). The cloud's half learns first, from the edges'
as it was aggregated; then the edges' learns from what the cloud's has become. Each ends at the mean
of its epochs' weights (Polyak and Juditsky 1992): the last ones are as noisy as their mini-batch.

The gate: a part of the pool is held back, and nobody learns from it. A half that was taught is kept
only while its loss on that part is not above that of the same half after the same epochs on labels
alone: a weak teacher costs time, not accuracy.
Invariant: what comes out depends on vectors, pool, round and seed alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from lockstep_api.settings import JobSettings
from lockstep_api.spec import Distillation, Teacher
from lockstep_workers.learning.parameters import FlatModel, flat_gradient
from lockstep_workers.learning.pool import Pool
from lockstep_workers.learning.training import Sgd, descend

_BATCH = 100  # examples of a pass without training
_HELD_BACK = 0.1
_SPLIT, _CLOUD, _EDGE = 30, 31, 32
"""What a generator is for: the last part of its seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distilling:
    """How a job distils; fields as in `lockstep_api.spec.Distillation`."""

    sgd: Sgd
    teacher: Teacher = Teacher.MUTUAL
    temperature: float = 3.0
    beta: float = 1.0
    warmup_rounds: int = 2
    edge_epochs: int = 1
    cloud_epochs: int = 1
    gate: bool = True


def distilling_of(job: JobSettings) -> Distilling | None:
    """How a job distils; None: it does not."""
    spec, training = job.distillation, job.training
    if spec is None or not spec.enabled:
        return None
    return distilling(spec, Sgd(training.learning_rate, training.momentum, training.batch_size))


def distilling(spec: Distillation, sgd: Sgd) -> Distilling:
    """How a job distils that trains by `sgd`."""
    return Distilling(
        sgd=replace(sgd, learning_rate=spec.learning_rate or sgd.learning_rate),
        teacher=spec.teacher,
        temperature=spec.temperature,
        beta=spec.beta,
        warmup_rounds=spec.warmup_rounds,
        edge_epochs=spec.edge_epochs,
        cloud_epochs=spec.cloud_epochs,
        gate=spec.gate,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Distilled:
    """What a distillation did."""

    samples: int
    """Examples of the pool."""
    edge_taught: bool
    """Whether the edges' half learnt from the cloud's."""
    cloud_taught: bool
    """Whether the cloud's learnt from the edges'."""
    edge_loss: float
    """Of the edges' half on the held-back part before it, in nats."""
    cloud_loss: float
    """Of the cloud's."""


def distil(
    edge: FlatModel, cloud: FlatModel, *, pool: Pool, how: Distilling, seed: tuple[int, int]
) -> Distilled:
    """Lets both halves learn from a round's pool, in place.

    Args:
        edge: the edges' back half, as aggregated.
        cloud: the cloud's; both take the pool's activations, and give scores.
        pool: at least one example.
        how: who teaches whom, and how.
        seed: the job's, and the round.
    """
    held, rest = _split(pool, seed)
    edge_loss, cloud_loss = _loss(edge, held), _loss(cloud, held)
    teaching = seed[1] > how.warmup_rounds

    def learns(learner: FlatModel, teacher: FlatModel, *, taught: bool, what: int) -> bool:
        epochs = how.cloud_epochs if what == _CLOUD else how.edge_epochs
        lesson = _Lesson(rest, epochs, how, (*seed, what))
        return _learn(learner, teacher if taught and teaching else None, lesson=lesson, held=held)

    by_edge = how.teacher in (Teacher.MUTUAL, Teacher.EDGE)
    by_cloud = how.teacher in (Teacher.MUTUAL, Teacher.CLOUD)
    cloud_taught = learns(cloud, edge, taught=by_edge, what=_CLOUD)
    edge_taught = learns(edge, cloud, taught=by_cloud, what=_EDGE)
    return Distilled(
        samples=len(pool),
        edge_taught=edge_taught,
        cloud_taught=cloud_taught,
        edge_loss=edge_loss,
        cloud_loss=cloud_loss,
    )


@dataclass(frozen=True, slots=True)
class _Lesson:
    """What a half learns from."""

    pool: Pool
    epochs: int
    how: Distilling
    seed: tuple[int, ...]


def _split(pool: Pool, seed: tuple[int, int]) -> tuple[Pool, Pool]:
    """(held back, the rest); of a pool with one example both are that one."""
    order = np.random.default_rng(np.random.SeedSequence((*seed, _SPLIT))).permutation(len(pool))
    held = max(1, round(_HELD_BACK * len(pool)))
    rest = order[held:] if len(pool) > 1 else order
    return pool.part(np.sort(order[:held])), pool.part(np.sort(rest))


def _learn(learner: FlatModel, teacher: FlatModel | None, *, lesson: _Lesson, held: Pool) -> bool:
    """The epochs of a half; whether its teacher had a part in what comes of them."""
    if teacher is None:
        _train(learner, lesson, targets=None)
        return False
    start, targets = learner.vector.clone(), _scores(teacher, lesson.pool)
    _train(learner, lesson, targets=targets)
    if not lesson.how.gate:
        return True
    taught, loss = learner.vector.clone(), _loss(learner, held)
    _put(learner, start)
    _train(learner, lesson, targets=None)
    if loss > _loss(learner, held):
        return False
    _put(learner, taught)
    return True


@torch.no_grad()
def _put(model: FlatModel, vector: Tensor) -> None:
    model.vector.copy_(vector)


def _train(model: FlatModel, lesson: _Lesson, *, targets: Tensor | None) -> None:
    """SGD over the pool, in orders that are drawn; ends at the mean of the weights."""
    sgd, gradient = lesson.how.sgd, flat_gradient(model)
    velocity = torch.zeros_like(model.vector) if sgd.momentum else None
    total, steps = torch.zeros_like(model.vector), 0
    model.module.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(lesson.seed).generate_state(1)[0]))
        for batch in _batches(lesson):
            gradient.zero_()
            loss = _mini_loss(model, lesson, batch=batch, targets=targets)
            loss.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                descend(model.vector, gradient, sgd=sgd, velocity=velocity)
            total += model.vector
            steps += 1
    if steps:
        _put(model, total.div_(steps))


def _batches(lesson: _Lesson) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng(np.random.SeedSequence(lesson.seed))
    size, count = lesson.how.sgd.batch_size, len(lesson.pool)
    for _ in range(lesson.epochs):
        order = rng.permutation(count)
        yield from (order[start : start + size] for start in range(0, count, size))


def _mini_loss(
    model: FlatModel, lesson: _Lesson, *, batch: NDArray[np.int64], targets: Tensor | None
) -> Tensor:
    pool = lesson.pool.part(batch)
    scores = model.module(torch.from_numpy(pool.activations))
    losses = cross_entropy(scores, torch.from_numpy(pool.labels), reduction="none")
    if targets is not None:
        losses = losses + lesson.how.beta * soft_loss(
            scores, targets[torch.from_numpy(batch)], temperature=lesson.how.temperature
        )
    return _mean(losses, pool)


def soft_loss(scores: Tensor, targets: Tensor, *, temperature: float) -> Tensor:
    """τ² KL(softmax(targets/τ) ‖ softmax(scores/τ)) of each example, (b,).

    τ² makes up for the gradient of softened scores, which is 1/τ² of the others'.
    """
    own = log_softmax(scores / temperature, dim=1)
    told = softmax(targets / temperature, dim=1)
    return temperature**2 * kl_div(own, told, reduction="none").sum(dim=1)


@torch.no_grad()
def _scores(model: FlatModel, pool: Pool) -> Tensor:
    model.module.eval()
    starts = range(0, len(pool), _BATCH)
    parts = (pool.activations[start : start + _BATCH] for start in starts)
    return torch.cat([model.module(torch.from_numpy(part)) for part in parts])


def _loss(model: FlatModel, pool: Pool) -> float:
    """Cross-entropy in nats."""
    labels = torch.from_numpy(pool.labels)
    return float(_mean(cross_entropy(_scores(model, pool), labels, reduction="none"), pool))


def _mean(losses: Tensor, pool: Pool) -> Tensor:
    weights = torch.from_numpy(pool.weights)
    return (losses * weights).sum() / weights.sum()
