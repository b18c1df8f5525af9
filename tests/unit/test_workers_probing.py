"""The gradient at the received model: of which examples, at which weights, and what it costs."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lockstep_api.spec import Model
from lockstep_workers.data import Examples, as_batch
from lockstep_workers.learning.parameters import FlatModel, flatten
from lockstep_workers.learning.probing import gradient_at
from lockstep_workers.learning.training import Sgd, train
from lockstep_workers.models import build_model
from tests.support.clients import examples

COUNT = 20
EXAMPLES = examples(COUNT)


def model() -> FlatModel:
    """Always the same one."""
    return flatten(build_model(Model(name="mlp"), seed=1))


def plain(of: FlatModel, some: Examples) -> Tensor:
    """The gradient of the mean loss, by autograd on a copy."""
    module = copy.deepcopy(of.module)
    x, y = as_batch(some, np.arange(len(some)))
    gradients = torch.autograd.grad(cross_entropy(module(x), y), list(module.parameters()))
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


@pytest.mark.parametrize("batch_size", [1, 7, COUNT, 64])
def test_the_whole_gradient_is_that_of_all_examples(batch_size: int) -> None:
    """In batches that are not of one size, each example counts the same."""
    one = model()
    got = gradient_at(one, EXAMPLES, minibatches=None, batch_size=batch_size, seed=(1,))
    torch.testing.assert_close(got, plain(one, EXAMPLES), rtol=1e-4, atol=1e-6)


def test_mini_batches_are_drawn_by_the_seed_and_repeat() -> None:
    def of(*seed: int, minibatches: int = 2) -> Tensor:
        return gradient_at(model(), EXAMPLES, minibatches=minibatches, batch_size=4, seed=seed)

    assert torch.equal(of(1), of(1))
    assert not torch.equal(of(1), of(2))
    # A whole pass of five batches sees every example once.
    torch.testing.assert_close(of(3, minibatches=5), plain(model(), EXAMPLES), rtol=1e-4, atol=1e-6)


def test_neither_weights_nor_the_training_afterwards_depend_on_a_probe() -> None:
    """Also where the model draws (dropout)."""
    vectors = []
    for probes in (False, True):
        torch.manual_seed(5)
        module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10))
        one = flatten(module)
        before = one.vector.clone()
        if probes:
            gradient_at(one, EXAMPLES, minibatches=3, batch_size=4, seed=(1,))
            assert torch.equal(one.vector, before)
        sgd = Sgd(0.1, 0.9, 8)
        train(one, EXAMPLES, steps=3, sgd=sgd, correction=None, seed=(1, 2, 3))
        vectors.append(one.vector.clone())
    assert torch.equal(*vectors)


def test_what_was_given_is_not_changed_by_the_training() -> None:
    one = model()
    got = gradient_at(one, EXAMPLES, minibatches=None, batch_size=8, seed=(1,))
    kept = got.clone()
    train(one, EXAMPLES, steps=2, sgd=Sgd(0.1, 0.0, 8), correction=None, seed=(1,))
    assert torch.equal(got, kept)


def test_a_probe_can_be_held_up_between_batches_and_within() -> None:
    calls = []

    def pace() -> bool:
        calls.append("")
        return len(calls) == 2

    one = model()
    gradient_at(one, EXAMPLES, minibatches=3, batch_size=4, seed=(1,), pace=pace)
    layers = len(list(one.module.children()))
    assert len(calls) == 3 + 2 * layers - 1, "between batches, and in the last one between layers"
    assert not any(layer._forward_hooks for layer in one.module.modules())
