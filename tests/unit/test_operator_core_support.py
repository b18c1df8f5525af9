"""Each field that this version cannot do is named, with what to use instead."""

from typing import Any

import pytest

from lockstep_api.spec import FederatedJobSpec
from lockstep_operator.core.support import unsupported

BASE: dict[str, Any] = {
    "model": {"name": "mlp"},
    "data": {"name": "fashion-mnist"},
    "training": {"rounds": 3},
    "devices": [{"name": "fast", "replicas": 2}],
}
STEPS = {"distribution": "uniform", "min": 1, "max": 2}
REFUSED: list[tuple[str, dict[str, Any]]] = [
    (
        "data.partition.scheme natural",
        {"data": {"name": "fashion-mnist", "partition": {"scheme": "natural"}}},
    ),
    (
        "which shapes32 has not",
        {"data": {"name": "shapes32", "partition": {"scheme": "natural"}}},
    ),
    ("devices[].name cloud", {"devices": [{"name": "cloud"}]}),
]
FINE: list[dict[str, Any]] = [
    {},
    {"strategy": {"name": "fedprox", "mu": 0.1}},
    {"strategy": {"name": "scaffold", "option": "I"}},
    {"strategy": {"name": "fedavg", "serverMomentum": 0.9, "serverLearningRate": 2}},
    {"strategy": {"name": "calibrated", "deviationWeight": 0.2, "gradient": "first"}},
    {"allocation": {"policy": "static"}},
    {"allocation": {"policy": "equalize"}},
    {"allocation": {"policy": "ppo", "policyRef": "mine"}},
    {"training": {"rounds": 1, "localSteps": {"budgetSeconds": 1}}},
    {"training": {"rounds": 1, "localSteps": {"perDevice": STEPS}}},
    {"training": {"rounds": 1, "localSteps": {"planned": {}}}, "allocation": {"policy": "ppo"}},
    {"distillation": {"enabled": False}},
    {"edges": []},
    {"mode": "hierarchical", "edges": [{"name": "e"}]},
    {"mode": "split", "edges": [{"name": "e"}]},
    {"data": {"name": "fashion-mnist", "partition": {"scheme": "dirichlet"}}},
]


@pytest.mark.parametrize(("named", "change"), REFUSED, ids=[name for name, _ in REFUSED])
def test_a_field_of_a_later_version_is_named_alone(named: str, change: dict[str, Any]) -> None:
    (sentence,) = unsupported(FederatedJobSpec.model_validate(BASE | change))
    assert named in sentence
    assert ": use " in sentence or ": remove " in sentence


@pytest.mark.parametrize("change", FINE)
def test_what_works_is_not_refused(change: dict[str, Any]) -> None:
    assert unsupported(FederatedJobSpec.model_validate(BASE | change)) == []


def test_every_reason_is_given_at_once() -> None:
    data = {"name": "fashion-mnist", "partition": {"scheme": "natural"}}
    spec = FederatedJobSpec.model_validate(BASE | {"data": data, "devices": [{"name": "cloud"}]})
    assert len(unsupported(spec)) == 2
