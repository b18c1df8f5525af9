"""Which strategy a job's spec means, and what its empty fields are."""

from typing import Any

import numpy as np
import pytest

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
from lockstep_workers.learning.strategy import Strategy, Vector
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
