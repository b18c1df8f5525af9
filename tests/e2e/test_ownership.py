"""Objects of a user under the names of a job, on a real Kubernetes: nobody touches them."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import yaml

from lockstep_operator.core.model import Manifest, ObjectRef
from lockstep_operator.errors import KubeError
from lockstep_operator.kube import ApiKube
from lockstep_operator.login import load_configuration
from tests.cluster import api
from tests.e2e.outside import (
    Operator,
    children,
    create,
    job,
    message,
    outside,
    wait_for_phase,
    wait_until_no_children,
)
from tests.e2e.running import Json, a_namespace, events, get, wait_for_event
from tests.support.patience import TIMEOUT

pytestmark = pytest.mark.cluster

LABELS = {"app": "postgres"}
CLAIM: Json = {
    "accessModes": ["ReadWriteOnce"],
    "resources": {"requests": {"storage": "1Mi"}},
}
POD: Json = {
    "metadata": {"labels": LABELS},
    "spec": {"containers": [{"name": "c", "image": "example.invalid/none"}]},
}
SPECS: dict[str, Json] = {
    "PersistentVolumeClaim": {"spec": CLAIM},
    "ConfigMap": {"data": {"app.ini": "debug=1"}},
    "ServiceAccount": {},
    "Service": {"spec": {"clusterIP": "None", "selector": LABELS, "ports": [{"port": 5432}]}},
    "PodDisruptionBudget": {"spec": {"minAvailable": 1, "selector": {"matchLabels": LABELS}}},
    "StatefulSet": {
        "spec": {
            "replicas": 0,
            "serviceName": "x",
            "selector": {"matchLabels": LABELS},
            "template": POD,
        }
    },
}
VERSIONS = {"PodDisruptionBudget": "policy/v1", "StatefulSet": "apps/v1"}


@pytest.fixture(scope="module")
def operator(cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """One for all tests here: each has names of its own."""
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    with a_namespace() as namespace, outside(cluster, namespace, log=log) as started:
        yield started


def users(kind: str, name: str, **changes: Json) -> Json:
    """An object that a user has made."""
    meta = {"name": name, "labels": LABELS}
    body: Json = {"apiVersion": VERSIONS.get(kind, "v1"), "kind": kind, "metadata": meta}
    return body | SPECS[kind] | changes


def as_made(namespace: str, kind: str, name: str) -> Json:
    """What an operator could have changed of an object, and who has written it."""
    words = ("get", kind, name, "-o", "json", "--show-managed-fields")
    found: Json = json.loads(api.kubectl("-n", namespace, *words))
    meta = found["metadata"]
    told = {key: meta.get(key) for key in ("uid", "labels", "annotations", "ownerReferences")}
    writers = {one["manager"] for one in meta["managedFields"]}
    assert "lockstep-operator" not in writers
    assert "deletionTimestamp" not in meta
    return told | {key: found.get(key) for key in ("spec", "data")}


def taken(operator: Operator, name: str, objects: list[tuple[str, str]]) -> Json:
    """A job whose names are taken by these objects: nothing of them changes, whatever is done."""
    namespace = operator.namespace
    before = {one: as_made(namespace, *one) for one in objects}
    create(namespace, job(name))
    seen = wait_for_phase(namespace, name, "Refused")
    print(api.kubectl("-n", namespace, "describe", "fj", name))
    assert message(seen, "Accepted").startswith("NameTaken: ")
    for kind, object_name in objects:
        assert f"{kind} {object_name}" in message(seen, "Accepted")
    assert children(namespace, name) == []
    wait_for_event(namespace, name, "Refused")
    # A cluster that is full says so first: another Warning.
    (told,) = (one for one in events(namespace, name) if one[:2] == ("Warning", "Refused"))
    assert told[2] in message(seen, "Accepted")
    assert {one: as_made(namespace, *one) for one in objects} == before
    return seen


def goes_on(operator: Operator, name: str, objects: list[tuple[str, str]]) -> None:
    """Deletes the objects: the job starts by itself."""
    for kind, object_name in objects:
        api.kubectl("-n", operator.namespace, "delete", kind, object_name, "--wait")
    seen = wait_for_phase(operator.namespace, name, "Starting")
    assert message(seen, "Accepted").startswith("Valid")
    assert f"statefulset.apps/{name}-cloud" in children(operator.namespace, name)


def test_a_volume_and_a_config_map_of_a_user_outlive_a_job_of_their_name(
    operator: Operator,
) -> None:
    objects = [("PersistentVolumeClaim", "web-cloud"), ("ConfigMap", "web-settings")]
    for one in objects:
        create(operator.namespace, users(*one))
    taken(operator, "web", objects)
    before = {one: as_made(operator.namespace, *one) for one in objects}
    api.kubectl("-n", operator.namespace, "delete", "fj", "web", "--wait")
    create(operator.namespace, job("web"))
    wait_for_phase(operator.namespace, "web", "Refused")
    assert {one: as_made(operator.namespace, *one) for one in objects} == before
    goes_on(operator, "web", objects)


def test_services_of_a_user_keep_their_selector_and_ports(operator: Operator) -> None:
    headless = users("Service", "shop-cloud")
    port = {"name": "http", "port": 80, "targetPort": 8000}
    with_port = users("Service", "shop-devices", spec={"selector": LABELS, "ports": [port]})
    create(operator.namespace, headless)
    create(operator.namespace, with_port)
    objects = [("Service", "shop-cloud"), ("Service", "shop-devices")]
    taken(operator, "shop", objects)
    goes_on(operator, "shop", objects)


@pytest.mark.parametrize(
    ("name", "kind", "object_name"),
    [
        ("one", "ServiceAccount", "one-device"),
        ("two", "PodDisruptionBudget", "two-cloud"),
        ("three", "StatefulSet", "three-cloud"),
    ],
)
def test_other_objects_of_a_user_are_left_alone(
    operator: Operator, name: str, kind: str, object_name: str
) -> None:
    create(operator.namespace, users(kind, object_name))
    taken(operator, name, [(kind, object_name)])
    goes_on(operator, name, [(kind, object_name)])


def test_an_object_that_comes_in_a_childs_place_is_left_alone(operator: Operator) -> None:
    """It came while no operator was there."""
    namespace = operator.namespace
    create(namespace, job("late"))
    wait_for_phase(namespace, "late", "Starting")
    assert operator.stop() == 0
    try:
        api.kubectl("-n", namespace, "delete", "configmap", "late-settings", "--wait")
        create(namespace, users("ConfigMap", "late-settings"))
        before = as_made(namespace, "ConfigMap", "late-settings")
    finally:
        operator.start()
    seen = wait_for_phase(namespace, "late", "Refused")
    assert message(seen, "Accepted").startswith("NameTaken: ")
    api.kubectl("-n", namespace, "wait", "--for=delete", "statefulset/late-cloud", TIMEOUT)
    assert as_made(namespace, "ConfigMap", "late-settings") == before
    assert "persistentvolumeclaim/late-cloud" in children(namespace, "late")
    goes_on(operator, "late", [("ConfigMap", "late-settings")])


def test_a_childs_label_comes_back_and_the_child_stays(operator: Operator) -> None:
    namespace = operator.namespace
    create(namespace, job("marked"))
    wait_for_phase(namespace, "marked", "Starting")
    uid = get(namespace, "marked-cloud", "pvc")["metadata"]["uid"]
    api.kubectl("-n", namespace, "label", "pvc", "marked-cloud", "lockstep.dev/job-")
    label = "--for=jsonpath={.metadata.labels.lockstep\\.dev/job}=marked"
    api.kubectl("-n", namespace, "wait", label, "pvc/marked-cloud", TIMEOUT)
    assert get(namespace, "marked-cloud", "pvc")["metadata"]["uid"] == uid


def test_what_a_user_kept_of_a_deleted_job_is_the_users(operator: Operator) -> None:
    namespace = operator.namespace
    create(namespace, job("kept"))
    wait_for_phase(namespace, "kept", "Starting")
    bound = "--for=jsonpath={.status.phase}=Bound"  # Kubernetes changes it no more
    api.kubectl("-n", namespace, "wait", bound, "pvc/kept-cloud", TIMEOUT)
    api.kubectl("-n", namespace, "delete", "fj", "kept", "--cascade=orphan", "--wait")
    found = get(namespace, "kept-cloud", "pvc")["metadata"]
    assert "ownerReferences" not in found
    create(namespace, job("kept"))
    seen = wait_for_phase(namespace, "kept", "Refused")
    assert "PersistentVolumeClaim kept-cloud" in message(seen, "Accepted")
    again = get(namespace, "kept-cloud", "pvc")["metadata"]
    assert (again["uid"], again["resourceVersion"]) == (found["uid"], found["resourceVersion"])


def test_a_job_takes_the_place_of_a_deleted_one_of_its_name(operator: Operator) -> None:
    namespace = operator.namespace
    create(namespace, job("again"))
    first = wait_for_phase(namespace, "again", "Starting")["metadata"]["uid"]
    api.kubectl("-n", namespace, "delete", "fj", "again", "--wait")
    create(namespace, job("again"))
    assert wait_for_phase(namespace, "again", "Starting")["metadata"]["uid"] != first
    api.kubectl("-n", namespace, "wait", "--for=create", "statefulset/again-cloud", TIMEOUT)


def test_of_two_jobs_that_need_one_name_the_second_is_refused(operator: Operator) -> None:
    group = {"name": "a-cloud", "replicas": 1, "cpuAtMax": "100m", "memory": "256Mi"}
    create(operator.namespace, job("foo", devices=[group]))
    wait_for_phase(operator.namespace, "foo", "Starting")
    create(operator.namespace, job("foo-device-a"))
    seen = wait_for_phase(operator.namespace, "foo-device-a", "Refused")
    assert "StatefulSet foo-device-a-cloud of FederatedJob foo" in message(seen, "Accepted")
    api.kubectl("-n", operator.namespace, "delete", "fj", "foo", "--wait")
    wait_until_no_children(operator.namespace, "foo")
    wait_for_phase(operator.namespace, "foo-device-a", "Starting")


def test_devices_mount_nothing_of_a_users_config_map_but_a_copy_of_its_traces(
    operator: Operator,
) -> None:
    namespace = operator.namespace
    data = {"street.csv": "t_seconds,bandwidth_mbps\n0,2\n", "password": "secret"}
    create(namespace, users("ConfigMap", "street", data=data))
    group = {"name": "small", "cpuAtMax": "100m", "memory": "256Mi", "uplink": {"trace": "street"}}
    create(namespace, job("linked", devices=[group]))
    ready = '.status.conditions[?(@.type=="Ready")]'
    refused = f"--for=jsonpath={{{ready}.reason}}=ChildRefused"
    api.kubectl("-n", namespace, "wait", "fj/linked", refused, TIMEOUT)
    told = message(get(namespace, "linked"), "Ready")
    assert "ConfigMap street does not say that it has traces" in told
    assert "linked-traces-street" not in api.kubectl("-n", namespace, "get", "cm", "-o", "name")
    api.kubectl("-n", namespace, "label", "configmap", "street", "lockstep.dev/traces=true")
    before = as_made(namespace, "ConfigMap", "street")
    api.kubectl("-n", namespace, "wait", "--for=create", "sts/linked-device-small", TIMEOUT)
    copy = get(namespace, "linked-traces-street", "configmap")
    assert copy["data"] == {"street.csv": data["street.csv"]}
    device = get(namespace, "linked-device-small", "statefulset")["spec"]["template"]["spec"]
    mounted = {one["configMap"]["name"] for one in device["volumes"] if "configMap" in one}
    assert mounted == {"linked-settings", "linked-traces-street"}
    assert as_made(namespace, "ConfigMap", "street") == before


Work = Callable[[ApiKube], Awaitable[None]]


@pytest.fixture
def with_kube(cluster: Path) -> Callable[[Work], None]:
    """Runs something with the operator's door to this cluster."""

    async def run(work: Work) -> None:
        kube = ApiKube(await load_configuration(str(cluster), None))
        try:
            await work(kube)
        finally:
            await kube.close()

    return lambda work: asyncio.run(run(work))


def settings(namespace: str, **data: str) -> Manifest:
    meta = {"name": "one", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


def test_what_a_later_form_leaves_out_goes_although_it_was_created(
    namespace: str, with_kube: Callable[[Work], None]
) -> None:
    async def work(kube: ApiKube) -> None:
        await kube.create(settings(namespace, a="1", b="2"))
        ref = ObjectRef("v1", "ConfigMap", namespace, "one")
        for data in ({"a": "2"}, {"c": "3"}):
            written = await kube.apply(settings(namespace, **data), over=await kube.metadata(ref))
            assert written["data"] == data

    with_kube(work)


@pytest.mark.parametrize("now", ["another", "changed", "gone"])
def test_an_apply_or_a_deletion_holds_only_for_what_was_read(
    namespace: str, with_kube: Callable[[Work], None], now: str
) -> None:
    async def work(kube: ApiKube) -> None:
        ref = ObjectRef("v1", "ConfigMap", namespace, "one")
        await kube.create(settings(namespace, a="1"))
        read = await kube.metadata(ref)
        if now == "changed":
            api.kubectl("-n", namespace, "label", "configmap", "one", "mine=true")
        else:
            api.kubectl("-n", namespace, "delete", "configmap", "one")
        if now == "another":
            create(namespace, yaml.safe_load(json.dumps(settings(namespace, theirs="1"))))
        before = None if now == "gone" else await kube.get(ref)
        with pytest.raises(KubeError):
            await kube.apply(settings(namespace, a="2"), over=read)
        meta = read["metadata"]
        if before is not None:
            with pytest.raises(KubeError):
                await kube.delete(ref, uid=meta["uid"], version=meta["resourceVersion"])
        listed = await kube.list(("v1", "ConfigMap"), namespace, kept=lambda one: one)
        left = [one for one in listed.items if one["metadata"]["name"] == "one"]
        assert left == ([] if before is None else [before])

    with_kube(work)
