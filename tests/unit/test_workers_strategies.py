"""Which strategy a job's spec means, what its empty fields are, and what all of them keep to."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from lockstep_api.spec import CalibrationGradient, StrategySpec
from lockstep_workers.learning.calibrated import Calibration, calibrated
from lockstep_workers.learning.fedagrac import fedagrac
from lockstep_workers.learning.normalised import with_normalised_steps
from lockstep_workers.learning.scaffold import scaffold
from lockstep_workers.learning.server_optimizer import (
    Adaptive,
    with_adaptive_server,
    with_server_optimizer,
)
from lockstep_workers.learning.strategies import build_strategy, fedavg, with_proximal
from lockstep_workers.learning.strategy import LocalPlan, LocalResult, Strategy, Vector
from tests.support.quadratics import Quadratic, QuadraticJob

CLIENTS = {
    "a": Quadratic((0.5, 1.0), (3.0, -1.0), steps=2, examples=1),
    "b": Quadratic((1.5, 0.7), (-2.0, 1.0), steps=11, examples=4),
    "c": Quadratic((1.0, 1.0), (1.0, 2.0), steps=5, examples=2),
}
MOMENTUM = 0.5
FIRST = CalibrationGradient.FIRST


def played(strategy: Strategy) -> Vector:
    job = QuadraticJob(strategy, CLIENTS, 0.05, MOMENTUM)
    return np.stack([job.play(1, names) for names in ([*CLIENTS], ["a", "b"], ["c"], ["b"])])


def server(**how: float) -> Strategy:
    return with_server_optimizer(fedavg(), **how)


def adaptive(**how: Any) -> Strategy:
    return with_adaptive_server(fedavg(), Adaptive(**how))


MEANT: list[tuple[dict[str, Any], Strategy]] = [
    ({}, fedavg()),
    ({"name": "fedprox"}, with_proximal(fedavg(), 0.01)),
    ({"name": "fedprox", "mu": 0.5}, with_proximal(fedavg(), 0.5)),
    ({"name": "fednova"}, with_normalised_steps(fedavg(), momentum=MOMENTUM)),
    ({"name": "scaffold"}, scaffold()),
    ({"name": "scaffold", "option": "II"}, scaffold()),
    ({"name": "scaffold", "option": "I"}, scaffold(at_start=True)),
    ({"name": "fedagrac"}, fedagrac(weight=0.03)),
    ({"name": "fedagrac", "calibrationWeight": 0}, fedagrac(weight=0.0)),
    ({"name": "fedagrac", "calibrationWeight": 1}, fedagrac(weight=1.0)),
    ({"name": "calibrated"}, calibrated(Calibration(weight=1.0, deviation_weight=0.1))),
    (
        {"name": "calibrated", "deviationWeight": -0.5},
        calibrated(Calibration(deviation_weight=-0.5)),
    ),
    ({"name": "calibrated", "deviationWeight": 0}, calibrated(Calibration(deviation_weight=0.0))),
    ({"name": "calibrated", "calibrationWeight": 0.5}, calibrated(Calibration(weight=0.5))),
    ({"name": "calibrated", "gradient": "first"}, calibrated(Calibration(gradient=FIRST))),
    ({"serverLearningRate": 2}, server(learning_rate=2.0)),
    ({"serverMomentum": 0.9}, server(momentum=0.9)),
    ({"serverMomentum": 0.9, "serverLearningRate": 0.1}, server(momentum=0.9, learning_rate=0.1)),
    ({"serverMomentum": 0, "serverLearningRate": 1}, fedavg()),
    ({"name": "fedadam"}, adaptive(learning_rate=0.01, beta1=0.9, beta2=0.99, tau=1e-3)),
    ({"name": "fedadam", "serverLearningRate": 0.1}, adaptive(learning_rate=0.1)),
    ({"name": "fedadam", "serverMomentum": 0}, adaptive(beta1=0.0)),
    ({"name": "fedyogi"}, adaptive(yogi=True)),
    (
        {"name": "scaffold", "serverMomentum": 0.5},
        with_server_optimizer(scaffold(), momentum=0.5),
    ),
]


@pytest.mark.parametrize(("fields", "meant"), MEANT)
def test_a_spec_means_this_strategy_and_no_other(fields: dict[str, Any], meant: Strategy) -> None:
    strategy = build_strategy(StrategySpec.model_validate(fields), momentum=MOMENTUM)
    curve = played(strategy)
    np.testing.assert_array_equal(curve, played(meant))
    others = [one for _, one in MEANT if not np.array_equal(played(one), curve)]
    assert len(others) >= len(MEANT) - 3  # some have two names
    for other in others:
        assert np.abs(played(other) - curve).max() > 1e-4


KEEPERS = [strategy for _, strategy in MEANT]


@pytest.mark.parametrize("strategy", KEEPERS)
def test_a_client_changes_nothing_that_it_is_handed(strategy: Strategy) -> None:
    """Neither what it received, nor what it remembers of the round before."""
    job = QuadraticJob(strategy, CLIENTS, 0.05)
    job.play(2)
    state, memory = job.server.state, job.memories["a"]
    received = {name: torch.from_numpy(state.vectors[name].copy()) for name in strategy.broadcasts}
    handed = {**received, **{f"own {name}": vector for name, vector in memory.vectors.items()}}
    before = {name: vector.clone() for name, vector in handed.items()}
    plan = LocalPlan(3, 4, 0.05, 0.0, base_round=2, mean_steps=2.0, numbers=state.numbers)
    part = strategy.begin(
        received, plan=plan, memory=memory, probe=lambda _minibatches=None: torch.ones(2)
    )
    weights, gradient = torch.ones(2), torch.ones(2)
    for _ in range(4):
        if part.correct is not None:
            part.correct(weights, gradient)
    uploads, remembered = part.finish(LocalResult(weights, 4, 1))
    assert set(uploads) == set(strategy.uploads)
    assert set(remembered.vectors) >= set(strategy.remembers)
    assert torch.equal(weights, torch.ones(2))
    for name, vector in before.items():
        assert torch.equal(handed[name], vector), name


@pytest.mark.parametrize("strategy", KEEPERS)
def test_a_server_changes_no_state_of_before_and_has_each_vector_once(strategy: Strategy) -> None:
    job = QuadraticJob(strategy, CLIENTS, 0.05)
    for number in range(3):
        job.begin()
        state = job.server.state.vectors
        before = {name: vector.copy() for name, vector in state.items()}
        for one, other in combinations(state, 2):
            assert number == 0 or not np.shares_memory(state[one], state[other]), (one, other)
        if number == 1:
            del job.memories["a"]
        job.end([job.train(name) for name in CLIENTS])
        for name, vector in before.items():
            np.testing.assert_array_equal(state[name], vector, err_msg=name)
        after = job.server.state
        assert after.vectors.keys() == state.keys()
        assert all(vector.dtype == np.float32 for vector in after.vectors.values())
        assert after.numbers.keys() == strategy.start(np.zeros(2, np.float32)).numbers.keys()
