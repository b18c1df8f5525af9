"""Local training, strategies and models: the formulas, checked against plain torch."""

import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lockstep_api.spec import Model, StrategyName, StrategySpec
from lockstep_workers.data import Examples, as_batch
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.evaluation import evaluate
from lockstep_workers.learning.parameters import flatten
from lockstep_workers.learning.strategies import build_strategy
from lockstep_workers.learning.strategy import MODEL, NO_MEMORY, LocalPlan
from lockstep_workers.learning.training import Sgd, batches, flush_denormals, train
from lockstep_workers.models import build_model
from tests.support.tasks import no_probe

RNG = np.random.default_rng(0)
EXAMPLES = Examples(
    RNG.integers(0, 256, (40, 1, 28, 28), np.uint8), RNG.integers(0, 10, 40), mean=73, scale=90
)
SGD = Sgd(learning_rate=0.05, momentum=0.9, batch_size=16)


def reference(model: nn.Module, steps: int, mu: float) -> None:
    """The same training by torch's own optimiser, with the proximal term in the loss."""
    start = [p.detach().clone() for p in model.parameters()]
    optimiser = torch.optim.SGD(model.parameters(), lr=SGD.learning_rate, momentum=SGD.momentum)
    rng = np.random.default_rng(np.random.SeedSequence((1, 2, 3)))
    drawn = batches(40, batch_size=SGD.batch_size, rng=rng)
    for _ in range(steps):
        x, y = as_batch(EXAMPLES, next(drawn))
        pull = sum(((p - s) ** 2).sum() for p, s in zip(model.parameters(), start, strict=True))
        loss = cross_entropy(model(x), y) + mu / 2 * pull
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


@pytest.mark.parametrize("mu", [0.0, 0.3])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_training_is_sgd_with_momentum_and_the_proximal_term(name: str, mu: float) -> None:
    model = flatten(build_model(Model.model_validate({"name": name}), seed=1))
    plain = build_model(Model.model_validate({"name": name}), seed=1)
    strategy = build_strategy(StrategySpec(name=StrategyName.FEDPROX, mu=mu), momentum=SGD.momentum)
    plan = LocalPlan(round=1, steps=5, learning_rate=SGD.learning_rate, momentum=SGD.momentum)
    part = strategy.begin(
        {MODEL: model.vector.clone()}, plan=plan, memory=NO_MEMORY, probe=no_probe
    )
    train(model, EXAMPLES, steps=5, sgd=SGD, correction=part.correct, seed=(1, 2, 3))
    reference(plain, 5, mu)
    for got, wanted in zip(model.module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_pauses_between_steps_and_layers_change_nothing(name: str) -> None:
    """Who says that steps are long is called after each layer's forward and backward part."""
    calls: list[str] = []

    def rarely() -> bool:
        calls.append("")
        return False

    def often() -> bool:
        calls.append("")
        return True

    vectors = []
    counts = []
    for pace in (None, rarely, often):
        calls.clear()
        model = flatten(build_model(Model.model_validate({"name": name}), seed=1))
        train(model, EXAMPLES, steps=3, sgd=SGD, correction=None, seed=(1, 2, 3), pace=pace)
        vectors.append(model.vector.clone())
        counts.append(len(calls))
        assert not any(layer._forward_hooks for layer in model.module.modules())
    assert all(torch.equal(vectors[0], other) for other in vectors[1:])
    layers = len(list(model.module.children()))
    backward = layers - (name == "mlp")  # the flattened image has no gradient
    assert counts == [0, 3, 3 + 2 * (layers + backward)]


def test_the_vector_is_the_model() -> None:
    model = flatten(build_model(Model(name="mlp"), seed=0))
    model.vector.zero_()
    assert all(not p.any() for p in model.module.parameters())
    assert {name: tuple(p.shape) for name, p in model.module.named_parameters()} == {
        "1.weight": (128, 784),
        "1.bias": (128,),
        "3.weight": (10, 128),
        "3.bias": (10,),
    }
    assert model.vector.numel() == 128 * 784 + 128 + 10 * 128 + 10


def test_initial_weights_follow_the_seed() -> None:
    first, same, other = (flatten(build_model(Model(name="cnn"), seed=s)).vector for s in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_every_example_is_used_before_one_repeats() -> None:
    drawn = batches(10, batch_size=4, rng=np.random.default_rng(0))
    epoch = np.concatenate([next(drawn) for _ in range(3)])
    assert sorted(epoch) == list(range(10))


def test_evaluation_counts() -> None:
    model = flatten(build_model(Model(name="mlp"), seed=0))
    result = evaluate(model, EXAMPLES)
    x, y = as_batch(EXAMPLES, np.arange(40))
    scores = model.module(x).detach()
    assert result.accuracy == pytest.approx(float((scores.argmax(1) == y).float().mean()))
    assert result.loss == pytest.approx(float(cross_entropy(scores, y)), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": "many"}, "do not fit model mlp: hidden must be a positive multiple of 1"),
        ({"hidden": 0}, "hidden must be a positive multiple of 1, not 0"),
        ({"depth": 3}, "unexpected keyword"),
    ],
)
def test_arguments_that_a_model_does_not_take(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidJob, match=message):
        build_model(Model(name="mlp", args=arguments), seed=0)


def test_numbers_too_small_to_be_normal_are_zero_where_a_pod_computes() -> None:
    """Also in the threads that come after, and in those that torch starts for them."""
    left: list[int] = []

    def compute() -> None:
        tiny = torch.full((1 << 20,), 1e-40)
        left.append(int(torch.count_nonzero(tiny * torch.ones(1 << 20))))

    def pod() -> None:
        flush_denormals()
        thread = threading.Thread(target=compute)
        thread.start()
        thread.join()

    main = threading.Thread(target=pod)
    main.start()
    main.join()
    assert left == [0]
