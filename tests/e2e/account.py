"""The operator's account under the chart's admission policy, and all that it makes for a job."""

import copy
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import yaml

from lockstep_api import names
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FederatedJobStatus
from lockstep_operator.core.certificates import SEED_BYTES, Authority
from lockstep_operator.core.children import children, recorded, trace_copy, trainer_job
from lockstep_operator.core.model import JobKey, JobView, Manifest, Settings
from lockstep_operator.core.network import Network
from lockstep_operator.core.placement import Placement, pod_sets
from tests.cluster import api
from tests.e2e.running import CHART, a_namespace, bring_crd
from tests.support.decisions import NOW
from tests.support.patience import PATIENCE_S

KIND = "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"
DNS = [{"ipBlock": {"cidr": "10.96.0.10/32"}}]
SETTINGS = Settings(
    worker_image="worker:1",
    planner_url="https://planner",
    authority=Authority(bytes(SEED_BYTES)),
    network=Network(DNS, DNS, (53,), DNS, 8080),
)
LINKED = {"devices": [{"name": "fast", "replicas": 2, "uplink": {"trace": "walk"}}]}
SPECS: dict[str, Manifest] = {
    "federated": {"allocation": {"policy": "ppo", "online": True}},
    "hierarchical": {"mode": "hierarchical", "edges": [{"name": "near", "replicas": 2}]},
}
LONG = "a" * 63
BASE: Manifest = {
    "model": {"name": "mlp"}, "data": {"name": "fashion-mnist"}, "training": {"rounds": 3},
    "devices": [{"name": "fast", "replicas": 2}],
}  # fmt: skip


def rendered(*words: str, namespace: str = "lab") -> list[Manifest]:
    """The policy and its binding; none where the cluster has no such kind, or nobody wants it."""
    text = api.helm("template", "lockstep", str(CHART), "--namespace", namespace, *words)
    made = [one for one in yaml.safe_load_all(text) if one]
    return [one for one in made if one["kind"].startswith("ValidatingAdmissionPolicy")]


@dataclass(frozen=True, slots=True)
class Account:
    """The operator's account in a namespace."""

    namespace: str

    def asks(self, *words: str, body: Manifest | None = None) -> str:
        """What the apiserver says: nothing but good, or why not."""
        done = subprocess.run(
            [
                str(api.tools() / "kubectl"), f"--kubeconfig={api.kubeconfig()}", *words,
                "--namespace", self.namespace,
                f"--as=system:serviceaccount:{self.namespace}:lockstep-operator",
            ],
            input=None if body is None else json.dumps(body),
            capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        )  # fmt: skip
        return done.stderr if done.returncode else ""

    def tries(self, *manifests: Manifest) -> str:
        """To make objects, without making them."""
        listed = {"apiVersion": "v1", "kind": "List", "items": [*manifests]}
        return self.asks("create", "--dry-run=server", "-f", "-", body=listed)


@contextmanager
def bound(*words: str) -> Iterator[Account]:
    """An account that may do everything in a namespace, but for what the policy refuses."""
    bring_crd()
    with a_namespace() as name:
        made = rendered("--api-versions", KIND, *words, namespace=name)
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "everything", "namespace": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                        "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "lockstep-operator",
                          "namespace": name}],
        }  # fmt: skip
        text = yaml.safe_dump_all([*made, binding])
        api.kubectl("apply", "-f", "-", stdin=text)
        try:
            yield _guarded(Account(name))
        finally:
            for one in made:
                api.kubectl("delete", one["kind"], one["metadata"]["name"])


def _guarded(account: Account) -> Account:
    """Once the apiserver has heard of the policy: it takes a moment."""
    stranger = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "probe"}}
    for _ in range(round(PATIENCE_S)):
        if "denied request" in account.tries(stranger):  # until it may do all, it is forbidden
            return account
        api.kubectl("get", "--raw", "/readyz")
    raise TimeoutError("the policy is not in force")


def job(namespace: str, name: str, *, uid: str = "uid-of-the-job", **spec: Any) -> JobView:
    """A job as the operator sees it."""
    parsed = FederatedJobSpec.model_validate(BASE | LINKED | spec)
    key = JobKey(namespace, name)
    return JobView(key, uid, 1, parsed, None, FederatedJobStatus(), NOW.timestamp())


def all_of(one: JobView) -> list[Manifest]:
    """Whatever the operator makes for a job."""
    assert one.spec is not None
    place = Placement(dict.fromkeys(pod_sets(one.spec), ("node-1",)))
    source = {"metadata": {"name": "walk", "uid": "1", "resourceVersion": "1"},
              "data": {"a.csv": "x"}}  # fmt: skip
    return [
        *children(one, place, settings=SETTINGS),
        trainer_job(one, one.spec, round=20, nodes=("node-1",), settings=SETTINGS),
        recorded(one, names.experience_name(one.key.name), content={"a": b"b"}, told={}),
        trace_copy(one, source),
    ]


def one_of(account: Account, kind: str, name: str = "") -> Manifest:
    """One of what the operator makes for a job."""
    made = all_of(job(account.namespace, "fashion", **SPECS["federated"]))
    return copy.deepcopy(
        next(one for one in made if one["kind"] == kind and name in one["metadata"]["name"])
    )
