"""Mutual distillation: its loss by hand, who teaches whom, and which teacher is not heard."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lockstep_api.spec import Teacher
from lockstep_workers.learning.distillation import Distilled, Distilling, distil, soft_loss
from lockstep_workers.learning.parameters import FlatModel, flatten, use_vector
from lockstep_workers.learning.pool import Pool
from lockstep_workers.learning.training import Sgd

FEATURES, CLASSES, SEED = 5, 3, (4, 9)
SGD = Sgd(0.1, momentum=0.9, batch_size=8)
HOW = Distilling(sgd=SGD, temperature=2.0, beta=0.5)
TRUTH = np.random.default_rng(1).standard_normal((FEATURES, CLASSES))


def pool(count: int, *, noise: float = 0.0, seed: int = 0) -> Pool:
    """Activations whose labels follow `TRUTH`, but for a share that is drawn."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, FEATURES)).astype(np.float32)
    labels = (x @ TRUTH).argmax(axis=1)
    wrong = rng.random(count) < noise
    labels[wrong] = rng.integers(0, CLASSES, wrong.sum())
    return Pool(x, labels, rng.uniform(0.5, 2, count).astype(np.float32))


def linear(seed: int = 0) -> FlatModel:
    generator = torch.Generator().manual_seed(seed)
    model = flatten(nn.Linear(FEATURES, CLASSES))
    with torch.no_grad():
        model.vector.copy_(0.1 * torch.randn(model.vector.shape, generator=generator))
    return model


def knowing(scale: float) -> FlatModel:
    """A model that knows the truth, the surer the greater the scale; below 0 its opposite."""
    model = linear()
    with torch.no_grad():
        model.vector.zero_()
        model.module.weight.copy_(torch.from_numpy(scale * TRUTH.T))  # type: ignore[operator]
    return model


def learnt(how: Distilling, examples: Pool, *, cloud: FlatModel | None = None) -> Any:
    """(what it did, the edges' vector, the cloud's)."""
    edge, other = linear(1), cloud or linear(2)
    done: Distilled = distil(edge, other, pool=examples, how=how, seed=SEED)
    return done, edge.vector.clone(), other.vector.clone()


def softmax(scores: NDArray[np.floating], tau: float) -> NDArray[np.floating]:
    shares: NDArray[np.floating] = np.exp(scores / tau)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def test_the_soft_loss_is_that_of_the_formula() -> None:
    rng, tau = np.random.default_rng(0), 3.0
    q, p = rng.standard_normal((2, 4, CLASSES))
    own, told = softmax(q, tau), softmax(p, tau)
    wanted = tau**2 * (told * np.log(told / own)).sum(axis=1)
    got = soft_loss(torch.from_numpy(q), torch.from_numpy(p), temperature=tau)
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-12)


def stepped(start: FlatModel, teacher: FlatModel | None, x: Tensor, y: Tensor) -> Tensor:
    """The weights after one step by torch's own optimiser, the loss written out."""
    optimiser = torch.optim.SGD(start.module.parameters(), lr=SGD.learning_rate, momentum=0.9)
    scores = start.module(x)
    loss = -torch.log(torch.softmax(scores, 1))[0, y[0]]
    if teacher is not None:
        tau = HOW.temperature
        told = torch.softmax(teacher.module(x).detach() / tau, 1)
        own = torch.softmax(scores / tau, 1)
        loss = loss + HOW.beta * tau**2 * (told * torch.log(told / own)).sum()
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return torch.cat([p.detach().reshape(-1) for p in start.module.parameters()])


@pytest.mark.parametrize("teacher", list(Teacher))
def test_a_step_of_each_half_is_that_of_the_formula(teacher: Teacher) -> None:
    """The cloud's half learns from the edges' first; the edges' from what it has become."""
    one = pool(1)
    x, y = torch.from_numpy(one.activations), torch.from_numpy(one.labels)
    _, edge, cloud = learnt(replace(HOW, teacher=teacher, gate=False), one)
    cloud_taught = linear(1) if teacher in (Teacher.MUTUAL, Teacher.EDGE) else None
    wanted_cloud = stepped(linear(2), cloud_taught, x, y)
    new_cloud = linear(2)
    with torch.no_grad():
        new_cloud.vector.copy_(wanted_cloud)
    edge_taught = new_cloud if teacher in (Teacher.MUTUAL, Teacher.CLOUD) else None
    torch.testing.assert_close(cloud, wanted_cloud, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(edge, stepped(linear(1), edge_taught, x, y), rtol=1e-5, atol=1e-6)


def test_labels_alone_are_plain_epochs_whose_weights_are_averaged() -> None:
    one, model = pool(1), linear(1)
    x, y = torch.from_numpy(one.activations), torch.from_numpy(one.labels)
    optimiser = torch.optim.SGD(model.module.parameters(), lr=SGD.learning_rate, momentum=0.9)
    after = []
    for _ in range(3):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model.module(x), y).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        after.append(model.vector.clone())
    _, edge, _ = learnt(replace(HOW, teacher=Teacher.NONE, edge_epochs=3), one)
    torch.testing.assert_close(edge, torch.stack(after).mean(dim=0), rtol=1e-5, atol=1e-6)


def test_nobody_teaches_while_warming_up() -> None:
    examples = pool(60)
    _, edge, cloud = learnt(replace(HOW, teacher=Teacher.NONE), examples)
    done, warm_edge, warm_cloud = learnt(replace(HOW, warmup_rounds=SEED[1]), examples)
    assert torch.equal(edge, warm_edge)
    assert torch.equal(cloud, warm_cloud)
    assert not done.edge_taught
    assert not done.cloud_taught
    later, *_ = learnt(replace(HOW, warmup_rounds=SEED[1] - 1, gate=False), examples)
    assert later.edge_taught
    assert later.cloud_taught


@pytest.mark.parametrize(
    ("teacher", "edge", "cloud"),
    [("mutual", True, True), ("cloud", True, False), ("edge", False, True), ("none", False, False)],
)
def test_who_teaches_whom(teacher: str, edge: bool, cloud: bool) -> None:
    how = replace(HOW, teacher=Teacher(teacher), gate=False)
    done, *_ = learnt(how, pool(60))
    assert (done.edge_taught, done.cloud_taught) == (edge, cloud)
    assert done.samples == 60


def test_a_weak_teacher_is_not_listened_to() -> None:
    """What comes out is to the bit what labels alone give; without the gate it would be worse."""
    examples, weak = pool(200), replace(HOW, teacher=Teacher.CLOUD, cloud_epochs=0, beta=3.0)
    _, alone, _ = learnt(replace(weak, teacher=Teacher.NONE), examples, cloud=knowing(-3))
    done, gated, _ = learnt(weak, examples, cloud=knowing(-3))
    _, ungated, _ = learnt(replace(weak, gate=False), examples, cloud=knowing(-3))
    assert not done.edge_taught
    assert torch.equal(gated, alone)
    assert right(ungated) < right(alone) - 0.2


def test_a_good_teacher_is_listened_to() -> None:
    """It knows what labels with errors hide."""
    examples, good = pool(200, noise=0.5), replace(HOW, teacher=Teacher.CLOUD, cloud_epochs=0)
    done, taught, _ = learnt(good, examples, cloud=knowing(0.3))
    _, alone, _ = learnt(replace(good, teacher=Teacher.NONE), examples, cloud=knowing(0.3))
    assert done.edge_taught
    assert done.cloud_loss < done.edge_loss
    assert right(taught) > right(alone)


def right(vector: Tensor) -> float:
    """Share of others' labels that a linear model with these weights knows."""
    model, others = linear(), pool(2000, seed=7)
    with torch.no_grad():
        model.vector.copy_(vector)
        found = model.module(torch.from_numpy(others.activations)).argmax(1).numpy()
    return float((found == others.labels).mean())


def test_an_example_counts_by_its_weight() -> None:
    """Labels of examples without weight change nothing."""
    examples = pool(60)
    silent = np.arange(60) % 3 == 0
    weights = np.where(silent, 0, examples.weights).astype(np.float32)
    labels = np.where(silent, (examples.labels + 1) % CLASSES, examples.labels)
    first = learnt(HOW, replace(examples, weights=weights))
    second = learnt(HOW, replace(examples, weights=weights, labels=labels))
    assert torch.equal(first[1], second[1])
    assert torch.equal(first[2], second[2])
    others = learnt(HOW, replace(examples, labels=labels))
    assert not torch.equal(first[1], others[1])


def test_it_repeats_bit_for_bit_whatever_was_drawn_before() -> None:
    torch.manual_seed(1)
    first = learnt(HOW, pool(60))
    torch.manual_seed(2)
    second = learnt(HOW, pool(60))
    assert first[0] == second[0]
    assert torch.equal(first[1], second[1])
    assert torch.equal(first[2], second[2])


def test_it_draws_nothing_from_the_processs_generator() -> None:
    edge, cloud = linear(1), linear(2)
    before = torch.get_rng_state()
    distil(edge, cloud, pool=pool(20), how=HOW, seed=SEED)
    assert torch.equal(torch.get_rng_state(), before)


def test_halves_that_live_in_a_longer_vector_are_trained_there() -> None:
    """As the back half lies behind the front half in the whole model's vector."""
    whole = torch.zeros(7 + linear().vector.numel())
    edge = linear(1)
    whole[7:] = edge.vector
    distil(use_vector(edge, whole[7:]), linear(2), pool=pool(60), how=HOW, seed=SEED)
    assert torch.equal(whole[7:], learnt(HOW, pool(60))[1])
    assert not whole[:7].any()
