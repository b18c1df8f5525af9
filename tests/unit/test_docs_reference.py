"""Pages that are made from code: they are what the code says, and leave nothing out."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from lockstep_operator.crd import crd
from tests.docs.federatedjob import reference
from tests.docs.references import REFERENCES, stale


def test_pages_that_are_made_from_code_are_what_it_says() -> None:
    assert stale() == [], "run make docs-reference"


def described(schema: Mapping[str, Any]) -> Iterator[str]:
    """All descriptions, patterns, messages and rules below a part of the CRD."""
    for key in ("description", "pattern"):
        if key in schema:
            yield str(schema[key])
    for rule in schema.get("x-kubernetes-validations", ()):
        yield from (rule["message"], f"`{rule['rule']}`")
    below = [*schema.get("properties", {}).values(), schema.get("items")]
    for one in (*below, schema.get("additionalProperties")):
        if isinstance(one, dict):
            yield from described(one)


@pytest.mark.parametrize("part", ["spec", "status"])
def test_every_description_pattern_and_rule_of_the_crd_is_in_its_reference(part: str) -> None:
    page = reference().replace("\\|", "|")
    fields = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    said = list(described(fields[part]))
    assert len(said) > 50
    # an entry of a list, or a value of a mapping, is described where the list is
    entries = {entry["description"] for entry in nameless(fields[part])}
    assert [one for one in said if one not in page and one not in entries] == []


def nameless(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Described entries of lists and mappings that have no fields of their own."""
    for one in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(one, dict) and "properties" not in one and "description" in one:
            yield one
    for one in (*schema.get("properties", {}).values(), schema.get("items")):
        if isinstance(one, dict):
            yield from nameless(one)


def test_a_page_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REFERENCES, "docs/reference/federatedjob.md", lambda: "other\n")
    assert stale() == ["docs/reference/federatedjob.md"]
