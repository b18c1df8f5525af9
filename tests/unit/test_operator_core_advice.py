"""Learning rates that seldom learn well: which jobs are told, what they are told, and once."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lockstep_api.spec import FederatedJobSpec, Mode
from lockstep_operator.core.advice import LEARNING_RATE_UNUSUAL, advised, unusual
from lockstep_operator.reconcile import reconcile
from tests.support.kube import KEY, cluster_with, job_body, make_deps

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def spec(
    strategy: str, rate: float, *, model: str = "mlp", steps: int = 10, **more: Any
) -> FederatedJobSpec:
    """A job; `more` are fields of its strategy, or its training's momentum."""
    training = {"rounds": 3, "learningRate": rate, "momentum": more.pop("momentum", 0.0)}
    return FederatedJobSpec.model_validate(
        {
            "model": {"name": model},
            "data": {"name": "fashion-mnist"},
            "training": training | {"localSteps": more.pop("localSteps", {"fixed": steps})},
            "strategy": {"name": strategy, **more},
            "devices": [{"name": "fast", "replicas": 2}],
        }
    )


@pytest.mark.parametrize(
    ("strategy", "model", "least", "most"),
    [
        ("fedavg", "mlp", 0.01, 0.4),
        ("fedprox", "mlp", 0.01, 0.4),
        ("fednova", "mlp", 0.01, 0.4),
        ("fedagrac", "mlp", 0.01, 0.4),  # with its default weight it is hardly corrected
        ("fedavg", "cnn", 0.005, 0.2),
        ("calibrated", "mlp", 0.0025, 0.1),
        ("scaffold", "mlp", 0.0025, 0.1),
        ("calibrated", "cnn", 0.0015, 0.06),
    ],
)
def test_rates_far_from_what_suits_are_told_and_no_others(
    strategy: str, model: str, least: float, most: float
) -> None:
    for rate in (least, most, (least + most) / 2):
        assert unusual(spec(strategy, rate, model=model)) == []
    [high] = unusual(spec(strategy, most * 1.01, model=model))
    [low] = unusual(spec(strategy, least * 0.99, model=model))
    assert f"far above {most / 2:g}, what suits strategy {strategy} with model {model}" in high
    assert f"far below {most / 2:g}, what suits strategy {strategy} with model {model}" in low
    assert high.endswith(f"set about {most / 2:g}")


def test_the_default_rate_is_nobodys_surprise() -> None:
    for strategy in ("fedavg", "calibrated", "scaffold", "fedagrac"):
        assert unusual(spec(strategy, 0.01)) == []


@pytest.mark.parametrize("model", ["resnet10", "resnet18"])
def test_nothing_is_said_of_a_model_whose_rates_are_not_known(model: str) -> None:
    assert unusual(spec("fedavg", 0.9, model=model)) == []


def test_a_corrected_strategy_is_told_of_its_rule() -> None:
    [told] = unusual(spec("calibrated", 0.2))
    assert told == (
        "training.learningRate 0.2 is far above 0.05, what suits strategy calibrated with model "
        "mlp, which takes about a third of fedavg's 0.2: accuracy saws or collapses; set about 0.05"
    )


def test_fedagrac_with_a_weight_near_1_is_judged_as_corrected() -> None:
    assert unusual(spec("fedagrac", 0.2, calibrationWeight=0.03)) == []
    assert len(unusual(spec("fedagrac", 0.2, calibrationWeight=1))) == 1


LASTING = {"budgetSeconds": 60}
"""So many steps that momentum counts in full."""


def test_momentum_counts_and_does_not_suit_corrections() -> None:
    assert unusual(spec("fedavg", 0.02, momentum=0.9, localSteps=LASTING)) == []  # counts as 0.2
    [told] = unusual(spec("fedavg", 0.1, momentum=0.9, localSteps=LASTING))
    assert "0.1 (with momentum 0.9 it counts as 1) is far above 0.2" in told
    assert told.endswith("set about 0.02")
    for strategy in ("calibrated", "scaffold"):
        [warned] = unusual(spec(strategy, 0.005, momentum=0.9, localSteps=LASTING))
        assert warned.startswith(f"training.momentum 0.9 with strategy {strategy} repeats each")
        assert warned.endswith("training.learningRate 0.005 counts as 0.05: set momentum 0")


def test_momentum_counts_less_in_short_rounds() -> None:
    """It starts at 0 in each: over one step it is nothing, over ten not yet half of what it is."""
    assert unusual(spec("fedavg", 0.4, momentum=0.9, steps=1)) == []
    assert unusual(spec("fedavg", 0.09, momentum=0.9, steps=10)) == []
    [told] = unusual(spec("fedavg", 0.1, momentum=0.9, steps=10))
    assert "(with momentum 0.9 it counts as 0.41)" in told
    assert len(unusual(spec("fedavg", 0.05, momentum=0.9, steps=1000))) == 1


def test_nothing_is_said_of_rates_where_a_step_has_a_whole_clusters_examples() -> None:
    told = spec("fedavg", 0.1, momentum=0.9, localSteps=LASTING)
    assert len(unusual(told)) == 1
    assert unusual(told.model_copy(update={"mode": Mode.SPLIT})) == []


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: path.name)
def test_no_example_is_unusual(path: Path) -> None:
    jobs = [one for one in yaml.safe_load_all(path.read_text()) if one["kind"] == "FederatedJob"]
    for job in jobs:
        assert unusual(FederatedJobSpec.model_validate(job["spec"])) == []


@pytest.mark.parametrize(
    ("strategy", "fields"),
    [
        ("calibrated", {"gradient": "first"}),
        ("calibrated", {"gradient": "full"}),
        ("calibrated", {"gradient": "minibatches", "minibatches": 10}),
        ("scaffold", {"option": "I"}),
    ],
)
def test_gradients_at_the_received_model_are_for_few_small_steps(
    strategy: str, fields: dict[str, Any]
) -> None:
    assert unusual(spec(strategy, 0.01, steps=40, **fields)) == []
    [told] = unusual(spec(strategy, 0.01, steps=50, **fields))
    assert "learningRate · local steps = 0.4, and here it is 0.5 (50 steps)" in told
    assert "lower training.learningRate to 0.008" in told
    drawn = {"perDevice": {"distribution": "extreme", "min": 5, "max": 100}}
    assert len(unusual(spec(strategy, 0.01, localSteps=drawn, **fields))) == 1
    planned = {"planned": {"minSteps": 4, "maxRatio": 20}}
    assert len(unusual(spec(strategy, 0.01, localSteps=planned, **fields))) == 1
    assert unusual(spec(strategy, 0.01, localSteps={"budgetSeconds": 5}, **fields)) == []


@pytest.mark.parametrize("fields", [{}, {"gradient": "average"}])
def test_averages_of_the_rounds_own_gradients_hold_for_any_steps(fields: dict[str, Any]) -> None:
    assert unusual(spec("calibrated", 0.05, steps=1000, **fields)) == []


def test_of_a_model_of_the_users_own_no_rate_is_known() -> None:
    own = spec("calibrated", 5.0).model_dump(by_alias=True, exclude_none=True)
    own["model"] = {"entrypoint": "mine:model"}
    assert unusual(FederatedJobSpec.model_validate(own)) == []


def test_all_is_one_event() -> None:
    [note] = advised(spec("calibrated", 0.5, momentum=0.9, gradient="first"))
    assert (note.type, note.reason) == ("Warning", LEARNING_RATE_UNUSUAL)
    assert note.message.count("; ") == 3  # three sentences, one of which has one itself
    assert len(note.message) <= 1024


def unusual_job() -> dict[str, Any]:
    return job_body(training={"rounds": 3, "learningRate": 3.0})


async def test_an_accepted_job_with_an_unusual_rate_is_told_once() -> None:
    kube = cluster_with(unusual_job())
    deps = make_deps(kube)
    for _ in range(3):
        await reconcile(KEY, deps)
    assert [event["reason"] for event in kube.events] == ["Starting", LEARNING_RATE_UNUSUAL]
    assert kube.events[1]["type"] == "Warning"
    assert "learningRate 3 is far above 0.2" in kube.events[1]["message"]


async def test_an_operator_that_starts_anew_tells_it_under_the_same_name() -> None:
    """So that the apiserver, which has it, refuses it."""
    kube = cluster_with(unusual_job())
    await reconcile(KEY, make_deps(kube))
    await reconcile(KEY, make_deps(kube))
    told = [event for event in kube.events if event["reason"] == LEARNING_RATE_UNUSUAL]
    assert len(told) == 2
    assert len({event["metadata"]["name"] for event in told}) == 1
