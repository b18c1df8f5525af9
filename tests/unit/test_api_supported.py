"""One table of what is supported: the operator refuses by it, and the workers have each entry."""

import pytest

from lockstep_api.spec import FederatedJobSpec, StrategyName, StrategySpec
from lockstep_api.supported import STRATEGIES, choice
from lockstep_operator.core.support import unsupported
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.strategies import build_strategy
from lockstep_workers.learning.strategy import Strategy


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_supported_strategy_is_accepted_and_built(name: StrategyName) -> None:
    assert unsupported(job(name)) == []
    assert isinstance(build_strategy(StrategySpec(name=name), momentum=0.0), Strategy)


@pytest.mark.parametrize("name", [name for name in StrategyName if name not in STRATEGIES])
def test_any_other_is_refused_by_both_planes_in_the_same_words(name: StrategyName) -> None:
    advice = f"use {choice(STRATEGIES)}"
    (sentence,) = unsupported(job(name))
    assert sentence == f"strategy.name {name} is not supported yet: {advice}"
    with pytest.raises(InvalidJob, match=advice):
        build_strategy(StrategySpec(name=name), momentum=0.0)


@pytest.mark.parametrize(
    ("names", "text"), [(["a"], "a"), (["a", "b"], "a or b"), (["a", "b", "c"], "a, b or c")]
)
def test_a_choice_reads_as_a_sentence(names: list[str], text: str) -> None:
    assert choice(names) == text


def job(strategy: StrategyName) -> FederatedJobSpec:
    return FederatedJobSpec.model_validate(
        {
            "model": {"name": "mlp"},
            "data": {"name": "fashion-mnist"},
            "training": {"rounds": 1},
            "devices": [{"name": "d"}],
            "strategy": {"name": strategy},
        }
    )
