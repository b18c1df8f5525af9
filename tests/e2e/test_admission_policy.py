"""What an apiserver takes from the operator's account, and what it refuses whatever roles say.

The account may do everything in its namespace here: what is refused, the policy refuses.
"""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lockstep_api import names
from lockstep_operator import rights
from lockstep_operator.core.model import EventNote, JobView, Manifest
from lockstep_operator.reconcile import event_body
from tests.cluster import api
from tests.e2e.account import BASE, KIND, LONG, SPECS, Account, all_of, bound, job, one_of, rendered
from tests.support.decisions import NOW
from tests.support.patience import TIMEOUT

pytestmark = pytest.mark.cluster

Change = Callable[[Any], object]


@pytest.fixture(scope="module")
def account(cluster: Path) -> Iterator[Account]:
    with bound() as one:
        yield one


# -- what it may -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fashion", LONG])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_all_that_jobs_are_made_of_may_be_made(account: Account, spec: Manifest, name: str) -> None:
    made = all_of(job(account.namespace, name, **spec))
    assert account.tries(*made) == ""


def real_job(account: Account) -> JobView:
    """One that the apiserver knows: what nobody owns would be collected."""
    real = {"apiVersion": names.API_VERSION, "kind": names.KIND, "spec": BASE | {"suspend": True}}
    real |= {"metadata": {"name": "real", "namespace": account.namespace}}
    created = api.kubectl("create", "-o", "json", "-f", "-", stdin=json.dumps(real))
    uid = json.loads(created)["metadata"]["uid"]
    return job(account.namespace, "real", uid=uid)


def test_what_a_job_owns_may_be_changed_and_deleted(account: Account) -> None:
    made = all_of(real_job(account))
    mine = next(one for one in made if one["kind"] == "ConfigMap")
    assert account.asks("create", "-f", "-", body=mine) == ""
    mine["data"]["more"] = "x"
    apply = ("apply", "--server-side", "--field-manager=lockstep-operator", "--force-conflicts")
    assert account.asks(*apply, "-f", "-", body=mine) == ""
    assert account.asks("delete", "configmap", mine["metadata"]["name"]) == ""


def test_events_about_jobs_its_lease_and_its_secret_may_be_made(account: Account) -> None:
    note = EventNote("Normal", "Running", "it runs")
    event = event_body(job(account.namespace, "fashion"), note, now=NOW)
    place = {"namespace": account.namespace}
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
             "metadata": {"name": "lockstep-operator"} | place}  # fmt: skip
    secret = {"apiVersion": "v1", "kind": "Secret",
              "metadata": {"name": "lockstep-authority"} | place}  # fmt: skip
    assert account.tries(event, lease, secret) == ""


# -- what it may not ---------------------------------------------------------------------------


def pod_of(manifest: Manifest) -> Any:
    return manifest["spec"]["template"]["spec"]


def container_of(manifest: Manifest) -> Any:
    return pod_of(manifest)["containers"][0]


def volume(**source: Any) -> Change:
    return lambda one: pod_of(one)["volumes"].append({"name": "more"} | source)


WHOSE = "the operator writes and deletes only what a FederatedJob owns"
LABELS = "what the operator makes has its labels"
NODE = "pods of jobs have nothing of their node, and no root"
CONTAINERS = "containers of jobs have no privileges"
VOLUMES = "volumes of jobs are their own claim, ConfigMaps, scratch space and tokens for Lockstep"
MAPS = "ConfigMaps that pods of jobs mount are their job's"
ACCOUNT = "under a ServiceAccount of their job"
KEPT = "the operator keeps nothing from being deleted"
PLACED = "pods of jobs are placed by the scheduler, and nothing keeps them from being deleted"
IMAGES = "images of jobs are of operator.allowedImages, or the default"
CLASSES = "PriorityClasses of jobs are of operator.allowedPriorityClasses"
NEW = "claims of jobs are for new volumes"
OTHERS = {"kind": "PersistentVolumeClaim", "name": "of-a-user"}
TOKEN = {"serviceAccountToken": {"path": "token"}}
REFUSED: list[tuple[str, str, Change]] = [
    ("ConfigMap", WHOSE, lambda one: one["metadata"].pop("ownerReferences")),
    ("ConfigMap", WHOSE,
     lambda one: one["metadata"]["ownerReferences"][0].update(kind="Deployment")),
    ("ConfigMap", LABELS, lambda one: one["metadata"].pop("labels")),
    ("ConfigMap", LABELS, lambda one: one["metadata"]["labels"].pop(names.JOB_LABEL)),
    ("ConfigMap", "a name that begins with the job's",
     lambda one: one["metadata"].update(name="kube-root-ca.crt")),
    ("ConfigMap", KEPT, lambda one: one["metadata"].update(finalizers=["example.org/mine"])),
    ("StatefulSet", PLACED, lambda one: pod_of(one).update(nodeName="node-1")),
    ("Job", PLACED,
     lambda one: one["spec"]["template"]["metadata"].update(finalizers=["example.org/mine"])),
    ("StatefulSet", CLASSES,
     lambda one: pod_of(one).update(priorityClassName="system-node-critical")),
    ("StatefulSet", ACCOUNT, lambda one: pod_of(one).update(serviceAccountName="default")),
    ("StatefulSet", ACCOUNT,
     lambda one: pod_of(one).update(serviceAccountName="fashion-of-a-user")),
    ("StatefulSet", "no token for the apiserver",
     lambda one: pod_of(one).update(automountServiceAccountToken=True)),
    ("Job", "no token for the apiserver",
     lambda one: pod_of(one).pop("automountServiceAccountToken")),
    ("StatefulSet", NODE, lambda one: pod_of(one).update(hostNetwork=True)),
    ("StatefulSet", NODE, lambda one: pod_of(one).update(hostPID=True)),
    ("StatefulSet", NODE, lambda one: pod_of(one).update(hostIPC=True)),
    ("StatefulSet", NODE, lambda one: pod_of(one)["securityContext"].pop("runAsNonRoot")),
    ("StatefulSet", NODE,
     lambda one: pod_of(one)["securityContext"]["seccompProfile"].update(type="Unconfined")),
    ("StatefulSet", NODE,
     lambda one: pod_of(one)["securityContext"].update(seLinuxOptions={"type": "spc_t"})),
    ("Job", NODE, lambda one: container_of(one)["securityContext"].update(runAsNonRoot=False)),
    ("StatefulSet", NODE, lambda one: container_of(one)["securityContext"].update(runAsUser=0)),
    ("StatefulSet", NODE,
     lambda one: container_of(one)["securityContext"].update(
         seccompProfile={"type": "Unconfined"})),
    ("StatefulSet", NODE,
     lambda one: container_of(one)["securityContext"].update(
         appArmorProfile={"type": "Unconfined"})),
    ("StatefulSet", NODE, lambda one: container_of(one)["ports"][0].update(hostPort=8080)),
    ("StatefulSet", CONTAINERS,
     lambda one: container_of(one)["securityContext"].pop("readOnlyRootFilesystem")),
    ("Job", CONTAINERS,
     lambda one: container_of(one)["securityContext"].update(
         privileged=True, allowPrivilegeEscalation=True)),
    ("StatefulSet", CONTAINERS,
     lambda one: container_of(one)["securityContext"]["capabilities"].update(add=["NET_RAW"])),
    ("StatefulSet", CONTAINERS,
     lambda one: container_of(one).update(envFrom=[{"secretRef": {"name": "s"}}])),
    ("StatefulSet", CONTAINERS,
     lambda one: container_of(one)["env"].append(
         {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}})),
    ("StatefulSet", CONTAINERS,
     lambda one: pod_of(one).update(initContainers=[{"name": "i", "image": "i"}])),
    ("StatefulSet", VOLUMES, volume(hostPath={"path": "/"})),
    ("StatefulSet", VOLUMES, volume(secret={"secretName": "s"})),
    ("StatefulSet", VOLUMES, volume(persistentVolumeClaim={"claimName": "another"})),
    ("StatefulSet", VOLUMES,
     lambda one: (one["metadata"].update(name="fashion-data"),
                  volume(persistentVolumeClaim={"claimName": "fashion-data"})(one))),
    ("StatefulSet", VOLUMES, volume(projected={"sources": [TOKEN]})),
    ("StatefulSet", VOLUMES, volume(projected={"sources": [{"secret": {"name": "s"}}]})),
    ("StatefulSet", MAPS, volume(configMap={"name": "another"})),
    ("StatefulSet", MAPS, volume(projected={"sources": [{"configMap": {"name": "another"}}]})),
    ("PersistentVolumeClaim", NEW, lambda one: one["spec"].update(volumeName="of-a-user")),
    ("PersistentVolumeClaim", NEW, lambda one: one["spec"].update(dataSource=OTHERS)),
    ("NetworkPolicy", "NetworkPolicies of jobs are about pods of jobs",
     lambda one: one["spec"].update(podSelector={})),
    ("PodDisruptionBudget", "PodDisruptionBudgets of jobs are about pods of jobs",
     lambda one: one["spec"].update(selector={})),
    ("Service", "Services of jobs are headless",
     lambda one: one["spec"].update(clusterIP="", externalIPs=["192.0.2.1"])),
    ("ServiceAccount", "no rights by annotations",
     lambda one: one["metadata"].update(annotations={"eks.amazonaws.com/role-arn": "x"})),
]  # fmt: skip


def test_what_no_job_is_made_of_is_refused(account: Account) -> None:
    """All of them in one call: kubectl goes on after each that is refused, and says why."""
    made = [one_of(account, kind) for kind, _, _ in REFUSED]
    for one, (_, _, change) in zip(made, REFUSED, strict=True):
        change(one)
    said = [line for line in account.tries(*made).splitlines() if "denied request" in line]
    wrong = [(line, message) for line, (_, message, _) in zip(said, REFUSED, strict=True)
             if message not in line]  # fmt: skip
    assert wrong == []


def test_images_and_priority_classes_are_those_that_jobs_may_have(cluster: Path) -> None:
    """As the operator judges them: `*` is any characters, and all else is itself."""
    lists = "operator.allowedImages={registry.example/ml/*},operator.allowedPriorityClasses={calm}"
    with bound("--set", f"{lists},worker.image=registry.example/worker:1") as account:
        for image, message in (
            ("registry.example/ml/worker:2", ""), ("registry.example/worker:1", ""),
            ("registry-example/ml/worker:2", IMAGES), ("x/registry.example/ml/a", IMAGES),
        ):  # fmt: skip
            one = one_of(account, "StatefulSet")
            container_of(one)["image"] = image
            said = account.tries(one)
            assert message in said
            assert bool(said) is bool(message)
        for name, message in (("calm", ""), ("calmer", CLASSES), ("system-node-critical", CLASSES)):
            one = one_of(account, "StatefulSet")
            container_of(one)["image"] = "registry.example/worker:1"
            pod_of(one)["priorityClassName"] = name
            said = account.tries(one)
            assert message in said
            assert bool(said) is bool(message)


def test_what_was_allowed_before_may_stay(cluster: Path) -> None:
    """So a job whose image is allowed no more can still be suspended."""
    with bound("--set", "operator.allowedImages={registry.example/ml/*}") as account:
        made = next(one for one in all_of(real_job(account)) if one["kind"] == "StatefulSet")
        api.kubectl("-n", account.namespace, "create", "-f", "-", stdin=json.dumps(made))
        name = made["metadata"]["name"]
        scaled = ("patch", "statefulset", name, "--dry-run=server", "-p")
        assert account.asks(*scaled, json.dumps({"spec": {"replicas": 0}})) == ""
        other = {"containers": [{"name": container_of(made)["name"], "image": "x"}]}
        patch = json.dumps({"spec": {"template": {"spec": other}}})
        assert IMAGES in account.asks(*scaled, patch)


def test_objects_of_others_are_neither_taken_over_nor_deleted(account: Account) -> None:
    """Not by an owner reference that the operator writes itself, nor by labels."""
    mine = one_of(account, "ConfigMap", "settings")
    mine["metadata"]["name"] = "fashion-of-a-user"
    theirs = copy.deepcopy(mine)
    del theirs["metadata"]["ownerReferences"]
    api.kubectl("create", "-f", "-", stdin=json.dumps(theirs))
    apply = ("apply", "--server-side", "--field-manager=lockstep-operator", "--force-conflicts")
    said = account.asks(*apply, "--dry-run=server", "-f", "-", body=mine)
    assert "takes over nothing that was not its job's already" in said
    said = account.asks("delete", "configmap", "fashion-of-a-user", "--dry-run=server")
    assert WHOSE in said


def test_one_lease_and_one_secret_only(account: Account) -> None:
    for version, kind, name in (
        ("v1", "Secret", "another"), ("coordination.k8s.io/v1", "Lease", "another"),
    ):  # fmt: skip
        made = {"apiVersion": version, "kind": kind, "metadata": {"name": name}}
        assert "one Lease and one Secret" in account.tries(made)


def test_events_about_anything_else_are_refused(account: Account) -> None:
    note = EventNote("Normal", "Running", "it runs")
    event = event_body(job(account.namespace, "fashion"), note, now=NOW)
    event["involvedObject"]["kind"] = "Pod"
    assert "events are about jobs" in account.tries(event)


def test_pods_are_neither_made_nor_deleted(account: Account) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
           "spec": {"containers": [{"name": "c", "image": "i"}]}}  # fmt: skip
    assert "neither makes nor deletes pods" in account.tries(pod)


def test_of_a_pod_labels_of_its_cluster_and_its_limit_may_be_changed(account: Account) -> None:
    """Of a job's pod, that is: of one that a StatefulSet has made."""
    made = one_of(account, "StatefulSet", "device")
    del made["metadata"]["ownerReferences"]  # there is no job that owns it
    runs_as = one_of(account, "ServiceAccount", "device")
    del runs_as["metadata"]["ownerReferences"]
    api.kubectl("create", "-f", "-", stdin=json.dumps(runs_as))
    api.kubectl("create", "-f", "-", stdin=json.dumps(made))
    pod = f"{made['metadata']['name']}-0"
    api.kubectl("-n", account.namespace, "wait", "--for=create", f"pod/{pod}", TIMEOUT)
    limits = {"limits": {"cpu": "1"}, "requests": {"cpu": "1m"}}
    container = {"name": "worker", "image": "i", "resources": limits}
    alone = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [container]},
             "metadata": {"name": "alone", "labels": {names.JOB_LABEL: "fashion"}}}  # fmt: skip
    api.kubectl("-n", account.namespace, "create", "-f", "-", stdin=json.dumps(alone))
    patch = ("patch", "pod", pod, "--dry-run=server")
    label, other = "lockstep.dev/cluster=c1", "metadata"
    limit = {"spec": {"containers": [{"name": "worker", "resources": {"limits": {"cpu": "300m"}}}]}}
    resize = ("--subresource=resize", "-p", json.dumps(limit))
    assert account.asks("label", "pod", pod, label, "--dry-run=server") == ""
    assert account.asks(*patch, *resize) == ""
    only = "of a pod the operator changes the labels of its cluster and edge, and its limit"
    for words in (
        ("label", "pod", pod, "app=x", "--dry-run=server"),
        ("label", "pod", pod, f"{names.JOB_LABEL}-", "--dry-run=server"),
        ("annotate", "pod", pod, "a=b", "--dry-run=server"),
        (*patch, "-p", json.dumps({"spec": {"containers": [{"name": "worker", "image": "x"}]}})),
        (*patch, "-p", json.dumps({other: {"ownerReferences": None}})),
        (*patch, "-p", json.dumps({other: {"finalizers": ["example.org/mine"]}})),
    ):
        assert only in account.asks(*words)
    assert "pods of jobs only" in account.asks("label", "pod", "alone", label, "--dry-run=server")
    assert "pods of jobs only" in account.asks("patch", "pod", "alone", "--dry-run=server", *resize)
    assert "neither makes nor deletes" in account.asks("delete", "pod", pod, "--dry-run=server")


def test_jobs_are_deleted_once_they_ended_and_ask_for_it(account: Account) -> None:
    base = {"apiVersion": names.API_VERSION, "kind": names.KIND}
    for name, more, phase, message in (
        ("asks", {"ttlSecondsAfterFinished": 1}, "Completed", ""),
        ("runs", {"ttlSecondsAfterFinished": 1}, "Running", "jobs that have ended and ask for it"),
        ("stays", {}, "Failed", "jobs that have ended and ask for it"),
    ):
        body = base | {"metadata": {"name": name}, "spec": BASE | more}
        api.kubectl("-n", account.namespace, "create", "-f", "-", stdin=json.dumps(body))
        status = json.dumps({"status": {"phase": phase}})
        api.kubectl("-n", account.namespace, "patch", "fj", name, "--subresource=status",
                    "--type=merge", "-p", status)  # fmt: skip
        said = account.asks("delete", "fj", name, "--dry-run=server")
        assert message in said
        assert bool(said) is bool(message)
    assert "jobs that have ended" in account.asks("label", "fj", "asks", "a=b", "--dry-run=server")


def test_nobody_else_is_bound_by_it(account: Account) -> None:
    stranger = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "of-a-user"}}
    api.kubectl("-n", account.namespace, "create", "-f", "-", stdin=json.dumps(stranger))


# -- the chart ---------------------------------------------------------------------------------


def test_all_that_the_operator_may_write_is_looked_at(cluster: Path) -> None:
    policy, _ = rendered("--api-versions", KIND)
    rules = policy["spec"]["matchConstraints"]["resourceRules"]
    looked_at = {name for one in rules for name in one["resources"]}
    writes = {"create", "update", "patch", "delete"}
    written = {name for one in rights.RIGHTS for name in one.resources if writes & {*one.verbs}}
    asked = {"federatedjobs/status", "federatedjobs/finalizers"}
    asked |= {"tokenreviews", "subjectaccessreviews"}
    assert looked_at == written - asked
    assert all(one["operations"] == ["CREATE", "UPDATE", "DELETE"] for one in rules)


def test_it_is_there_where_the_cluster_has_the_kind_and_it_is_wanted(cluster: Path) -> None:
    assert [one["kind"] for one in rendered("--api-versions", KIND)] == [
        "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
    ]  # fmt: skip
    assert rendered() == []
    assert rendered("--api-versions", KIND, "--set", "admissionPolicy.enabled=false") == []


def test_its_condition_names_the_account_of_the_release(cluster: Path) -> None:
    policy, binding = rendered("--api-versions", KIND, namespace="system")
    (condition,) = policy["spec"]["matchConditions"]
    assert "'system:serviceaccount:system:lockstep-operator'" in condition["expression"]
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    assert policy["spec"]["failurePolicy"] == "Fail"
