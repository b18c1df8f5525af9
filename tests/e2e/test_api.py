"""What the apiserver does with a FederatedJob: refuses wrong ones, fills in defaults, explains.

Every rule of the CRD has a manifest here that it refuses, with the message that a user sees.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lockstep_operator.crd import crd
from tests.cluster import api
from tests.support.manifests import (
    ABSENT,
    MINIMAL,
    REFUSED_BY_RULES,
    REFUSED_BY_SCHEMA,
    TAKEN,
    changed,
)
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
CRD_FILE = ROOT / "crds" / "lockstep.dev_federatedjobs.yaml"

Json = dict[str, Any]

EDGES = [{"name": "near"}]
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
    job = {
        "apiVersion": "lockstep.dev/v1alpha1",
        "kind": "FederatedJob",
        "metadata": {"name": name},
        "spec": spec,
    }
    words = ["-n", namespace, "apply", "-f", "-"]
    return kubectl(*words, *(["--dry-run=server"] if dry else []), stdin=json.dumps(job))


@pytest.fixture(scope="module")
def jobs(cluster: Path) -> Iterator[str]:
    """A namespace in a cluster with the CRD of this checkout."""
    api.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD_FILE))
    api.kubectl("wait", "--for=condition=Established", "crd/federatedjobs.lockstep.dev")
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


TOGETHER = "quorum and roundDeadlineSeconds work only together; set both, or remove both"
# (fields, part of the message): rules across fields first, then single fields.
RULES: list[tuple[Json, str]] = [
    ({"model.entrypoint": "a:b"}, "model: set exactly one of name and entrypoint"),
    ({"model": {"args": {"a": 1}}}, "model: set exactly one of name and entrypoint"),
    ({"data": {}}, "data: set exactly one of name and entrypoint"),
    ({"data.partition": {"alpha": 0.5}}, "data.partition: alpha belongs to scheme dirichlet only"),
    (
        {"data.partition": {"scheme": "dirichlet", "shardsPerClient": 2}},
        "data.partition: shardsPerClient belongs to scheme shards only",
    ),
    (
        {"training.localSteps": {"perDevice": {"min": 5, "max": 4}}},
        "localSteps.perDevice: min must be at most max",
    ),
    (
        {"training.localSteps": {"fixed": 1, "budgetSeconds": 2}},
        "training.localSteps: set exactly one of fixed, budgetSeconds, perDevice and planned",
    ),
    (
        {"training.localSteps": {}},
        "training.localSteps: set exactly one of fixed, budgetSeconds, perDevice and planned",
    ),
    (
        {"training.target": {"value": 82}},
        "training.target: accuracy is a share, so value must be at most 1",
    ),
    ({"strategy": {"mu": 0.1}}, "strategy: mu belongs to name fedprox only"),
    (
        {"strategy": {"name": "fedprox", "deviationWeight": 0.1}},
        "strategy: deviationWeight belongs to name calibrated only",
    ),
    (
        {"strategy": {"name": "scaffold", "calibrationWeight": 1}},
        "strategy: calibrationWeight belongs to names calibrated and fedagrac only",
    ),
    ({"strategy": {"gradient": "full"}}, "strategy: gradient belongs to name calibrated only"),
    (
        {"strategy": {"name": "calibrated", "gradient": "minibatches"}},
        "strategy: minibatches and gradient minibatches work only together",
    ),
    (
        {"strategy": {"name": "calibrated", "minibatches": 3}},
        "strategy: minibatches and gradient minibatches work only together",
    ),
    (
        {"strategy": {"name": "fedavg", "option": "I"}},
        "strategy: option belongs to name scaffold only",
    ),
    (
        {"training.localSteps": {"budgetSeconds": 2}, "allocation": {"policy": "equalize"}},
        "training.localSteps.budgetSeconds needs allocation.policy max",
    ),
    (
        {"training.localSteps": {"planned": {}}, "allocation": {"policy": "max"}},
        "training.localSteps.planned needs allocation.policy static, equalize or ppo",
    ),
    (
        {"strategy.name": "fedagrac", "training.momentum": 0.9},
        "strategy fedagrac needs training.momentum 0",
    ),
    (
        {"participation": {"quorum": 2, "roundDeadlineSeconds": 30}},
        "participation.quorum must be at most the number of devices",
    ),
    ({"participation.quorum": 1}, f"participation: {TOGETHER}"),
    ({"participation.roundDeadlineSeconds": 30}, f"participation: {TOGETHER}"),
    ({"mode": "hierarchical"}, "mode hierarchical and mode split need at least one entry in edges"),
    ({"edges": EDGES}, "edges belong to mode hierarchical or split; remove them or change mode"),
    ({"mode": "split", "edges": EDGES}, "mode split needs model.cut"),
    ({"distillation": {"enabled": True}}, "distillation belongs to mode split only"),
    (
        {"devices.0.frequency": {"minGHz": 2, "maxGHz": 1}},
        "frequency: minGHz must be at most maxGHz",
    ),
    (
        {"devices.0.uplink": {"trace": "lte", "mbps": 10}},
        "uplink/downlink: set only one of trace and mbps",
    ),
    ({"devices.0.downlink": {}}, "uplink/downlink: set trace, mbps or latencyMs"),
    (
        {"devices.0.energy": {"kappa": 1e-28, "table": [{"ghz": 1, "watts": 2}]}},
        "energy: set only one of kappa and table",
    ),
    (
        {"devices.0.energy": {"table": [{"ghz": 2, "watts": 3}, {"ghz": 1, "watts": 4}]}},
        "energy.table: watts must not fall when ghz rises",
    ),
    ({"devices.0.name": "cloud"}, "devices: the name cloud is the cloud pod's"),
    ({"devices.0.cpuAtMax": "0m"}, "must be a quantity of more than 0, such as 500m, 2 or 256Mi"),
    ({"devices.0.memory": 0}, "must be a quantity of more than 0, such as 500m, 2 or 256Mi"),
    ({"cloud.memory": "1 GB"}, "must be a quantity of more than 0, such as 500m, 2 or 256Mi"),
    ({"allocation.policyRef": "mine"}, "allocation: policyRef belongs to policy ppo only"),
    ({"allocation.online": True}, "allocation: online belongs to policy ppo only"),
    *REFUSED_BY_RULES,
]
FIELDS: list[tuple[Json, str]] = [
    ({"training.rounds": ABSENT}, "spec.training.rounds: Required value"),
    ({"devices": ABSENT}, "spec.devices: Required value"),
    ({"devices": []}, "spec.devices in body should have at least 1 items"),
    ({"devices": [{"name": "a"}, {"name": "a"}]}, 'spec.devices[1]: Duplicate value: {"name":"a"}'),
    (
        {"devices.0.energy": {"table": [{"ghz": 1, "watts": 2}, {"ghz": 1.0, "watts": 3}]}},
        "spec.devices[0].energy.table[1]: Duplicate value",
    ),
    ({"devices.0.name": "Fast_1"}, "spec.devices[0].name in body should match"),
    ({"devices.0.replicas": 0}, "spec.devices[0].replicas in body should be greater than or equal"),
    ({"devices.0.frequency": {"minGHz": 0, "maxGHz": 1}}, "should be greater than 0"),
    ({"devices.0.frequency": {"minGHz": 1, "maxGHz": 2400}}, "should be less than or equal to 10"),
    ({"training.rounds": 0}, "spec.training.rounds in body should be greater than or equal to 1"),
    ({"training.rounds": "many"}, "spec.training.rounds in body must be of type integer"),
    ({"training.momentum": 1}, "spec.training.momentum in body should be less than 1"),
    ({"training.learningRate": 0}, "spec.training.learningRate in body should be greater than 0"),
    ({"participation.fraction": 1.5}, "in body should be less than or equal to 1"),
    ({"strategy.name": "fedavgg"}, 'spec.strategy.name: Unsupported value: "fedavgg"'),
    ({"mode": "p2p"}, '"federated", "hierarchical", "split"'),
    ({"data.name": "mnist"}, 'supported values: "fashion-mnist"'),
    ({"training.round": 3}, 'unknown field "spec.training.round"'),
    ({"devices.0.cpu": "1"}, 'unknown field "spec.devices[0].cpu"'),
    ({"suspend": "yes"}, "spec.suspend in body must be of type boolean"),
    ({"startDeadlineSeconds": 0}, "spec.startDeadlineSeconds in body should be greater than"),
    *REFUSED_BY_SCHEMA,
]


@pytest.mark.parametrize(("changes", "message"), RULES + FIELDS)
def test_a_wrong_manifest_is_refused(jobs: str, changes: Json, message: str) -> None:
    code, said = apply(jobs, changed(MINIMAL, changes))
    assert code != 0, said
    assert message in said


@pytest.mark.parametrize("changes", TAKEN)
def test_what_kubernetes_takes_of_pods_is_taken_of_jobs(jobs: str, changes: Json) -> None:
    code, said = apply(jobs, changed(MINIMAL, changes))
    assert code == 0, said


NAME_MESSAGE = "metadata.name: use lower-case letters, digits and -, and begin with a letter"


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
    "mode": {"mode": "hierarchical", "distillation": ABSENT},
    "cloud": {"cloud.memory": "2Gi"},
    "devices": {"devices.0.replicas": 2},
    "image": {"image": ABSENT},
    "podTemplate": {"podTemplate.labels": {"team": "b"}},
    "clustering": {"clustering": ABSENT},
    "offload": {"offload.objective": "bottleneck"},
    "distillation": {"distillation.temperature": 4},
    "edges": {"edges.0.cpu": "2"},
    "training.batchSize": {"training.batchSize": 64},
    "training.learningRate": {"training.learningRate": 0.5},
    "training.momentum": {"training.momentum": 0.5},
    "training.seed": {"training.seed": 1},
    "training.deterministic": {"training.deterministic": True},
    "training.localSteps": {"training.localSteps": {"budgetSeconds": 2}},
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
        {"allocation": {"policy": "ppo", "online": True}},
        {"checkpoint": {"everyRounds": 5}},
    ],
)
def test_other_fields_may_change(stored: str, changes: Json) -> None:
    code, said = apply(stored, changed(FULL, changes), name="full")
    assert code == 0, said


def all_messages(schema: Any) -> Iterator[str]:
    """The message of every rule in a schema."""
    if isinstance(schema, dict):
        for rule in schema.get("x-kubernetes-validations", []):
            yield rule["message"]
        for value in schema.values():
            yield from all_messages(value)


def test_every_rule_refuses_a_manifest_here() -> None:
    shown = {message for _, message in RULES}
    shown |= {f"{field} cannot be changed: delete the job and apply it anew" for field in FIXED}
    rules = set(all_messages(crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]))
    assert {rule for rule in rules if not rule.startswith(NAME_MESSAGE)} == shown


def test_the_apiserver_fills_in_the_defaults(jobs: str) -> None:
    words = ("-n", jobs, "create", "-f", "-", "--dry-run=server", "-o", "json")
    job = {
        "apiVersion": "lockstep.dev/v1alpha1",
        "kind": "FederatedJob",
        "metadata": {"name": "small"},
        "spec": MINIMAL,
    }
    spec = json.loads(api.kubectl(*words, stdin=json.dumps(job)))["spec"]
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
        "strategy": {"name": "fedavg"},
        "participation": {"fraction": 1},
        "checkpoint": {"everyRounds": 1, "keep": 2},
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
