"""`lockstep doctor`: each thing that can be wrong is told with what to do, and nothing else is."""

import copy
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lockstep_cli.commands.doctor import findings, screen, summary
from lockstep_cli.doctor.drift import differences
from lockstep_cli.doctor.finding import Finding, Json, Scraping, Seen, State, Unseen
from lockstep_cli.doctor.rights import OPERATOR_RIGHTS, USER_RIGHTS
from lockstep_cli.doctor.scraping import scraping_of
from lockstep_cli.prometheus import Sample
from lockstep_operator.crd import crd
from tests.support.apiserver import FakeApi, forbidden
from tests.support.cli import Lockstep, job, running_status

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
OURS = "1.2.3"


def condition(kind: str, status: str = "True", **more: str) -> Json:
    return {"type": kind, "status": status, **more}


def named(name: str, namespace: str = "", **meta: Any) -> Json:
    return {"metadata": {"name": name, "namespace": namespace, **meta}}


def node(name: str, tier: str | None = None, *, version: str = "v1.36.2", **labels: str) -> Json:
    has = labels if tier is None else {"lockstep.dev/tier": tier, **labels}
    status = {
        "conditions": [condition("Ready")],
        "nodeInfo": {"kubeletVersion": version},
        "allocatable": {"cpu": "4", "memory": "8Gi"},
    }
    return {**named(name, labels=has), "spec": {}, "status": status}


def deployment(**change: Any) -> Json:
    labels = {"app.kubernetes.io/version": OURS}
    made = named("lockstep-operator", "lockstep-system", labels=labels)
    return {**made, "spec": {"replicas": 1}, "status": {"readyReplicas": 1}, **change}


def lease(**change: Any) -> Json:
    spec = {
        "holderIdentity": "lockstep-operator-1",
        "renewTime": (NOW - timedelta(seconds=2)).isoformat(),
        "leaseDurationSeconds": 15,
        **change,
    }
    return {**named("lockstep-operator", "lockstep-system"), "spec": spec}


def storage_class(name: str, *, default: bool) -> Json:
    notes = {"storageclass.kubernetes.io/is-default-class": str(default).lower()}
    return named(name, annotations=notes)


def definition() -> Json:
    return {**copy.deepcopy(crd()), "status": {"conditions": [condition("Established")]}}


THREE = [node("a", "cloud"), node("b", "edge"), node("c", "device")]
WELL = Seen(
    now=NOW,
    ours=OURS,
    host="https://k8s",
    namespace=None,
    server_time=NOW,
    version="v1.36.2",
    core=frozenset(("pods", "pods/resize")),
    crd=definition(),
    deployments=[deployment()],
    operator_pods=[],
    leases=[lease()],
    rights=dict.fromkeys(USER_RIGHTS, True),
    operator_rights=dict.fromkeys(OPERATOR_RIGHTS, True),
    scraping=Scraping("l/p", 3, (), frozenset((("lab", "digits"),))),
    nodes=THREE,
    held={"a": 1.0},
    classes=[storage_class("local", default=True)],
    jobs=[job(status=running_status())],
    pods=[],
)


def trouble(**change: Any) -> list[Finding]:
    return [one for one in findings(replace(WELL, **change)) if one.state is not State.OK]


def test_a_cluster_where_all_is_well_says_so() -> None:
    assert trouble() == []
    assert str(summary(findings(WELL))) == "everything is well"


def test_room_is_told_by_tier() -> None:
    said = [one.said for one in findings(WELL) if one.about == "tiers"]
    assert said[0] == "cloud: 1 node, 4.0 cores, 3.0 free, 8.0 GiB"


def without(schema_path: tuple[str, ...]) -> Json:
    """The CRD without a field of its spec."""
    made = definition()
    place = made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for step in schema_path[:-1]:
        place = place["properties"][step]
    del place["properties"][schema_path[-1]]
    return made


SCALED = deployment(spec={"replicas": 0}, status={})
UNREADY = deployment(status={})
PULLING: Json = {
    **named("lockstep-operator-1", "lockstep-system"),
    "status": {
        "containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}],
    },
}
CORDONED = {**node("a", "cloud"), "spec": {"unschedulable": True}}
NOT_ACCEPTED = condition("Accepted", "False", reason="NotSupported", message="natural needs users")
REFUSED = job(status={"phase": "Refused", "conditions": [NOT_ACCEPTED]})
OLD = [*THREE, node("d", "device", version="v1.32.1")]
UNLABELLED = [node("a"), node("b")]
SLOW_PROMETHEUS = Scraping("l/p", 1, ("lab/digits-cloud-0",), frozenset((("lab", "digits"),)))
DENIED = {right: right.resource != "pods/exec" for right in USER_RIGHTS}
LAME = {right: right.resource != "statefulsets" for right in OPERATOR_RIGHTS}


@pytest.mark.parametrize(
    ("change", "about", "state", "said"),
    [
        ({"version": "v1.31.4"}, "kubernetes", State.WRONG, "older than 1.33"),
        ({"core": frozenset(("pods",))}, "resize", State.WARNING, "has no pods/resize"),
        ({"crd": without(("mode",))}, "crd", State.WRONG, "spec.mode is missing"),
        ({"server_time": NOW - timedelta(seconds=61)}, "clock", State.WARNING, "61 s ahead of"),
        ({"deployments": [SCALED]}, "operator", State.WRONG, "is scaled to 0: nobody runs jobs"),
        ({"deployments": [UNREADY], "operator_pods": [PULLING]}, "operator", State.WRONG,
         "is not ready: ImagePullBackOff"),
        ({"ours": "1.3.0"}, "version", State.WARNING, "1.3.0 here, 1.2.3 in lockstep-system"),
        ({"leases": [lease(renewTime=(NOW - timedelta(seconds=90)).isoformat())]}, "leader",
         State.WRONG, "90 s ago: nobody leads"),
        ({"leases": [lease(holderIdentity="")]}, "leader", State.WRONG, "nobody leads by lease"),
        ({"rights": DENIED}, "your rights", State.WARNING, "create pods/exec (model, report)"),
        ({"operator_rights": LAME}, "operator's rights", State.WRONG, "create statefulsets.apps"),
        ({"scraping": None}, "prometheus", State.WARNING, "the chart's Prometheus is not there"),
        ({"scraping": Unseen("HTTP 503")}, "prometheus", State.WARNING, "HTTP 503; frequencies"),
        ({"scraping": SLOW_PROMETHEUS}, "prometheus", State.WARNING, "lab/digits-cloud-0"),
        ({"scraping": Scraping("l/p", 1, (), frozenset())}, "prometheus", State.WARNING,
         "nothing is scraped of job lab/digits"),
        ({"nodes": []}, "nodes", State.WRONG, "no node is ready"),
        ({"nodes": [CORDONED, *THREE]}, "nodes", State.WARNING, "cordoned: a"),
        ({"nodes": UNLABELLED}, "tiers", State.WARNING, "no node has label lockstep.dev/tier"),
        ({"nodes": [node("a", "cloud"), node("b", "edge")]}, "tiers", State.WRONG, "tier device"),
        ({"nodes": [node("a", "cloud"), node("c", "device")]}, "tiers", State.WARNING, "tier edge"),
        ({"nodes": [*THREE, node("d", "fog")]}, "tiers", State.WARNING, "=fog is no tier"),
        ({"nodes": OLD}, "nodes", State.WARNING,
         "older than 1.33 do not resize pods: d (v1.32.1)"),
        ({"classes": []}, "storage", State.WRONG, "there is no StorageClass"),
        ({"classes": [storage_class("a", default=False)]}, "storage", State.WRONG, "(of a)"),
        ({"classes": [storage_class(name, default=True) for name in "ab"]}, "storage",
         State.WARNING, "several default"),
        ({"jobs": [REFUSED]}, "jobs", State.WARNING, "lab/digits: Refused: NotSupported: natural"),
        ({"jobs": [job()]}, "jobs", State.WRONG, "lab/digits: no operator has looked at it"),
        ({"pods": [PULLING, PULLING]}, "pods", State.WARNING, "2 of jobs: ImagePullBackOff"),
        ({"namespace": "lab", "leases": [{**lease(), **named("lockstep-operator", "b",
          annotations={"lockstep.dev/namespaces": '["b"]'})}]}, "operator", State.WRONG,
         "no operator looks after namespace lab"),
    ],
)  # fmt: skip
def test_one_thing_that_is_wrong_is_told_alone_with_what_to_do(
    change: dict[str, Any], about: str, state: State, said: str
) -> None:
    (found,) = trouble(**change)
    assert (found.about, found.state) == (about, state)
    assert said in found.said
    assert found.todo


@pytest.mark.parametrize(
    ("phase", "reason"), [("Completed", "Finished"), ("Suspended", "Suspended")]
)
def test_a_job_that_is_not_to_be_ready_is_no_trouble(phase: str, reason: str) -> None:
    ready = condition("Ready", "False", reason=reason, message="no pods")
    assert trouble(jobs=[job(status={"phase": phase, "conditions": [ready]})]) == []


def test_what_was_wrong_with_a_job_that_completed_is_over() -> None:
    stale = condition("TelemetryDegraded", reason="TelemetryMissing", message="no figures")
    assert trouble(jobs=[job(status={"phase": "Completed", "conditions": [stale]})]) == []


def test_a_failed_job_is_told_with_its_reason() -> None:
    conditions = [
        condition("Ready", "False", reason="Finished", message="the job has ended"),
        condition("Failed", reason="TrainingFailed", message="the loss is not finite"),
    ]
    (found,) = trouble(jobs=[job(status={"phase": "Failed", "conditions": conditions})])
    assert "Failed: TrainingFailed: the loss is not finite" in found.said


def test_pods_of_other_namespaces_that_do_not_answer_are_theirs() -> None:
    assert trouble(scraping=SLOW_PROMETHEUS, namespace="other", jobs=[]) == []


def watching(namespace: str, deployment: Json) -> Json:
    """An operator of one namespace alone."""
    env = [{"name": "LOCKSTEP_NAMESPACES", "value": json.dumps([namespace])}]
    template = {"spec": {"containers": [{"env": env}]}}
    return {**deployment, "spec": {**deployment["spec"], "template": template}}


def test_an_operator_of_other_namespaces_that_is_down_is_only_a_warning() -> None:
    down = [deployment(), watching("other", SCALED)]
    assert [one.state for one in trouble(deployments=down, namespace="lab")] == [State.WARNING]
    assert [one.state for one in trouble(deployments=down)] == [State.WRONG]
    mine = [deployment(), watching("lab", SCALED)]
    assert [one.state for one in trouble(deployments=mine, namespace="lab")] == [State.WRONG]


def test_where_nothing_is_installed_that_alone_is_told() -> None:
    found = trouble(crd=None, deployments=[], leases=[], scraping=None, jobs=Unseen("404"))
    assert [(one.about, one.state) for one in found] == [
        ("crd", State.WRONG),
        ("operator", State.WRONG),
    ]
    assert all("helm install" in one.todo for one in found)


def test_another_release_of_the_cluster_explains_another_crd() -> None:
    found = trouble(crd=without(("mode",)), ours="1.3.0")
    assert [(one.about, one.state) for one in found] == [
        ("crd", State.WARNING),
        ("version", State.WARNING),
    ]
    assert found[0].todo.endswith("pip install lockstep==1.2.3")


SIGHTS = "version core crd deployments leases rights operator_rights nodes classes jobs pods"


@pytest.mark.parametrize("name", SIGHTS.split())
def test_what_cannot_be_seen_is_neither_well_nor_wrong(name: str) -> None:
    found = trouble(**{name: Unseen("you are not allowed to")})
    assert {one.state for one in found} == {State.UNSEEN}
    assert "you are not allowed to" in {one.said for one in found}


def test_drift_is_told_by_field_and_texts_do_not_count() -> None:
    wanted = {"properties": {"a": {"type": "integer", "description": "x"}, "b": {"minimum": 1}}}
    found = {"properties": {"a": {"type": "integer", "description": "y"}, "c": {}}}
    assert list(differences(wanted, found)) == ["b is missing", "c is unknown here"]
    assert list(differences(wanted, wanted)) == []
    other = {"properties": {"a": wanted["properties"]["a"], "b": {"minimum": 2}}}
    assert list(differences(wanted, other)) == ["b.minimum is another"]


def test_what_is_up_says_what_is_scraped() -> None:
    labels = {"namespace": "lab", "job": "digits", "pod": "digits-cloud-0"}
    samples = [Sample(labels, 1.0), Sample({**labels, "pod": "digits-device-a-0"}, 0.0)]
    found = scraping_of(samples, where=["l", "m"])
    assert found.where == "Prometheus in l, m"
    assert (found.up, found.down) == (1, ("lab/digits-device-a-0",))
    assert ("lab", "digits") in found.jobs


@pytest.mark.parametrize("width", [60, 140])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    found = trouble(scraping=None, deployments=[SCALED], nodes=UNLABELLED)
    assert max(map(len, str(screen(found, width=width)).splitlines())) <= width


# -- through the program ------------------------------------------------------------------------


def test_a_cluster_without_lockstep_fails(lockstep: Lockstep, api: FakeApi) -> None:
    api.refuse = lambda method, path: (
        (200, {"gitVersion": "v1.36.0"}) if path == "/version" else None
    )
    ran = lockstep("doctor", "-o", "json")
    found = {one["about"]: one for one in json.loads(ran.out)}
    assert ran.code == 1
    assert found["kubernetes"]["said"].startswith("v1.36.0 at http://127.0.0.1")
    assert found["your rights"]["state"] == "ok"
    assert found["nodes"]["state"] == "wrong"


def test_who_may_see_nothing_is_told_so_and_does_not_fail(lockstep: Lockstep, api: FakeApi) -> None:
    api.refuse = lambda method, path: (
        (200, {"gitVersion": "v1.36.0"}) if path == "/version" else forbidden("no")
    )
    ran = lockstep("doctor")
    assert ran.code == 0
    assert ran.lines[-1] == "everything that was seen is well, 11 not seen"


def test_a_cluster_that_does_not_answer_ends_it(lockstep: Lockstep) -> None:
    dead = lockstep.kubeconfig.read_text().replace(lockstep.api.address, "http://127.0.0.1:9")
    lockstep.kubeconfig.write_text(dead)
    ran = lockstep("doctor")
    assert ran.code == 3
    assert "no answer from" in ran.err
