"""Manifests of simulated jobs: the one that is meant, changed by --set, with traces.

tests/unit/test_admission_checking.py has what of them is refused.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lockstep_admission.errors import Refused
from lockstep_api.names import TRACES_LABEL
from lockstep_api.spec import PerDevice, Telemetry
from lockstep_simulator.manifest import Manifest, load_manifest, read_traces
from tests.support.manifests import MINIMAL, changed, job_manifest

ROOT = Path(__file__).resolve().parents[2]
Json = dict[str, Any]


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


def test_what_pods_would_tell_keeps_no_job_from_being_played() -> None:
    spec = loaded("telemetry.perDevice=never,telemetry.energyBudgetJoules=500").spec
    assert spec.telemetry == Telemetry(per_device=PerDevice.NEVER, energy_budget_joules=500)


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


def config_map(**metadata: object) -> Json:
    named = {"name": "walk", "labels": {TRACES_LABEL: "true"}, **metadata}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "data": TRACE}


def test_traces_come_from_the_stream() -> None:
    made = load_manifest(stream(config_map(), job_manifest(LINKED), {"kind": "Service"}))
    assert made.traces == {"walk": TRACE}


def test_a_trace_of_another_namespace_is_not_seen() -> None:
    with pytest.raises(Refused, match=r"uplink.trace: ConfigMap walk is not there"):
        load_manifest(stream(config_map(namespace="other"), job_manifest(LINKED)))


def test_a_config_map_that_does_not_say_that_it_has_traces_is_not_seen() -> None:
    """As on a cluster, where jobs may not have of it."""
    with pytest.raises(Refused, match=r'not the label lockstep.dev/traces: "true"'):
        load_manifest(stream(config_map(labels={}), job_manifest(LINKED)))


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
