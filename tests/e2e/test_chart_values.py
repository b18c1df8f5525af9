"""Values that are left blank, or that an older release did not have, have their defaults."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import api

pytestmark = pytest.mark.cluster

CHART = Path(__file__).resolve().parents[2] / "charts" / "lockstep"


def keys(values: dict[str, Any], before: str = "") -> Iterator[str]:
    """The path of every value and of every section."""
    for key, value in values.items():
        yield before + key
        if isinstance(value, dict):
            yield from keys(value, f"{before}{key}.")


ALL = [*keys(yaml.safe_load((CHART / "values.yaml").read_text())), "global"]
NONE_WHEN_BLANK = ("affinity", "operator.resources.", "prometheus.resources.")
"""Of these a blank takes away what the default has."""


def rendered(chart: Path, *words: str) -> list[Any]:
    text = api.helm("template", "lockstep", str(chart), "--namespace", "lockstep-system", *words)
    return [document for document in yaml.safe_load_all(text) if document]


@pytest.fixture(scope="module")
def by_default(cluster: Path) -> list[Any]:
    """All objects without any value given."""
    return rendered(CHART)


@pytest.mark.parametrize("key", ALL)
def test_a_value_left_blank_is_the_default(by_default: list[Any], key: str) -> None:
    made = rendered(CHART, "--set", f"{key}=null")
    if not key.startswith(NONE_WHEN_BLANK):
        assert made == by_default
    assert [one["kind"] for one in made] == [one["kind"] for one in by_default]


def test_all_values_left_blank_are_the_defaults(by_default: list[Any]) -> None:
    sections = [key for key in ALL if "." not in key and key != "affinity"]
    assert rendered(CHART, "--set", ",".join(f"{key}=null" for key in sections)) == by_default


def test_the_values_of_an_older_release_need_none_of_the_newer_keys(
    by_default: list[Any], tmp_path: Path
) -> None:
    """As with --reuse-values: the values of the release before, without this chart's defaults."""
    later = tmp_path / "lockstep"
    shutil.copytree(CHART, later)
    (later / "values.yaml").write_text("{}\n")
    affinity = {"affinity": yaml.safe_load((CHART / "values.yaml").read_text())["affinity"]}
    given = tmp_path / "given.yaml"
    given.write_text(yaml.safe_dump(affinity))
    assert rendered(later, "--values", str(given)) == by_default
    assert rendered(later)


def test_what_is_given_stays_although_it_looks_empty(cluster: Path) -> None:
    """False, and limits that were taken away."""
    no = "operator.planner.auth=false,crds.keep=false,crds.install=false,prometheus.enabled=false"
    no += ",dashboards.enabled=false"
    made = rendered(CHART, "--set", no, "--set", "operator.resources.limits=null")
    assert {one["kind"] for one in made}.isdisjoint({"CustomResourceDefinition", "ConfigMap"})
    deployment = next(one for one in made if one["kind"] == "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "LOCKSTEP_PLANNER_AUTH", "value": "false"} in container["env"]
    assert "limits" not in container["resources"]


def test_the_notes_need_no_value(cluster: Path) -> None:
    sections = [key for key in ALL if "." not in key]
    blank = ",".join(f"{key}=null" for key in sections)
    said = api.helm(
        "install", "notes", str(CHART), "--dry-run=client", "--namespace", "default", "--set", blank
    )
    assert "runs jobs in all namespaces" in said
