"""Traces of users' ConfigMaps: devices get a copy of them, and nothing that lies beside them."""

import copy

import pytest

from lockstep_operator.core.model import Manifest, ObjectRef
from lockstep_operator.reconcile import reconcile
from lockstep_operator.traces import LOOK_S
from tests.support.kube import KEY, FakeKube, cluster_with, job_body, make_deps, status_of

STREET = ObjectRef("v1", "ConfigMap", "lab", "street")
COPY = ObjectRef("v1", "ConfigMap", "lab", "digits-traces-street")
TRACE = "t_seconds,bandwidth_mbps\n0,2\n"


def linked() -> Manifest:
    group = {"name": "fast", "replicas": 2, "cpuAtMax": "400m"}
    return job_body(devices=[{**group, "uplink": {"trace": "street"}, "downlink": {"mbps": 8}}])


def street(**data: str) -> Manifest:
    meta = {"name": "street", "namespace": "lab", "labels": {"lockstep.dev/traces": "true"}}
    body = {"data": data, "binaryData": {"raw.csv": "MCwxCg==", "key.pem": "c2VjcmV0"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, **body}


def mounted(kube: FakeKube) -> list[str]:
    """The ConfigMaps that a device mounts."""
    device = kube.objects[ObjectRef("apps/v1", "StatefulSet", "lab", "digits-device-fast")]
    volumes = device["spec"]["template"]["spec"]["volumes"]
    return [one["configMap"]["name"] for one in volumes if "configMap" in one]


async def test_devices_get_the_traces_of_a_config_map_and_nothing_else_of_it() -> None:
    kube = cluster_with(linked(), street(**{"a.csv": TRACE, "password": "secret"}))
    before = copy.deepcopy(kube.objects[STREET])
    await reconcile(KEY, make_deps(kube))
    assert mounted(kube) == ["digits-settings", "digits-traces-street"]
    found = kube.objects[COPY]
    assert (found["data"], found["binaryData"]) == ({"a.csv": TRACE}, {"raw.csv": "MCwxCg=="})
    assert found["metadata"]["ownerReferences"][0]["name"] == "digits"
    assert kube.objects[STREET] == before
    made = [name for verb, name in kube.writes if verb == "create"]
    sets = [index for index, name in enumerate(made) if name.startswith("StatefulSet")]
    assert made.index("ConfigMap/digits-traces-street") < min(sets), "pods start with it"


@pytest.mark.parametrize("value", [None, "false", "yes"])
async def test_a_config_map_that_does_not_say_that_it_has_traces_is_not_read(
    value: str | None,
) -> None:
    """Who makes jobs need not be allowed to read it: its author says that it is meant for that."""
    theirs = street(**{"a.csv": TRACE})
    del theirs["metadata"]["labels"]
    if value is not None:
        theirs["metadata"]["labels"] = {"lockstep.dev/traces": value}
    kube = cluster_with(linked(), theirs)
    deps = make_deps(kube)
    for _ in range(2):
        await reconcile(KEY, deps)
    assert COPY not in kube.objects
    assert ("get", "ConfigMap") not in kube.calls
    assert not [ref for ref in kube.objects if ref.kind == "StatefulSet"]
    ready = next(one for one in status_of(kube)["conditions"] if one["type"] == "Ready")
    assert ready["reason"] == "ChildRefused"
    assert "kubectl label configmap street lockstep.dev/traces=true" in ready["message"]
    kube.put(street(**{"a.csv": TRACE}))
    await reconcile(KEY, deps)
    assert kube.objects[COPY]["data"] == {"a.csv": TRACE}
    assert [ref for ref in kube.objects if ref.kind == "StatefulSet"]


async def test_a_copy_is_not_renewed_once_the_label_is_gone() -> None:
    now = [100.0]
    kube = cluster_with(linked(), street(**{"a.csv": TRACE}))
    deps = make_deps(kube, monotonic=lambda: now[0])
    await reconcile(KEY, deps)
    private = street(**{"b.csv": "private"})
    del private["metadata"]["labels"]
    kube.put(private)
    now[0] += LOOK_S
    await reconcile(KEY, deps)
    assert kube.objects[COPY]["data"] == {"a.csv": TRACE}


async def test_a_copy_follows_the_traces_and_costs_a_call_a_look() -> None:
    now = [100.0]
    kube = cluster_with(linked(), street(**{"a.csv": TRACE}))
    deps = make_deps(kube, monotonic=lambda: now[0])
    await reconcile(KEY, deps)
    before = kube.calls.copy()
    for _ in range(5):
        await reconcile(KEY, deps)
    assert ("metadata", "ConfigMap") not in kube.calls - before
    now[0] += LOOK_S
    await reconcile(KEY, deps)
    assert (kube.calls - before)["metadata", "ConfigMap"] == 1
    assert ("get", "ConfigMap") not in kube.calls - before, "it is not read again"
    kube.put(street(**{"b.csv": TRACE}))
    now[0] += LOOK_S
    await reconcile(KEY, deps)
    assert kube.objects[COPY]["data"] == {"b.csv": TRACE}


async def test_traces_that_come_later_are_copied_then() -> None:
    now = [100.0]
    kube = cluster_with(linked())
    deps = make_deps(kube, monotonic=lambda: now[0])
    outcome = await reconcile(KEY, deps)
    assert (outcome.phase, outcome.requeue_in_s) == ("Starting", LOOK_S)
    assert COPY not in kube.objects
    kube.put(street(**{"a.csv": TRACE}))
    now[0] += LOOK_S
    await reconcile(KEY, deps)
    assert kube.objects[COPY]["data"] == {"a.csv": TRACE}


async def test_a_copy_that_was_deleted_comes_back() -> None:
    kube = cluster_with(linked(), street(**{"a.csv": TRACE}))
    deps = make_deps(kube, monotonic=lambda: 100.0)
    await reconcile(KEY, deps)
    kube.remove(COPY)
    await reconcile(KEY, deps)
    assert COPY in kube.objects, "it is not waited for the next look"


@pytest.mark.parametrize("running", [False, True])
async def test_no_device_mounts_what_others_have_under_a_copys_name(running: bool) -> None:
    theirs = street(password="secret")
    theirs["metadata"]["name"] = COPY.name
    kube = cluster_with(linked(), street(**{"a.csv": TRACE}))
    deps = make_deps(kube, monotonic=lambda: 100.0)
    if running:
        await reconcile(KEY, deps)
        kube.remove(COPY)
    kube.put(theirs)
    before = copy.deepcopy(kube.objects[COPY])
    for _ in range(2):
        await reconcile(KEY, deps)
    assert status_of(kube)["phase"] == "Refused"
    assert "ConfigMap digits-traces-street" in status_of(kube)["conditions"][0]["message"]
    assert not [ref for ref in kube.objects if ref.kind == "StatefulSet"]
    assert kube.objects[COPY] == before
    kube.remove(COPY)
    assert (await reconcile(KEY, deps)).phase == "Starting"
    assert kube.objects[COPY]["data"] == {"a.csv": TRACE}


async def test_no_set_comes_while_its_traces_cannot_be_copied() -> None:
    """The name is taken by somebody else between the look and the write."""
    kube = cluster_with(linked(), street(**{"a.csv": TRACE}))
    deps = make_deps(kube)
    create = kube.create

    async def late(manifest: Manifest) -> Manifest:
        if manifest["metadata"]["name"] == COPY.name and COPY not in kube.objects:
            kube.put({**street(password="secret"), "metadata": dict(manifest["metadata"])})
            del kube.objects[COPY]["metadata"]["ownerReferences"]
        return await create(manifest)

    kube.create = late  # type: ignore[method-assign]
    for _ in range(3):
        await reconcile(KEY, deps)
        assert not [ref for ref in kube.objects if ref.kind == "StatefulSet"]
    assert status_of(kube)["phase"] == "Refused"
