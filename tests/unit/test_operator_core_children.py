"""The manifests of a job: complete, owned, restricted, and the same every time."""

import json
from typing import Any

import pytest

from lockstep_api.names import Role
from lockstep_api.settings import JobSettings
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FederatedJobStatus
from lockstep_operator.core.children import children
from lockstep_operator.core.manifests import reference, spec_hash
from lockstep_operator.core.model import JobKey, JobView, Manifest, Settings
from lockstep_operator.core.placement import CLOUD_POD, Placement, PodSet

SETTINGS = Settings(worker_image="worker:1", planner_url="http://planner")
PLACEMENT = Placement(
    {
        CLOUD_POD: ("c1",),
        PodSet(Role.DEVICE, "fast"): ("d1", "d2"),
        PodSet(Role.DEVICE, "slow"): ("d2",),
    }
)
DEVICES: list[dict[str, Any]] = [
    {
        "name": "fast",
        "replicas": 3,
        "cpuAtMax": "2",
        "frequency": {"minGHz": 0.5, "maxGHz": 2.0},
        "nodeSelector": {"disk": "ssd"},
    },
    {"name": "slow", "cpuAtMax": "500m", "frequency": {"minGHz": 0.1, "maxGHz": 1.0}},
]


def job(**change: Any) -> JobView:
    base: dict[str, Any] = {
        "model": {"name": "mlp"},
        "data": {"name": "fashion-mnist"},
        "training": {"rounds": 1},
        "devices": DEVICES,
    }
    spec = FederatedJobSpec.model_validate(base | change)
    return JobView(JobKey("ml", "demo"), "uid-1", 1, spec, None, FederatedJobStatus(), 0.0)


def built(**change: Any) -> dict[tuple[str, str], Manifest]:
    manifests = children(job(**change), PLACEMENT, settings=SETTINGS)
    return {(m["kind"], m["metadata"]["name"]): m for m in manifests}


def pod(name: str, **change: Any) -> Manifest:
    template: Manifest = built(**change)["StatefulSet", name]["spec"]["template"]
    return template


def container(name: str, **change: Any) -> Manifest:
    (only,) = pod(name, **change)["spec"]["containers"]
    assert isinstance(only, dict)
    return only


SETS = ("demo-cloud", "demo-device-fast", "demo-device-slow")


def test_a_job_consists_of_these_objects_in_this_order() -> None:
    assert list(built()) == [
        ("ServiceAccount", "demo-cloud"),
        ("ServiceAccount", "demo-device"),
        ("ConfigMap", "demo-settings"),
        ("PersistentVolumeClaim", "demo-cloud"),
        ("Service", "demo-cloud"),
        ("Service", "demo-devices"),
        ("PodDisruptionBudget", "demo-cloud"),
        *(("StatefulSet", name) for name in SETS),
    ]


def test_every_object_is_owned_labelled_and_hashed() -> None:
    for manifest in built().values():
        meta = manifest["metadata"]
        (owner,) = meta["ownerReferences"]
        assert owner["uid"] == "uid-1"
        assert owner["controller"]
        assert owner["blockOwnerDeletion"]
        assert meta["namespace"] == "ml"
        assert meta["labels"]["lockstep.dev/job"] == "demo"
        assert meta["labels"]["app.kubernetes.io/managed-by"] == "lockstep-operator"
        assert len(spec_hash(manifest) or "") == 64
        assert reference(manifest).name == meta["name"]


@pytest.mark.parametrize(("change", "image"), [({}, "worker:1"), ({"image": "own:2"}, "own:2")])
def test_the_claim_says_which_image_can_read_it(change: Manifest, image: str) -> None:
    claim = built(**change)["PersistentVolumeClaim", "demo-cloud"]
    assert claim["metadata"]["annotations"]["lockstep.dev/worker-image"] == image
    assert container("demo-cloud", **change)["image"] == image


def test_the_same_job_gives_the_same_manifests() -> None:
    first = json.dumps(children(job(), PLACEMENT, settings=SETTINGS), sort_keys=True)
    assert first == json.dumps(children(job(), PLACEMENT, settings=SETTINGS), sort_keys=True)


def test_only_what_changed_gets_another_hash() -> None:
    before, after = built(), built(training={"rounds": 2})
    changed = [key for key in before if spec_hash(before[key]) != spec_hash(after[key])]
    assert changed == [("ConfigMap", "demo-settings")]


def test_an_object_that_lockstep_never_applied_has_no_hash() -> None:
    assert spec_hash({"metadata": {"annotations": None}}) is None


def test_the_settings_can_be_read_back() -> None:
    text = built()["ConfigMap", "demo-settings"]["data"]["job.json"]
    settings = JobSettings.model_validate_json(text)
    assert settings.cloud_url == "http://demo-cloud.ml.svc:8080"
    assert settings.planner_url == "http://planner"
    assert settings.clients() == ["fast-0", "fast-1", "fast-2", "slow-0"]


def test_the_services_find_pods_that_are_not_ready() -> None:
    for name, role in (("demo-cloud", "cloud"), ("demo-devices", "device")):
        service = built()["Service", name]["spec"]
        assert service["clusterIP"] == "None"
        assert service["publishNotReadyAddresses"]
        assert service["selector"] == {"lockstep.dev/job": "demo", "lockstep.dev/role": role}


@pytest.mark.parametrize("name", SETS)
def test_a_set_selects_its_own_pods_and_is_never_rolled(name: str) -> None:
    spec = built()["StatefulSet", name]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert spec["updateStrategy"] == {"type": "OnDelete"}
    assert spec["podManagementPolicy"] == "Parallel"
    assert "volumeClaimTemplates" not in spec


def test_groups_have_their_own_labels_and_replicas() -> None:
    fast = built()["StatefulSet", "demo-device-fast"]["spec"]
    assert fast["replicas"] == 3
    assert fast["serviceName"] == "demo-devices"
    assert fast["selector"]["matchLabels"]["lockstep.dev/device-group"] == "fast"


@pytest.mark.parametrize("name", SETS)
def test_pods_are_restricted(name: str) -> None:
    spec = pod(name)["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("name", SETS)
def test_every_mount_has_its_volume(name: str) -> None:
    mounts = {mount["name"] for mount in container(name)["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod(name)["spec"]["volumes"]}


def test_only_the_cloud_pod_has_a_token_for_the_planner_and_the_volume() -> None:
    volumes = {volume["name"]: volume for volume in pod("demo-cloud")["spec"]["volumes"]}
    (source,) = volumes["token"]["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "lockstep-planner"
    assert volumes["data"]["persistentVolumeClaim"] == {"claimName": "demo-cloud"}
    device = {volume["name"] for volume in pod("demo-device-fast")["spec"]["volumes"]}
    assert device == {"settings", "tmp", "token"}


@pytest.mark.parametrize("name", ["demo-device-fast", "demo-device-slow"])
def test_a_device_has_a_token_for_its_own_job_alone(name: str) -> None:
    (volume,) = (one for one in pod(name)["spec"]["volumes"] if one["name"] == "token")
    token = {"audience": "lockstep-job/uid-1", "expirationSeconds": 600, "path": "token"}
    assert volume["projected"]["sources"] == [{"serviceAccountToken": token}]
    (mount,) = (one for one in container(name)["volumeMounts"] if one["name"] == "token")
    assert mount["mountPath"] == "/var/run/secrets/lockstep"
    assert mount["readOnly"]


def test_where_the_planner_takes_any_call_devices_have_no_token_and_are_told_so() -> None:
    def of(identity: bool) -> tuple[set[str], set[str], bool]:
        settings = Settings(worker_image="w", planner_url="http://p", identity=identity)
        made = {reference(m).name: m for m in children(job(), PLACEMENT, settings=settings)}
        told = JobSettings.model_validate_json(made["demo-settings"]["data"]["job.json"])
        cloud, device = (
            {one["name"] for one in made[name]["spec"]["template"]["spec"]["volumes"]}
            for name in ("demo-cloud", "demo-device-slow")
        )
        return cloud, device, told.identity

    cloud = {"settings", "tmp", "data", "token"}
    assert of(False) == (cloud, {"settings", "tmp"}, False)
    assert of(True) == (cloud, {"settings", "tmp", "token"}, True)


def test_affinity_has_one_term_a_node() -> None:
    affinity = pod("demo-device-fast")["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    values = [field["values"] for term in terms for field in term["matchFields"]]
    assert values == [["d1"], ["d2"]]


def test_the_cloud_has_no_cpu_limit() -> None:
    assert container("demo-cloud")["resources"] == {
        "requests": {"cpu": "500m", "memory": "1Gi"},
        "limits": {"memory": "1Gi"},
    }


@pytest.mark.parametrize(
    ("name", "request_", "limit"),
    [("demo-device-fast", "250m", "2000m"), ("demo-device-slow", "25m", "1000m")],
)
def test_devices_start_boosted_and_request_half_of_their_least(
    name: str, request_: str, limit: str
) -> None:
    assert container(name)["resources"] == {
        "requests": {"cpu": request_, "memory": "512Mi"},
        "limits": {"cpu": limit, "memory": "512Mi"},
    }
    assert container(name)["resizePolicy"] == [
        {"resourceName": "cpu", "restartPolicy": "NotRequired"}
    ]


def test_devices_know_their_group_and_compute_on_one_thread() -> None:
    env = {e["name"]: e.get("value") for e in container("demo-device-slow")["env"]}
    assert env["LOCKSTEP_GROUP"] == "slow"
    assert env["OMP_NUM_THREADS"] == env["OPENBLAS_NUM_THREADS"] == "1"
    assert env["LOCKSTEP_SETTINGS"] == "/etc/lockstep/job.json"
    cloud = {e["name"] for e in container("demo-cloud")["env"]}
    assert cloud == {
        "LOCKSTEP_POD",
        "LOCKSTEP_POD_UID",
        "LOCKSTEP_SETTINGS",
        "LOCKSTEP_DATA_DIR",
    }


@pytest.mark.parametrize(
    ("replicas", "interval"), [(49, None), (50, "2s"), (999, "20s"), (10_000, "60s")]
)
def test_devices_of_large_jobs_ask_to_be_scraped_less_often(
    replicas: int, interval: str | None
) -> None:
    """All of them together no more often than 50 times a second."""
    groups = [DEVICES[0] | {"replicas": replicas}, DEVICES[1]]
    for name in ("demo-device-fast", "demo-device-slow"):
        notes = pod(name, devices=groups)["metadata"].get("annotations", {})
        assert notes.get("lockstep.dev/scrape-interval") == interval
    notes = pod("demo-cloud", devices=groups)["metadata"]["annotations"]
    assert "lockstep.dev/scrape-interval" not in notes


def test_the_pod_template_is_honoured_but_overrides_nothing() -> None:
    template = {
        "labels": {"team": "a", "lockstep.dev/role": "mine"},
        "annotations": {"note": "x", "lockstep.dev/job-name": "mine"},
        "nodeSelector": {"zone": "z", "disk": "hdd"},
        "tolerations": [{"key": "k", "operator": "Exists", "tolerationSeconds": 5}],
        "priorityClassName": "high",
        "runtimeClassName": "kata",
        "imagePullSecrets": ["pull"],
    }
    made = pod("demo-device-fast", podTemplate=template)
    assert made["metadata"]["labels"]["team"] == "a"
    assert made["metadata"]["labels"]["lockstep.dev/role"] == "device"
    assert made["metadata"]["annotations"] == {"note": "x", "lockstep.dev/job-name": "demo"}
    spec = made["spec"]
    assert spec["nodeSelector"] == {"zone": "z", "disk": "ssd"}
    assert spec["tolerations"] == [{"key": "k", "operator": "Exists", "tolerationSeconds": 5}]
    assert spec["priorityClassName"] == "high"
    assert spec["runtimeClassName"] == "kata"
    assert spec["imagePullSecrets"] == [{"name": "pull"}]


def test_image_and_storage_class_can_be_chosen() -> None:
    assert container("demo-cloud")["image"] == "worker:1"
    assert container("demo-cloud", image="mine:2")["image"] == "mine:2"
    claims = built(cloud={"storage": {"size": "3Gi", "storageClassName": "quick"}})
    assert claims["PersistentVolumeClaim", "demo-cloud"]["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "3Gi"}},
        "storageClassName": "quick",
    }


def test_a_job_without_a_readable_spec_has_no_children() -> None:
    unreadable = JobView(JobKey("ml", "demo"), "u", 1, None, "bad", FederatedJobStatus(), 0.0)
    with pytest.raises(ValueError, match="bad"):
        children(unreadable, PLACEMENT, settings=SETTINGS)


def scratch(name: str, **change: Any) -> str:
    """The room of a pod's /tmp."""
    (size,) = (
        volume["emptyDir"]["sizeLimit"]
        for volume in pod(name, **change)["spec"]["volumes"]
        if "emptyDir" in volume
    )
    assert isinstance(size, str)
    return size


def test_what_a_pod_may_write_beside_its_volume_has_an_end() -> None:
    """Four times its memory, and of a server half of it more for each client that sends to it."""
    cloud = {"cpu": "1", "memory": "2Gi", "storage": {"size": "1Gi"}}
    assert scratch("demo-cloud", cloud=cloud) == f"{2048 * 4 + 4 * 1024}Mi"
    assert scratch("demo-device-fast") == f"{512 * 4}Mi"
