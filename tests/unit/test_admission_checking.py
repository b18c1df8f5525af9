"""Manifests without a cluster: refused and taken as by an apiserver, in its words.

tests/e2e/test_api.py asks a real apiserver the same cases and compares the words.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from lockstep_admission.checking import checked
from lockstep_admission.errors import Refused
from lockstep_operator.crd import crd
from tests.support.manifests import (
    FIELDS,
    MINIMAL,
    NAME_MESSAGE,
    ODD,
    REFUSED_BY_THE_OPERATOR,
    RULES,
    TAKEN,
    changed,
    job_manifest,
)

Json = dict[str, Any]


def refused(job: Json) -> tuple[str, ...]:
    """What is said of a job that is not taken."""
    with pytest.raises(Refused) as found:
        checked(job)
    return found.value.sentences


@pytest.mark.parametrize(("changes", "message"), RULES)
def test_a_rule_refuses_with_its_message(changes: Json, message: str) -> None:
    sentences = refused(job_manifest(changed(MINIMAL, changes)))
    assert [one for one in sentences if one.endswith(f": {message}")], sentences


@pytest.mark.parametrize(("changes", "message"), FIELDS)
def test_a_field_is_refused_as_by_an_apiserver(changes: Json, message: str) -> None:
    sentences = refused(job_manifest(changed(MINIMAL, changes)))
    assert any(message in one for one in sentences), sentences


def asked_rules(schema: Any) -> Iterator[str]:
    """The messages of the rules that are asked of a new job."""
    if isinstance(schema, dict):
        for rule in schema.get("x-kubernetes-validations", []):
            if "oldSelf" not in rule["rule"]:
                yield rule["message"]
        for value in schema.values():
            yield from asked_rules(value)


def test_every_rule_of_the_crd_refuses_a_manifest_without_a_cluster() -> None:
    rules = set(asked_rules(crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]))
    said = {
        message
        for changes, message in RULES
        if any(one.endswith(message) for one in refused(job_manifest(changed(MINIMAL, changes))))
    }
    named = {rule for rule in rules if rule.startswith(NAME_MESSAGE)}
    assert len(named) == 1
    assert rules - named == said


@pytest.mark.parametrize(("changes", "sentences"), ODD)
def test_odd_manifests_are_refused_in_the_apiservers_words(
    changes: Json, sentences: list[str]
) -> None:
    assert list(refused(job_manifest(changed(MINIMAL, changes)))) == sentences


@pytest.mark.parametrize("name", ["my.job", "1st"])
def test_a_name_that_no_service_can_have_is_refused(name: str) -> None:
    (sentence,) = refused(job_manifest(MINIMAL, name=name))
    assert sentence.startswith(f"<nil>: Invalid value: {NAME_MESSAGE}")


@pytest.mark.parametrize("changes", TAKEN)
def test_what_an_apiserver_takes_is_taken(changes: Json) -> None:
    checked(job_manifest(changed(MINIMAL, changes)))


@pytest.mark.parametrize("changes", REFUSED_BY_THE_OPERATOR)
def test_what_the_operator_refuses_of_the_spec_is_refused(changes: Json) -> None:
    refused(job_manifest(changed(MINIMAL, changes)))


def test_what_is_not_supported_yet_is_refused_as_by_the_operator() -> None:
    (sentence,) = refused(job_manifest(changed(MINIMAL, {"data.partition": {"scheme": "natural"}})))
    assert sentence == (
        "data.partition.scheme natural needs users, which fashion-mnist has not: "
        "use iid, dirichlet or shards"
    )
