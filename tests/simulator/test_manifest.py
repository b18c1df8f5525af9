"""Manifests without a cluster: refused and taken as by an apiserver, changed by --set, with traces.

tests/e2e/test_api.py asks a real apiserver the same cases and compares the words.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lockstep_operator.crd import crd
from lockstep_simulator.manifest import Manifest, Refused, checked, load_manifest, read_traces
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

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.mark.parametrize(
    "example",
    sorted(
        path
        for path in (ROOT / "docs" / "examples").glob("*.yaml")
        if "kind: FederatedJob" in path.read_text()
    ),
    ids=lambda path: path.stem,
)
def test_examples_are_taken(example: Path) -> None:
    made = load_manifest(example.read_text())
    assert made.name == example.stem
    assert made.namespace == "default"


def loaded(*changes: str, spec: Json = MINIMAL, **more: Any) -> Manifest:
    return load_manifest(yaml.safe_dump(job_manifest(spec)), sets=changes, **more)


def test_set_changes_fields_as_helm_does() -> None:
    spec = loaded(
        "training.rounds=5,training.momentum=0.5",
        "spec.devices[0].replicas=3",
        "devices[1].name=second",
        "training.localSteps.fixed=7",
        "training.deterministic=true",
        "podTemplate.imagePullSecrets={one,two}",
        r"podTemplate.annotations.note=a\,b",
        r"podTemplate.labels.example\.com/team=red",
        "allocation.energyWeight=1e-3",
    ).spec
    assert (spec.training.rounds, spec.training.momentum) == (5, 0.5)
    assert [(one.name, one.replicas) for one in spec.devices] == [("all", 3), ("second", 1)]
    assert spec.training.local_steps.fixed == 7
    assert spec.training.deterministic is True
    assert spec.pod_template is not None
    assert list(spec.pod_template.image_pull_secrets) == ["one", "two"]
    assert spec.pod_template.annotations == {"note": "a,b"}
    assert spec.pod_template.labels == {"example.com/team": "red"}
    assert spec.allocation.energy_weight == 0.001


def test_set_null_takes_a_field_away() -> None:
    steps = {"training.localSteps": {"fixed": 3}}
    spec = loaded("training.localSteps=null", spec=changed(MINIMAL, steps)).spec
    assert spec.training.local_steps.fixed == 10


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("training.rounds", "write path=value"),
        ("=3", "write path=value"),
        ("devices[4].replicas=3", "the list has 1 entries: use at most [1]"),
        ("training[0]=3", "[0] needs a list, but there is an object"),
        ("model.name.x=3", "there is no field x in 'mlp'"),
        ("training..rounds=3", "write a path such as"),
        ("training.round=3", 'unknown field "spec.training.round"'),
        ("training.rounds=many", "spec.training.rounds in body must be of type integer"),
        ("strategy.mu=0.1", "strategy: mu belongs to name fedprox only"),
        ("training.rounds=null", "spec.training.rounds: Required value"),
    ],
)
def test_a_set_that_does_not_fit_is_refused(setting: str, said: str) -> None:
    with pytest.raises(Refused) as found:
        loaded(setting)
    assert said in str(found.value)


TRACE = {"walk.csv": "t_seconds,bandwidth_mbps\n0,2\n10,2\n"}
LINKED = changed(MINIMAL, {"devices.0.uplink": {"trace": "walk"}})


def stream(*documents: Json) -> str:
    return yaml.safe_dump_all(documents)


def config_map(**metadata: str) -> Json:
    named = {"name": "walk", **metadata}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "data": TRACE}


def test_traces_come_from_the_stream() -> None:
    made = load_manifest(stream(config_map(), job_manifest(LINKED), {"kind": "Service"}))
    assert made.traces == {"walk": TRACE}


def test_a_trace_of_another_namespace_is_not_seen() -> None:
    with pytest.raises(Refused, match=r"uplink.trace: ConfigMap walk is not there"):
        load_manifest(stream(config_map(namespace="other"), job_manifest(LINKED)))


def test_a_trace_that_is_missing_is_named() -> None:
    with pytest.raises(Refused) as found:
        load_manifest(stream(job_manifest(LINKED)))
    assert "spec.devices[0].uplink.trace: ConfigMap walk is not there" in str(found.value)
    assert "--traces" in str(found.value)


@pytest.mark.parametrize("kind", ["yaml", "csv", "folder", "folder of csv"])
def test_traces_come_from_files_beside(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "beside"
    place.mkdir()
    if kind in {"yaml", "folder"}:
        path = place / "maps.yaml"
        path.write_text(stream(config_map()))
        path = path if kind == "yaml" else place
    else:
        path = place / "walk.csv"
        if kind == "folder of csv":
            path = place / "walk" / "walk.csv"
            path.parent.mkdir()
        path.write_text(TRACE["walk.csv"])
        path = path if kind == "csv" else place
    made = load_manifest(stream(job_manifest(LINKED)), traces=read_traces(path))
    assert made.traces["walk"] == TRACE


def test_the_stream_has_one_job_or_the_one_that_is_named() -> None:
    two = stream(job_manifest(MINIMAL, name="one"), job_manifest(MINIMAL, name="two"))
    assert load_manifest(two, job="two").name == "two"
    with pytest.raises(Refused, match="has 2 FederatedJobs: say --job and one of one, two"):
        load_manifest(two)
    with pytest.raises(Refused, match="has no FederatedJob named three"):
        load_manifest(two, job="three")
    with pytest.raises(Refused, match="has no FederatedJob: it needs kind"):
        load_manifest(stream(config_map()))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "is no YAML"),
        ("kind: FederatedJob\nkind: FederatedJob\n", "key 'kind' is already set"),
        ("- 1\n", "is a list, not an object"),
        ("kind: FederatedJob\napiVersion: v1\n", 'no matches for kind "FederatedJob"'),
    ],
)
def test_what_is_no_manifest_is_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(Refused) as found:
        load_manifest(text)
    assert said in str(found.value)


def test_scalars_are_read_as_kubectl_reads_them() -> None:
    text = yaml.safe_dump(job_manifest(changed(MINIMAL, {"training.momentum": 0.0})))
    lines = text.replace("momentum: 0.0", "momentum: 5e-1")
    made = load_manifest(lines + "  podTemplate: {annotations: {day: 2026-01-01, at: 1:30}}\n")
    assert made.spec.training.momentum == 0.5
    assert made.spec.pod_template is not None
    assert made.spec.pod_template.annotations == {"day": "2026-01-01", "at": "1:30"}
