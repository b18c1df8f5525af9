"""Which images and PriorityClasses jobs may ask for, and what is said to those that may not."""

from dataclasses import replace
from typing import Any

import pytest

from lockstep_admission.verdicts import Finding, verdicts
from lockstep_api.status import ConditionType, Phase
from lockstep_operator.config import OperatorConfig
from lockstep_operator.core.allowed import Allowed
from lockstep_operator.core.decide import decide
from lockstep_operator.core.model import Observed
from tests.support.decisions import NOW, SETTINGS, after, edited, fresh, said, spec, started

OURS = Allowed(images=("registry.example.org/ml/*", "lockstep.local/worker:1"))
SYSTEM = {"podTemplate": {"priorityClassName": "system-node-critical"}}
MANIFEST = """
apiVersion: lockstep.dev/v1alpha1
kind: FederatedJob
metadata: {name: demo}
spec:
  model: {name: mlp}
  data: {name: fashion-mnist}
  training: {rounds: 3}
  devices: [{name: d}]
  podTemplate: {priorityClassName: %s}
"""


def asks(allowed: Allowed, **change: Any) -> list[str]:
    return allowed.refusals(spec(**change))


@pytest.mark.parametrize(
    "image",
    ["registry.example.org/ml/wine:1", "registry.example.org/ml/a/b@sha256:" + "0" * 64, None,
     "lockstep.local/worker:1"],
)  # fmt: skip
def test_an_image_that_fits_a_pattern_is_allowed(image: str | None) -> None:
    assert asks(OURS, image=image) == []


@pytest.mark.parametrize(
    "image",
    ["registry.example.org/other/wine:1", "evil.example.org/registry.example.org/ml/x",
     "registryXexample.org/ml/x", "lockstep.local/worker:12", "ml/x"],
)  # fmt: skip
def test_an_image_that_fits_no_pattern_is_refused_and_told_what_is_allowed(image: str) -> None:
    (sentence,) = asks(OURS, image=image)
    assert sentence.startswith(f"image {image} is not allowed")
    assert "registry.example.org/ml/*, lockstep.local/worker:1" in sentence
    assert "operator.allowedImages" in sentence


def test_without_a_list_every_image_is_allowed() -> None:
    assert asks(Allowed(), image="anything:1") == []


def test_the_clusters_own_classes_are_refused_unless_they_are_named() -> None:
    (sentence,) = asks(Allowed(), **SYSTEM)
    assert "priorityClassName system-node-critical is not allowed" in sentence
    assert "all but system-*" in sentence
    assert asks(Allowed(priority_classes=("system-node-critical",)), **SYSTEM) == []
    assert asks(Allowed(), podTemplate={"priorityClassName": "high"}) == []


def test_with_a_list_other_classes_are_refused_and_none_is_always_allowed() -> None:
    only = Allowed(priority_classes=("batch-*",))
    assert asks(only, podTemplate={"priorityClassName": "batch-low"}) == []
    (sentence,) = asks(only, podTemplate={"priorityClassName": "high"})
    assert "allows batch-*" in sentence
    assert asks(only) == []


def refused(seen: Observed) -> str:
    decision = decide(seen, replace(SETTINGS, allowed=OURS), now=NOW)
    assert not decision.apply
    assert not decision.delete
    assert decision.status.phase is Phase.REFUSED
    assert said(decision, ConditionType.ACCEPTED) == ("False", "NotAllowed")
    return str(decision.status.conditions)


def test_a_job_that_asks_for_more_is_refused_before_anything_is_made() -> None:
    told = refused(fresh(image="evil:1", **SYSTEM))
    assert "image evil:1 is not allowed" in told
    assert "system-node-critical is not allowed" in told


def test_a_job_that_runs_gets_nothing_new_by_an_edit() -> None:
    assert "evil:1" in refused(edited(started(), image="evil:1"))


def test_a_job_goes_on_once_it_asks_for_what_is_allowed() -> None:
    settings = replace(SETTINGS, allowed=OURS)
    seen = fresh(image="evil:1")
    seen = after(seen, decide(seen, settings, now=NOW))
    decision = decide(edited(seen, image="registry.example.org/ml/x"), settings, now=NOW)
    assert said(decision, ConditionType.ACCEPTED)[0] == "True"
    assert decision.apply


def test_the_configuration_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCKSTEP_ALLOWED_IMAGES", '["a/*"]')
    monkeypatch.setenv("LOCKSTEP_ALLOWED_PRIORITY_CLASSES", '["b"]')
    assert OperatorConfig.of({}).settings().allowed == Allowed(("a/*",), ("b",))


def test_validate_says_what_an_operator_refuses_by_default() -> None:
    """It may be allowed where the job is to run: so it is advice."""
    (verdict,) = verdicts(MANIFEST % "system-cluster-critical")
    assert verdict.finding is Finding.TAKEN
    assert "system-cluster-critical is not allowed" in verdict.advice[0]
    (verdict,) = verdicts(MANIFEST % "high")
    assert not any("not allowed" in one for one in verdict.advice)
