"""The models refuse what Kubernetes would refuse of a job's pods, and take what it takes."""

import pytest
from pydantic import ValidationError

from lockstep_api.spec import FederatedJobSpec
from tests.support.manifests import (
    MINIMAL,
    REFUSED_BY_RULES,
    REFUSED_BY_SCHEMA,
    REFUSED_BY_THE_OPERATOR,
    TAKEN,
    Json,
    changed,
)

ACROSS_FIELDS = ("tolerations: ", "cloud: ", "devices: ")
"""Rules that the apiserver alone has: no model is read that did not pass them."""
REFUSED = [
    *(changes for changes, said in REFUSED_BY_RULES if not said.startswith(ACROSS_FIELDS)),
    *(changes for changes, _ in REFUSED_BY_SCHEMA),
    *REFUSED_BY_THE_OPERATOR,
]


@pytest.mark.parametrize("changes", REFUSED)
def test_a_wrong_value_is_refused(changes: Json) -> None:
    with pytest.raises(ValidationError):
        FederatedJobSpec.model_validate(changed(MINIMAL, changes))


@pytest.mark.parametrize("changes", TAKEN)
def test_an_odd_value_is_taken(changes: Json) -> None:
    FederatedJobSpec.model_validate(changed(MINIMAL, changes))


def test_annotations_that_are_long_together_are_refused() -> None:
    """Each of a job's sets of pods repeats them."""
    short = {f"example.org/{number}": "é" * 1000 for number in range(15)}
    for annotations, is_taken in ((short, True), ({**short, "a": "x" * 1300}, False)):
        spec = MINIMAL | {"podTemplate": {"annotations": annotations}}
        if is_taken:
            assert FederatedJobSpec.model_validate(spec).pod_template is not None
            continue
        with pytest.raises(ValidationError, match="may have 16,384 characters together, and these"):
            FederatedJobSpec.model_validate(spec)
