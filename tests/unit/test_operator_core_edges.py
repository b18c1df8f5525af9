"""Edges as Kubernetes objects: their sets, names, places and what is said of them."""

from typing import Any

import pytest

from lockstep_api import names
from lockstep_api.names import Role
from lockstep_api.settings import edge_names, edge_urls
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import ConditionType, FederatedJobStatus, Phase
from lockstep_operator.core.causes import causes
from lockstep_operator.core.children import child_refs, children
from lockstep_operator.core.conditions import readiness
from lockstep_operator.core.decide import decide
from lockstep_operator.core.manifests import reference
from lockstep_operator.core.model import (
    Complaint,
    JobKey,
    JobView,
    Manifest,
    ObjectRef,
    Observed,
    PodView,
    Settings,
)
from lockstep_operator.core.ownership import names_doubled
from lockstep_operator.core.placement import Placement, PodSet, pod_sets
from lockstep_operator.core.resources import server_threads
from lockstep_operator.core.status import connected
from lockstep_operator.views import pod_view
from tests.support.decisions import NODE, NOW
from tests.support.network import NETWORK
from tests.support.tiered import group, split_job

SETTINGS = Settings(worker_image="worker:1", planner_url="http://planner", network=NETWORK)
GIB = 2.0**30
NEAR: dict[str, Any] = {"name": "near", "replicas": 2, "cpu": "2", "memory": "2Gi"}
ZONE = {"zone": "z"}
FAR: dict[str, Any] = {"name": "far", "cpu": "500m", "nodeSelector": ZONE}


def tiered(**change: Any) -> FederatedJobSpec:
    return split_job(group("d", "500m", replicas=2), edges=[NEAR, FAR], **change)


def view(spec: FederatedJobSpec, name: str = "demo") -> JobView:
    return JobView(JobKey("ml", name), "uid-1", 1, spec, None, FederatedJobStatus(), 0.0)


def anywhere(spec: FederatedJobSpec, *nodes: str) -> Placement:
    return Placement(dict.fromkeys(pod_sets(spec), nodes or ("n1", "n2")))


def built(spec: FederatedJobSpec, name: str = "demo") -> dict[tuple[str, str], Manifest]:
    made = children(view(spec, name), anywhere(spec), settings=SETTINGS)
    return {(one["kind"], one["metadata"]["name"]): one for one in made}


def pod(group: str, **change: Any) -> Manifest:
    template: Manifest = built(tiered(**change))["StatefulSet", f"demo-edge-{group}"]["spec"][
        "template"
    ]
    return template


def container(group: str, **change: Any) -> Manifest:
    (only,) = pod(group, **change)["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def test_a_job_with_edges_has_these_objects_beside_those_of_one_without() -> None:
    with_edges = list(built(tiered()))
    without = list(built(split_job(group("d", "500m", replicas=2), mode="federated", edges=None)))
    assert [one for one in with_edges if one not in without] == [
        ("ServiceAccount", "demo-edge"),
        ("Service", "demo-edges"),
        ("PodDisruptionBudget", "demo-edges"),
        ("NetworkPolicy", "demo-edge"),
        ("StatefulSet", "demo-edge-near"),
        ("StatefulSet", "demo-edge-far"),
    ]
    assert [one for one in with_edges if one in without] == without


def test_what_a_job_with_edges_needs_by_name_is_what_it_makes() -> None:
    for spec in (tiered(), tiered(allocation={"policy": "ppo", "online": True})):
        assert child_refs(view(spec), spec) == tuple(map(reference, built(spec).values()))


def test_edges_of_a_federated_job_are_none() -> None:
    spec = tiered(mode="federated")
    assert not [name for _, name in built(spec) if "edge" in name]
    assert [pods.shown for pods in pod_sets(spec)] == ["cloud", "d"]
    assert edge_names(spec) == []


def test_a_set_of_edges_has_its_groups_pods_alone() -> None:
    objects = built(tiered())
    for name, replicas in (("near", 2), ("far", 1)):
        spec = objects["StatefulSet", f"demo-edge-{name}"]["spec"]
        assert (spec["replicas"], spec["serviceName"]) == (replicas, "demo-edges")
        chosen = spec["selector"]["matchLabels"]
        assert chosen == {
            "lockstep.dev/job": "demo",
            "lockstep.dev/role": "edge",
            "lockstep.dev/edge-group": name,
        }
        assert chosen.items() <= spec["template"]["metadata"]["labels"].items()
        assert spec["updateStrategy"] == {"type": "OnDelete"}


def test_devices_find_edges_by_name_also_while_they_start() -> None:
    service = built(tiered())["Service", "demo-edges"]["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    assert service["selector"] == {"lockstep.dev/job": "demo", "lockstep.dev/role": "edge"}
    urls = edge_urls(tiered(), namespace="ml", job="demo")
    assert urls["near-1"] == "http://demo-edge-near-1.demo-edges.ml.svc:8080"
    assert list(urls) == ["near-0", "near-1", "far-0"]


def test_an_edge_is_run_as_the_cloud_pod_is_without_its_volume_and_with_a_token_for_it() -> None:
    (cloud,) = built(tiered())["StatefulSet", "demo-cloud"]["spec"]["template"]["spec"][
        "containers"
    ]
    edge = container("near")
    assert edge["args"] == ["edge"]
    for same in ("ports", "startupProbe", "readinessProbe", "livenessProbe", "securityContext"):
        assert edge[same] == cloud[same]
    spec = pod("near")["spec"]
    assert spec["serviceAccountName"] == "demo-edge"
    assert spec["automountServiceAccountToken"] is False
    assert {volume["name"] for volume in spec["volumes"]} == {"settings", "tmp", "token"}
    assert {mount["name"] for mount in edge["volumeMounts"]} == {"settings", "tmp", "token"}
    (volume,) = (one for one in spec["volumes"] if one["name"] == "token")
    (source,) = volume["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"].startswith("lockstep-job/")
    assert spec["securityContext"]["runAsNonRoot"]


def test_traces_are_for_devices_alone() -> None:
    links = group("d", uplink={"trace": "lte"})
    spec = split_job(links, edges=[NEAR])
    objects = built(spec)
    mounted = {
        name: [one["name"] for one in made["spec"]["template"]["spec"]["volumes"]]
        for (kind, name), made in objects.items()
        if kind == "StatefulSet"
    }
    assert "trace-0" in mounted["demo-device-d"]
    assert "trace-0" not in mounted["demo-edge-near"]


@pytest.mark.parametrize(
    ("sizes", "threads"),
    [
        ({"cpu": "2"}, 2),
        ({"cpu": "500m"}, 1),
        ({"cpu": "1", "cpuLimit": "3500m"}, 3),
        ({"cpu": "2900m"}, 2),
    ],
)
def test_an_edge_computes_on_as_many_threads_as_it_has_cores(
    sizes: dict[str, str], threads: int
) -> None:
    spec = split_job(edges=[{"name": "near", **sizes}])
    (edge,) = spec.edge_groups()
    assert server_threads(edge) == threads
    (made,) = built(spec)["StatefulSet", "demo-edge-near"]["spec"]["template"]["spec"]["containers"]
    env = {one["name"]: one.get("value") for one in made["env"]}
    assert env["OMP_NUM_THREADS"] == env["OPENBLAS_NUM_THREADS"] == str(threads)
    assert env["LOCKSTEP_GROUP"] == "near"
    limits = {"cpu": sizes["cpuLimit"]} if "cpuLimit" in sizes else {}
    assert made["resources"] == {
        "requests": {"cpu": sizes["cpu"], "memory": "1Gi"},
        "limits": {"memory": "1Gi", **limits},
    }
    assert "resizePolicy" not in made


def test_edges_of_a_group_go_to_different_nodes_where_they_can() -> None:
    (constraint,) = pod("near")["spec"]["topologySpreadConstraints"]
    assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
    assert constraint["topologyKey"] == "kubernetes.io/hostname"
    labels = pod("near")["metadata"]["labels"]
    assert constraint["labelSelector"]["matchLabels"].items() <= labels.items()
    assert not constraint["labelSelector"]["matchLabels"].items() <= (
        pod("far")["metadata"]["labels"].items()
    )
    assert "topologySpreadConstraints" not in pod("far")["spec"]


@pytest.mark.parametrize(
    ("edges", "unavailable"), [([NEAR, FAR], 1), ([NEAR], 1), ([FAR], 0), ([FAR, FAR], 1)]
)
def test_drains_take_one_edge_at_a_time_and_never_the_only_one(
    edges: list[dict[str, Any]], unavailable: int
) -> None:
    named = [{**one, "name": f"e{index}"} for index, one in enumerate(edges)]
    objects = built(split_job(edges=named))
    budgets = [made for (kind, _), made in objects.items() if kind == "PodDisruptionBudget"]
    of_edges = [one for one in budgets if one["metadata"]["name"] == "demo-edges"]
    (budget,) = of_edges
    assert budget["spec"] == {
        "maxUnavailable": unavailable,
        "selector": {"matchLabels": {"lockstep.dev/job": "demo", "lockstep.dev/role": "edge"}},
    }
    assert len(budgets) == 2, "a pod that two budgets are about is never evicted"


def test_edges_of_large_jobs_are_scraped_less_often_too() -> None:
    many = [{"name": "many", "replicas": 60}]
    made = built(split_job(group("d", replicas=60), edges=many))
    for name in ("demo-edge-many", "demo-device-d"):
        notes = made["StatefulSet", name]["spec"]["template"]["metadata"]["annotations"]
        assert notes["lockstep.dev/scrape-interval"] == "3s"


def test_two_groups_that_would_have_one_name_are_refused() -> None:
    """A long name ends in a hash of the whole, and that may be written out."""
    job, long = "a-job-with-a-long-name", "edges-with-a-name-that-is-much-too-long"
    set_name = names.edge_group_name(job, long)
    spelt = set_name.removeprefix(f"{job}-edge-")
    spec = split_job(edges=[{"name": long}, {"name": spelt}])
    assert names.edge_group_name(job, spelt) == set_name
    (sentence,) = names_doubled(view(spec, job), spec)
    assert sentence == (
        f"two groups of the job would both be StatefulSet {set_name}: give one of them another name"
    )
    seen = Observed(view(spec, job), {}, (), (NODE,), None)
    decision = decide(seen, SETTINGS, now=NOW)
    assert (decision.status.phase, decision.apply) == (Phase.REFUSED, ())
    (accepted,) = [c for c in decision.status.conditions if c.type is ConditionType.ACCEPTED]
    assert sentence in accepted.message
    assert names_doubled(view(spec, "j"), spec) == []


@pytest.mark.parametrize("group_name", ["x", "edge-x", "device-x", "cloud-0", "s"])
def test_groups_of_edges_and_devices_share_no_object_of_a_job(group_name: str) -> None:
    devices = group(f"{group_name}-d", replicas=2)
    spec = split_job(devices, edges=[{"name": group_name, "replicas": 2}])
    refs = child_refs(view(spec), spec)
    assert len(set(refs)) == len(refs)
    assert names_doubled(view(spec), spec) == []


def test_jobs_whose_objects_would_have_one_name_find_them_taken() -> None:
    """Job a-device with edges x needs the set of job a with devices edge-x."""
    devices = split_job(group("edge-x"), edges=[FAR])
    edges = split_job(edges=[{"name": "x"}])
    shared = set(child_refs(view(devices, "a"), devices)) & set(
        child_refs(view(edges, "a-device"), edges)
    )
    assert {(ref.kind, ref.name) for ref in shared} == {("StatefulSet", "a-device-edge-x")}


def test_an_edges_pod_is_the_one_of_its_set() -> None:
    spec = tiered()
    pods = [names.edge_pod("demo", edge) for edge in edge_names(spec)]
    assert pods == ["demo-edge-near-0", "demo-edge-near-1", "demo-edge-far-0"]
    labels = built(spec)["StatefulSet", "demo-edge-near"]["spec"]["template"]["metadata"]["labels"]
    seen = pod_view({"metadata": {"name": pods[0], "labels": labels}, "status": {}})
    assert (seen.role, seen.group) == ("edge", "near")


def pods_of(spec: FederatedJobSpec, *, broken: str = "") -> tuple[PodView, ...]:
    words = "CrashLoopBackOff: Error, exit code 1: no memory"
    edges = [
        PodView(name, "edge", "near", "e", name != broken, words if name == broken else None)
        for name in (names.edge_pod("demo", edge) for edge in edge_names(spec))
    ]
    devices = [
        PodView(f"demo-device-d-{index}", "device", "d", "d", True, None) for index in range(2)
    ]
    return (PodView("demo-cloud-0", "cloud", "", "c", True, None), *edges, *devices)


def test_ready_counts_edges_and_clients_are_devices() -> None:
    spec = tiered()
    seen = Observed(view(spec), {}, pods_of(spec), (), None)
    assert readiness(seen, spec, found=[]).message == "all 6 pods are ready, edges 3/3"
    assert connected(seen, spec) == "2/2"


def test_an_edge_that_crashes_is_told_in_its_own_words() -> None:
    spec = tiered()
    seen = Observed(view(spec), {}, pods_of(spec, broken="demo-edge-near-1"), (), None)
    found = readiness(seen, spec, found=causes(seen))
    assert (found.status, found.reason) == ("False", "PodProblem")
    assert found.message == (
        "demo-edge-near-1: CrashLoopBackOff: Error, exit code 1: no memory; "
        "1 of 6 pods are not ready, edges 2/3: demo-edge-near-1"
    )


def test_a_quota_that_demands_a_limit_of_edges_names_their_field() -> None:
    spec, words = tiered(), "failed quota: small: must specify limits.cpu for: worker"
    made = {reference(one): one for one in built(spec).values()}
    ref = ObjectRef("apps/v1", "StatefulSet", "ml", "demo-edge-near")
    seen = Observed(view(spec), made, (), (), None, complaints={ref: Complaint("Failed", words)})
    (cause,) = causes(seen)
    assert cause.words == f"Failed: {words}; set spec.edges[].cpuLimit"
    assert PodSet(Role.EDGE, "near") in pod_sets(spec)
