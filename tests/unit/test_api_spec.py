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
