"""What the apiserver does with a FederatedJob: refuses wrong ones, fills in defaults, explains.

Every rule of the CRD has a manifest here that it refuses, with the message that a user sees.
"""

import functools
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lockstep_admission.checking import checked
from lockstep_admission.errors import Refused
from lockstep_operator.crd import crd
from tests.cluster import api
from tests.e2e.polled import wait_until_served
from tests.e2e.program import cli
from tests.support.manifests import (
    ABSENT,
    EDGES,
    FIELDS,
    MINIMAL,
    NAME_MESSAGE,
    ODD,
    PRIVACY,
    RULES,
    TAKEN,
    TAKEN_WITH_EDGES,
    all_messages,
    changed,
    job_manifest,
)
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
CRD_FILE = ROOT / "crds" / "lockstep.dev_federatedjobs.yaml"

Json = dict[str, Any]

# A job with everything that can be fixed. The operator refuses it (mode split), and it is
# suspended: no pod ever starts.
FULL: Json = {
    **MINIMAL,
    "suspend": True,
    "model": {"entrypoint": "shop.models:net", "args": {"width": 2}, "cut": "conv1"},
    "image": "registry.example.org/shop:1",
    "podTemplate": {"labels": {"team": "a"}},
    "mode": "split",
    "edges": EDGES,
    "clustering": {"method": "kl"},
    "offload": {"objective": "sum"},
    "split": {},
    "distillation": {"enabled": True},
}


def kubectl(*words: str, stdin: str | None = None) -> tuple[int, str]:
    """Exit code and all that kubectl said: here its errors are the result."""
    done = subprocess.run(
        [str(api.tools() / "kubectl"), f"--kubeconfig={api.kubeconfig()}", *words],
        input=stdin, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def apply(namespace: str, spec: Json, *, name: str = "job", dry: bool = True) -> tuple[int, str]:
    """`kubectl apply` of a job; `dry` asks the apiserver, but stores nothing."""
    words = ["-n", namespace, "apply", "-f", "-", *(["--dry-run=server"] if dry else [])]
    return kubectl(*words, stdin=json.dumps(job_manifest(spec, name=name)))


@functools.cache
def answer(namespace: str, spec: str) -> tuple[int, str]:
    """What the apiserver says of a new job with this spec, asked once for all tests of it."""
    return apply(namespace, json.loads(spec))


@pytest.fixture(scope="module")
def jobs(cluster: Path) -> Iterator[str]:
    """A namespace in a cluster with the CRD of this checkout."""
    api.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD_FILE))
    wait_until_served("federatedjobs.lockstep.dev")
    name = f"test-api-{time.time_ns() % 10**8}"
    api.kubectl("create", "namespace", name)
    yield name
    api.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def stored(jobs: str) -> str:
    """The full job, stored in the namespace that this returns."""
    code, said = apply(jobs, FULL, name="full", dry=False)
    assert code == 0, said
    return jobs


@pytest.mark.parametrize(("changes", "message"), RULES + FIELDS)
def test_a_wrong_manifest_is_refused(jobs: str, changes: Json, message: str) -> None:
    code, said = answer(jobs, json.dumps(changed(MINIMAL, changes)))
    assert code != 0, said
    assert message in said


def sentences(said: str) -> set[str]:
    """What kubectl says of a refused job, a sentence for each thing that is wrong.

    Left out is what the apiserver says a second time, of no field.
    """
    if "strict decoding error: " in said:
        return set(said.strip().partition("strict decoding error: ")[2].split(", "))
    lines = said.partition(" is invalid: ")[2].strip().splitlines()
    plain = {line.removeprefix("* ").removeprefix("<nil>: Invalid value: null: ") for line in lines}
    return {line for line in plain if not line.startswith('<nil>: Invalid value: ""')}


@pytest.mark.parametrize("changes", [case[0] for case in (*RULES, *FIELDS, *ODD)])
def test_a_check_without_a_cluster_says_what_the_apiserver_says(jobs: str, changes: Json) -> None:
    spec = changed(MINIMAL, changes)
    code, said = answer(jobs, json.dumps(spec))
    assert code != 0, said
    with pytest.raises(Refused) as found:
        checked(job_manifest(spec))
    assert set(found.value.sentences) == sentences(said)


def test_validate_says_of_all_of_them_at_once_what_the_apiserver_says(
    jobs: str, tmp_path: Path
) -> None:
    specs = [changed(MINIMAL, case[0]) for case in (*RULES, *FIELDS, *ODD)]
    stream = tmp_path / "jobs.yaml"
    stream.write_text("\n---\n".join(json.dumps(job_manifest(spec)) for spec in specs))
    said = cli("validate", str(stream), "-o", "json")
    assert said.code == 1, said.err
    found = json.loads(said.out)
    assert {one["finding"] for one in found} == {"refused"}
    wanted = [sentences(answer(jobs, json.dumps(spec))[1]) for spec in specs]
    assert [set(one["messages"]) for one in found] == wanted


@pytest.mark.parametrize("changes", TAKEN)
def test_what_kubernetes_takes_of_pods_is_taken_of_jobs(jobs: str, changes: Json) -> None:
    code, said = apply(jobs, changed(MINIMAL, changes))
    assert code == 0, said


@pytest.mark.parametrize("changes", TAKEN_WITH_EDGES)
def test_what_modes_with_edges_can_do_is_taken(jobs: str, changes: Json) -> None:
    code, said = apply(jobs, changed(MINIMAL, changes))
    assert code == 0, said


@pytest.mark.parametrize("name", ["my.job", "1st"])
def test_a_name_that_no_service_can_have_is_refused(jobs: str, name: str) -> None:
    code, said = apply(jobs, MINIMAL, name=name)
    assert code != 0
    assert NAME_MESSAGE in said


# field → a change of the full job that only its immutability forbids.
FIXED: dict[str, Json] = {
    "model": {"model.args": {"width": 3}},
    "data": {"data.partition": {"scheme": "shards"}},
    "strategy": {"strategy.name": "fednova"},
    "mode": {
        "mode": "hierarchical",
        "distillation": ABSENT,
        "split": ABSENT,
        "model.cut": ABSENT,
    },
    "cloud": {"cloud.memory": "2Gi"},
    "devices": {"devices.0.replicas": 2},
    "image": {"image": ABSENT},
    "podTemplate": {"podTemplate.labels": {"team": "b"}},
    "clustering": {"clustering": ABSENT},
    "offload": {"offload.objective": "bottleneck"},
    "split": {"split.batches": "equal"},
    "distillation": {"distillation.temperature": 4},
    "edges": {"edges.0.cpu": "2"},
    "privacy": {"privacy": PRIVACY},  # which mode split forbids, too
    "training.batchSize": {"training.batchSize": 64},
    "training.learningRate": {"training.learningRate": 0.5},
    "training.momentum": {"training.momentum": 0.5},
    "training.seed": {"training.seed": 1},
    "training.deterministic": {"training.deterministic": True},
    "training.localSteps": {"training.localSteps": {"budgetSeconds": 2}},
    "security.tls": {"security.tls": "disabled"},
}


@pytest.mark.parametrize(("field", "changes"), FIXED.items())
def test_a_fixed_field_stays(stored: str, field: str, changes: Json) -> None:
    code, said = apply(stored, changed(FULL, changes), name="full")
    assert code != 0, said
    assert f"{field} cannot be changed: delete the job and apply it anew" in said


@pytest.mark.parametrize("field", ["image", "clustering", "offload", "distillation"])
def test_a_fixed_field_cannot_come_or_go(stored: str, field: str) -> None:
    code, said = apply(stored, changed(FULL, {field: ABSENT}), name="full")
    assert code != 0
    assert f"{field} cannot be changed" in said


@pytest.mark.parametrize(
    "changes",
    [
        {"training.rounds": 500},
        {"training.target": {"value": 0.9}},
        {"suspend": False},
        {"ttlSecondsAfterFinished": 60},
        {"activeDeadlineSeconds": 3600},
        {"startDeadlineSeconds": 600},
        {"participation": {"fraction": 0.5, "quorum": 1, "roundDeadlineSeconds": 30}},
        {"allocation": {"policy": "static", "energyWeight": 1}},
        {"checkpoint": {"everyRounds": 5}},
        {"telemetry": {"perDevice": "never", "energyBudgetJoules": 500}},
    ],
)
def test_other_fields_may_change(stored: str, changes: Json) -> None:
    code, said = apply(stored, changed(FULL, changes), name="full")
    assert code == 0, said


def test_a_job_may_begin_to_learn_its_policy(jobs: str) -> None:
    before = changed(MINIMAL, {"suspend": True})
    for spec in (before, changed(before, {"allocation": {"policy": "ppo", "online": True}})):
        code, said = apply(jobs, spec, name="learning", dry=False)
        assert code == 0, said


def test_every_rule_refuses_a_manifest_here() -> None:
    shown = {message for _, message in RULES}
    shown |= {f"{field} cannot be changed: delete the job and apply it anew" for field in FIXED}
    rules = set(all_messages(crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]))
    assert {rule for rule in rules if not rule.startswith(NAME_MESSAGE)} == shown


def test_the_apiserver_fills_in_the_defaults(jobs: str) -> None:
    words = ("-n", jobs, "create", "-f", "-", "--dry-run=server", "-o", "json")
    job = json.dumps(job_manifest(MINIMAL, name="small"))
    spec = json.loads(api.kubectl(*words, stdin=job))["spec"]
    assert spec == {
        "suspend": False,
        "mode": "federated",
        "model": {"name": "mlp"},
        "data": {"name": "fashion-mnist", "partition": {"scheme": "iid"}},
        "training": {
            "rounds": 3,
            "batchSize": 32,
            "learningRate": 0.01,
            "momentum": 0,
            "seed": 0,
            "deterministic": False,
            "localSteps": {"fixed": 10},
        },
        "strategy": {"name": "fedavg", "aggregation": "mean"},
        "participation": {"fraction": 1},
        "checkpoint": {"everyRounds": 1, "keep": 2},
        "telemetry": {"perDevice": "auto"},
        "security": {"tls": "auto", "networkPolicy": "auto"},
        "cloud": {"cpu": "500m", "memory": "1Gi", "storage": {"size": "1Gi"}},
        "allocation": {
            "policy": "max",
            "energyWeight": 0.1,
            "actuator": "resize",
            "online": False,
        },
        "devices": [
            {
                "name": "all",
                "replicas": 1,
                "frequency": {"minGHz": 0.5, "maxGHz": 2},
                "cpuAtMax": "500m",
                "memory": "512Mi",
                "energy": {"idleWatts": 0, "transmitWatts": 0},
                "dataShare": 1,
            }
        ],
    }


@pytest.mark.parametrize(
    "example", sorted((ROOT / "docs" / "examples").glob("*.yaml")), ids=lambda path: path.stem
)
def test_examples_are_accepted(jobs: str, example: Path) -> None:
    code, said = kubectl("-n", jobs, "apply", "--dry-run=server", "-f", str(example))
    assert code == 0, said


def test_columns_show_the_status(stored: str) -> None:
    status = {
        "phase": "Running",
        "progress": "3/20",
        "clients": "9/10",
        "accuracy": 0.8125,
        "energyJoules": {"model": 12.5},
    }
    patch = ("patch", "fj", "full", "--subresource=status", "--type=merge", "-p")
    for _ in range(20):  # an operator that watches this namespace writes the status, too
        api.kubectl("-n", stored, *patch, json.dumps({"status": status}))
        head, row = api.kubectl("-n", stored, "get", "fj", "full").splitlines()
        if row.split()[:-1] == ["full", "Running", "3/20", "9/10", "0.8125", "12.5"]:
            break
    else:
        pytest.fail(row)
    assert head.split() == ["NAME", "PHASE", "ROUND", "CLIENTS", "ACCURACY", "ENERGY", "AGE"]


def test_get_all_shows_jobs(stored: str) -> None:
    assert "federatedjob.lockstep.dev/full" in api.kubectl("-n", stored, "get", "all")


@pytest.mark.parametrize(
    ("field", "texts"),
    [
        ("fj.spec", ["FIELDS", "devices", "training"]),
        ("federatedjob.spec.training", ["Examples in a mini-batch", "Rounds of the job"]),
        ("fj.spec.training.target", ["nats for loss"]),
        ("fj.spec.devices", ["CPU limit in cores", "in bytes"]),
        ("fj.spec.devices.frequency", ["Lowest frequency in GHz", "Highest frequency in GHz"]),
        ("fj.spec.devices.uplink", ["Mbit/s"]),
        ("fj.spec.devices.energy", ["J per cycle per Hz²", "Power without work in W"]),
        ("fj.status.energyJoules", ["in J"]),
    ],
)
def test_explain_gives_meaning_and_unit(jobs: str, field: str, texts: list[str]) -> None:
    said = " ".join(api.kubectl("explain", field).split())
    for text in texts:
        assert text in said
