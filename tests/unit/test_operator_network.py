"""The NetworkPolicies of a job, as a table of who reaches whom, and when there are any."""

from dataclasses import astuple, replace
from typing import Any

import pytest

from lockstep_api.names import HTTP_PORT, METRICS_PORT, Role
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FederatedJobStatus
from lockstep_api.wire import Outcome
from lockstep_operator.config import NetworkConfig, OperatorConfig
from lockstep_operator.core.children import child_refs, children, trainer_job
from lockstep_operator.core.manifests import reference
from lockstep_operator.core.model import JobKey, JobView, Manifest, Settings
from lockstep_operator.core.placement import Placement, pod_sets
from lockstep_operator.core.state import JobState
from lockstep_operator.kube import job_ref, ref_of
from lockstep_operator.reconcile import reconcile
from tests.support.kube import (
    KEY,
    FakeKube,
    cluster_with,
    device_pod,
    make_deps,
)
from tests.support.manifests import MINIMAL
from tests.support.network import (
    NETWORK,
    OPERATOR,
    PROMETHEUS,
    Door,
    End,
    pod_of,
    reaches,
)

TIERED = {"mode": "hierarchical", "edges": [{"name": "near"}]}
ONLINE = {"allocation": {"policy": "ppo", "online": True}}
SETTINGS = Settings(worker_image="worker:1", planner_url="https://planner", network=NETWORK)


def view(name: str = "digits", **change: Any) -> JobView:
    spec = FederatedJobSpec.model_validate(MINIMAL | TIERED | ONLINE | change)
    return JobView(JobKey("ml", name), "uid-1", 1, spec, None, FederatedJobStatus(), 0.0)


def built(job: JobView, settings: Settings = SETTINGS) -> list[Manifest]:
    assert job.spec is not None
    placement = Placement(dict.fromkeys(pod_sets(job.spec), ("n",)))
    return list(children(job, placement, settings=settings))


def policies(job: JobView, settings: Settings = SETTINGS) -> list[Manifest]:
    return [one for one in built(job, settings) if one["kind"] == "NetworkPolicy"]


def pods(job: JobView) -> dict[str, End]:
    """By role: with the labels that its template gives it."""
    assert job.spec is not None
    trainer = trainer_job(job, job.spec, round=20, nodes=["n"], settings=SETTINGS)
    sets = [one for one in built(job) if one["kind"] == "StatefulSet"]
    return {
        one["metadata"]["labels"]["lockstep.dev/role"]: pod_of(one["spec"]["template"], "ml")
        for one in (*sets, trainer)
    }


OURS, OTHERS = pods(view()), pods(view("another"))
WHO = {
    **OURS,
    "device of another job": OTHERS["device"],
    "cloud of another job": OTHERS["cloud"],
    "same labels elsewhere": replace(OURS["device"], namespace="elsewhere"),
    "stranger": End("ml", {"app": "stranger"}),
    "stranger elsewhere": End("elsewhere", {"app": "stranger"}),
    "prometheus": End("system", PROMETHEUS),
    "labelled prometheus elsewhere": End("elsewhere", PROMETHEUS),
    "operator": End("system", OPERATOR),
    "dns": End("kube-system", {"k8s-app": "kube-dns"}),
    "dns of the node": End(address="169.254.20.10"),
    "internet": End(address="203.0.113.7"),
}
DATA, METRICS, PLANNER = Door(HTTP_PORT), Door(METRICS_PORT), Door(NETWORK.planner_port)
NAMES, NAMES_TCP = Door(53, "UDP"), Door(53)
WAYS = {
    ("device", "cloud", DATA),
    ("device", "edge", DATA),
    ("edge", "cloud", DATA),
    ("cloud", "operator", PLANNER),
    ("trainer", "operator", PLANNER),
    *(("prometheus", role, METRICS) for role in ("cloud", "edge", "device")),
    *(
        (role, dns, door)
        for role in Role
        for dns in ("dns", "dns of the node")
        for door in (NAMES, NAMES_TCP)
    ),
}
"""All that there is."""


@pytest.mark.parametrize("door", [DATA, METRICS, PLANNER, NAMES, NAMES_TCP, Door(22), Door(443)])
@pytest.mark.parametrize("role", list(Role))
def test_only_these_ways_lead_to_and_from_the_pods_of_a_job(role: Role, door: Door) -> None:
    made = policies(view())
    found = {
        (source, target, door)
        for source, one in WHO.items()
        for target, other in WHO.items()
        if source != target and role in (source, target) and reaches(made, one, other, door=door)
    }
    assert found == {way for way in WAYS if role in way[:2] and way[2] == door}


def test_a_job_without_edges_and_trainers_has_policies_for_its_two_roles() -> None:
    flat = FederatedJobSpec.model_validate(MINIMAL)
    job = JobView(JobKey("ml", "digits"), "uid-1", 1, flat, None, FederatedJobStatus(), 0.0)
    made = policies(job)
    assert [one["metadata"]["name"] for one in made] == ["digits-cloud", "digits-device"]
    assert reaches(made, OURS["device"], OURS["cloud"], door=DATA)
    assert not reaches(made, OURS["device"], WHO["internet"], door=DATA)


def test_policies_are_there_before_the_pods() -> None:
    kinds = [one["kind"] for one in built(view())]
    assert max(i for i, kind in enumerate(kinds) if kind == "NetworkPolicy") < kinds.index(
        "StatefulSet"
    )


def test_the_names_of_policies_are_the_jobs_own() -> None:
    job = view()
    assert job.spec is not None
    assert child_refs(job, job.spec) == tuple(map(reference, built(job)))


@pytest.mark.parametrize(
    ("security", "settings"),
    [({"networkPolicy": "disabled"}, SETTINGS), ({}, replace(SETTINGS, network=None))],
)
def test_none_are_made_where_the_author_or_the_administrator_wants_none(
    security: Manifest, settings: Settings
) -> None:
    assert policies(view(security=security), settings) == []


def test_further_egress_is_what_the_spec_says_and_no_more() -> None:
    further = [{"cidr": "203.0.113.0/24", "ports": [443]}, {"cidr": "198.51.100.1/32"}]
    made = policies(view(security={"egress": further}))
    for role in OURS:
        assert reaches(made, OURS[role], WHO["internet"], door=Door(443))
        assert not reaches(made, OURS[role], WHO["internet"], door=Door(80))
        assert reaches(made, OURS[role], End(address="198.51.100.1"), door=Door(9, "UDP"))


def test_a_planner_outside_of_the_cluster_is_reached_at_its_port_only() -> None:
    away = replace(SETTINGS, network=replace(NETWORK, planner=(), planner_port=9000))
    made = policies(view(), away)
    assert reaches(made, OURS["cloud"], WHO["internet"], door=Door(9000))
    assert not reaches(made, OURS["cloud"], WHO["internet"], door=Door(443))
    assert not reaches(made, OURS["device"], WHO["internet"], door=Door(9000))


def test_without_named_resolvers_anybody_may_be_asked_for_names() -> None:
    made = policies(view(), replace(SETTINGS, network=replace(NETWORK, dns=(), dns_ports=(5353,))))
    assert reaches(made, OURS["device"], WHO["internet"], door=Door(5353, "UDP"))
    assert not reaches(made, OURS["device"], WHO["internet"], door=Door(53, "UDP"))


@pytest.mark.parametrize(
    ("url", "port"),
    [(None, 8080), ("https://planner.example", 443), ("http://planner.example:9000", 9000)],
)
def test_the_operator_is_told_by_one_text(
    monkeypatch: pytest.MonkeyPatch, url: str | None, port: int
) -> None:
    monkeypatch.setenv("LOCKSTEP_NETWORK", '{"metrics": [{"podSelector": {}}], "dns_ports": [53]}')
    tls = (url or "").startswith("https:")
    config = OperatorConfig.of({"planner_url": url, "tls": tls})
    assert config.network == NetworkConfig(metrics=({"podSelector": {}},))
    network = config.settings().network
    assert network is not None
    assert (network.planner_port, network.metrics_from) == (port, ({"podSelector": {}},))


def test_an_operator_that_is_told_nothing_makes_no_policies() -> None:
    assert OperatorConfig().settings().network is None


def policies_of(kube: FakeKube) -> set[str]:
    return {ref.name for ref in kube.objects if ref.kind == "NetworkPolicy"}


async def test_policies_go_when_nobody_wants_them_any_more_and_come_back() -> None:
    kube = cluster_with()
    deps = replace(make_deps(kube), settings=SETTINGS)
    await reconcile(KEY, deps)
    assert policies_of(kube) == {"digits-cloud", "digits-device"}
    mine = next(one for ref, one in kube.objects.items() if ref.kind == "NetworkPolicy")
    foreign = {"name": "ours", "namespace": "lab", "labels": mine["metadata"]["labels"]}
    kube.put({"apiVersion": mine["apiVersion"], "kind": "NetworkPolicy", "metadata": foreign})
    job = kube.objects[job_ref(*astuple(KEY))]
    kube.put({**job, "spec": job["spec"] | {"security": {"networkPolicy": "disabled"}}})
    await reconcile(KEY, deps)
    assert policies_of(kube) == {"ours"}
    kube.put(job)
    await reconcile(KEY, deps)
    assert policies_of(kube) == {"ours", "digits-cloud", "digits-device"}


async def test_policies_stay_until_the_last_pod_of_a_job_that_has_ended_is_gone() -> None:
    kube = cluster_with()
    deps = replace(make_deps(kube), settings=SETTINGS)
    await reconcile(KEY, deps)
    pod = device_pod("digits-device-fast-0")
    kube.put(pod)
    done = Outcome(result="RoundsCompleted", message="3 rounds")
    deps.sources.reports.keep(KEY, deps.known[KEY].uid, state=JobState(outcome=done))
    await reconcile(KEY, deps)
    await reconcile(KEY, deps)
    assert policies_of(kube) == {"digits-cloud", "digits-device"}
    kube.remove(ref_of(pod))
    await reconcile(KEY, deps)
    assert policies_of(kube) == set()
