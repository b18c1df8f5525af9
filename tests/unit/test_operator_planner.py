"""The planner over HTTP: who may call, what a plan does, when an outcome is taken, the probes."""

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from lockstep_allocator.experience import Experience
from lockstep_allocator.policy import SHIPPED, Policy, read_policy
from lockstep_api import names
from lockstep_operator.actuate import Resizer
from lockstep_operator.auth import CACHE_S, Authenticator, Unauthenticated
from lockstep_operator.core.model import JobReport, Manifest, ObjectRef
from lockstep_operator.errors import Refused, Unavailable
from lockstep_operator.kube import User, job_ref
from lockstep_operator.observe import condition as find
from lockstep_operator.observe import parse_spec
from lockstep_operator.planner import Planner, planner_app
from lockstep_operator.policies import BEGAN_WITH, Policies, PolicyUnavailable
from lockstep_operator.policy_learning import PolicyLearning
from lockstep_operator.reconcile import Deps, reconcile
from lockstep_operator.runtime import Runtime
from tests.support.kube import (
    KEY,
    FakeKube,
    cluster_with,
    device_pod,
    failing,
    job_body,
    make_deps,
    status_of,
)

PLAN = names.PLAN_ROUTE.format(namespace="lab", job="digits")
OUTCOME = names.OUTCOME_ROUTE.format(namespace="lab", job="digits")
POLICY = names.POLICY_ROUTE.format(namespace="lab", job="digits")
CLOUD_USER = "system:serviceaccount:lab:digits-cloud"
POD_0, POD_1 = "digits-device-fast-0", "digits-device-fast-1"
DONE = {"result": "RoundsCompleted", "message": "3 of 3 rounds"}


@dataclass
class Setup:
    """A planner, its cluster and a client with the cloud pod's token."""

    kube: FakeKube
    deps: Deps
    planner: Planner
    http: httpx2.AsyncClient

    @property
    def report(self) -> JobReport | None:
        uid = self.kube.objects[job_ref("lab", "digits")]["metadata"]["uid"]
        return self.deps.sources.reports.get(uid)

    def sample(self, name: str) -> float | None:
        return self.deps.metrics.registry.get_sample_value(name)


def client(planner: Planner, token: str | None = "cloud") -> httpx2.AsyncClient:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    transport = httpx2.ASGITransport(app=planner_app(planner))
    return httpx2.AsyncClient(transport=transport, base_url="http://planner", headers=headers)


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    kube = cluster_with(None, device_pod(POD_0), device_pod(POD_1))
    owner = {
        "kind": names.KIND,
        "uid": kube.objects[job_ref("lab", "digits")]["metadata"]["uid"],
        "controller": True,
    }
    for role in ("cloud", "device", "trainer"):
        meta: Manifest = {"name": f"digits-{role}", "namespace": "lab", "ownerReferences": [owner]}
        meta["labels"] = {names.JOB_LABEL: KEY.name}
        kube.put({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
        kube.account(role, f"digits-{role}")
    deps = make_deps(kube)
    runtime = Runtime(partial(reconcile, deps=deps), deps.metrics, resync_s=100)
    planner = Planner(
        deps=deps,
        runtime=runtime,
        resizer=Resizer(kube, deps.metrics, wait_s=0.05),
        authenticator=Authenticator(kube),
        prometheus=None,
        policies=(policies := Policies(kube)),
        learning=PolicyLearning(deps, policies),
        watching=lambda: True,
        ready=lambda: True,
        leads=lambda: True,
        resync_s=100,
    )
    async with client(planner) as http:
        yield Setup(kube, deps, planner, http)
    await runtime.shutdown()


def request(round: int = 1, *clients: str, report: Manifest | None = None) -> Manifest:
    registered = [
        {"client": name, "incarnation": "a", "examples": 10, "labelHistogram": []}
        for name in clients or ("fast-0", "fast-1")
    ]
    return {"round": round, "clients": registered, "report": report}


def report(round: int, ghz: float, *, clients: tuple[str, ...] = ("fast-0",)) -> Manifest:
    energy: Manifest = {"model": 1.0}
    update: Manifest = {
        "round": round, "examples": 10, "steps": 10, "trainLoss": 1.0,
        "downloadSeconds": 0.1, "computeSeconds": 1.0, "cpuSeconds": 0.5, "throttledSeconds": 0.0,
        "frequencyGHz": ghz, "energyJoules": energy,
    }  # fmt: skip
    arrived = [
        {
            "update": {"client": client, **update}, "arrivedSeconds": 1.2, "uploadSeconds": 0.1,
            "bytes": 100,
        }
        for client in clients
    ]  # fmt: skip
    return {
        "round": round, "planned": True, "seconds": 1.3, "elapsedSeconds": 1.3,
        "clients": arrived, "accuracy": 0.5, "loss": 1.0, "energyJoules": energy,
    }  # fmt: skip


async def test_a_plan_is_answered_with_its_limits_in_force(setup: Setup) -> None:
    answer = await setup.http.post(PLAN, json=request())
    assert answer.status_code == 200
    plan = answer.json()
    assert [entry["client"] for entry in plan["participants"]] == ["fast-0", "fast-1"]
    assert all(entry["applied"] for entry in plan["participants"])
    assert [name for verb, name in setup.kube.writes if verb == "resize"] == [
        f"Pod/{POD_0}",
        f"Pod/{POD_1}",
    ]
    assert setup.sample("lockstep_plan_seconds_count") == 1


async def test_a_limit_that_is_not_in_force_is_in_the_answer(setup: Setup) -> None:
    setup.kube.fail = failing("resize", Unavailable("connection lost"), POD_1)
    plan = (await setup.http.post(PLAN, json=request())).json()
    entry = plan["participants"][1]
    assert (entry["applied"], entry["reason"]) == (False, "resize failed: connection lost")


async def test_where_a_resize_is_refused_the_device_throttles_and_one_event_says_so(
    setup: Setup,
) -> None:
    setup.kube.fail = failing("resize", Refused("may not resize"), POD_1)
    for round in (1, 2):
        plan = (await setup.http.post(PLAN, json=request(round))).json()
    first, second = plan["participants"]
    assert (first["actuator"], first["applied"]) == ("resize", True)
    assert (second["actuator"], second["applied"]) == ("cooperative", True)
    assert second["reason"] == "resize refused: may not resize"
    await setup.planner.runtime.pass_now(KEY)
    shown = status_of(setup.kube)["lastPlan"]["clients"]
    assert [one["actuator"] for one in shown] == ["resize", "cooperative"]
    degraded = find(status_of(setup.kube), "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "CooperativeThrottling")
    told = [event["reason"] for event in setup.kube.events]
    assert told.count("CooperativeThrottling") == 1


async def test_a_cooperative_job_is_never_resized_and_not_degraded(setup: Setup) -> None:
    setup.kube.put(
        {
            **setup.kube.objects[job_ref("lab", "digits")],
            "spec": job_body(allocation={"actuator": "cooperative"})["spec"],
        }
    )
    setup.kube.fail = failing("list", Unavailable("not needed"), "Pod")
    plan = (await setup.http.post(PLAN, json=request())).json()
    assert all(e["actuator"] == "cooperative" and e["applied"] for e in plan["participants"])
    setup.kube.fail = lambda verb, name: None
    await setup.planner.runtime.pass_now(KEY)
    assert all(verb != "resize" for verb, _ in setup.kube.writes)
    assert find(status_of(setup.kube), "Degraded")["status"] == "False"


def allocated(setup: Setup, **allocation: Any) -> None:
    """The job gets another allocation."""
    body = setup.kube.objects[job_ref("lab", "digits")]
    setup.kube.put({**body, "spec": job_body(allocation=allocation)["spec"]})


async def test_without_prometheus_reports_stand_in_and_a_condition_says_so(setup: Setup) -> None:
    allocated(setup, policy="equalize", energyWeight=100)
    await setup.http.post(PLAN, json=request())
    plan = (await setup.http.post(PLAN, json=request(2, report=report(1, ghz=2.0)))).json()
    ranges = {group.name: group.frequency for group in parse_spec(job_body()["spec"]).devices}
    assert plan["participants"][0]["frequencyGHz"] == ranges["fast"].min_ghz  # energy is dear
    await setup.planner.runtime.pass_now(KEY)
    found = find(status_of(setup.kube), "TelemetryDegraded")
    assert (found["status"], found["reason"]) == ("True", "TelemetryMissing")
    assert found["message"].startswith("no Prometheus is configured")


async def test_a_policy_that_needs_no_telemetry_says_so(setup: Setup) -> None:
    await setup.http.post(PLAN, json=request())
    await setup.planner.runtime.pass_now(KEY)
    found = find(status_of(setup.kube), "TelemetryDegraded")
    assert (found["status"], found["reason"]) == ("False", "NotNeeded")


def policy_map(content: bytes, **more: str) -> Manifest:
    data = {"policy.safetensors": base64.b64encode(content).decode(), **more}
    meta = {"name": "mine", "namespace": "lab", "resourceVersion": "1"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "binaryData": data}


@pytest.mark.parametrize(
    ("policy", "reference", "message"),
    [
        (None, "mine", "there is no ConfigMap mine"),
        (policy_map(b"garbage"), "mine", "ConfigMap mine is no policy file"),
        (policy_map(b"", other=""), "mine", "has 2 entries of binaryData instead of one"),
        (None, "volume/mine", "the operator has no volume of policies"),
    ],
)
async def test_a_policy_that_cannot_be_used_is_replaced_with_one_event(
    setup: Setup, policy: Manifest | None, reference: str, message: str
) -> None:
    if policy is not None:
        setup.kube.put(policy)
    allocated(setup, policy="ppo", policyRef=reference)
    for round in (1, 2):
        answer = await setup.http.post(PLAN, json=request(round))
        assert answer.status_code == 200
    told = [event for event in setup.kube.events if event["reason"] == "PolicyUnavailable"]
    assert len(told) == 1
    assert told[0]["type"] == "Warning"
    assert message in told[0]["message"]
    assert told[0]["message"].startswith("policy equalize stands in for ppo")


@pytest.mark.parametrize("reference", [None, "mine", "volume/mine.safetensors"])
async def test_policies_come_from_the_package_a_config_map_or_a_volume(
    setup: Setup, reference: str | None, tmp_path: Path
) -> None:
    setup.kube.put(policy_map(SHIPPED.read_bytes()))
    (tmp_path / "mine.safetensors").write_bytes(SHIPPED.read_bytes())
    policies = Policies(setup.kube, tmp_path)
    found = await policies.of(KEY, reference)
    assert found.training == read_policy(SHIPPED).training
    setup.kube.fail = failing("get", Unavailable("it was read before"))
    assert await policies.of(KEY, reference) is found  # read once


async def test_a_round_is_planned_around_a_device_that_cannot_be_changed(setup: Setup) -> None:
    allocated(setup, policy="equalize", energyWeight=0)
    setup.kube.fail = failing("resize", Unavailable("connection lost"), POD_0)
    await setup.http.post(PLAN, json=request())
    plan = (await setup.http.post(PLAN, json=request(2, report=report(1, ghz=0.6)))).json()
    stuck, other = plan["participants"]
    assert (stuck["client"], stuck["applied"]) == ("fast-0", False)
    assert stuck["frequencyGHz"] == 2.0  # what it should have, once it can
    assert other["frequencyGHz"] == pytest.approx(0.6)  # no reason to be faster than fast-0


async def test_a_plan_reaches_the_status(setup: Setup) -> None:
    await setup.http.post(PLAN, json=request())
    await setup.planner.runtime.pass_now(KEY)
    assert status_of(setup.kube)["lastPlan"]["round"] == 1
    assert status_of(setup.kube)["startTime"] == "2026-01-02T03:04:05Z"


async def test_a_report_with_another_frequency_is_counted_once(setup: Setup) -> None:
    await setup.http.post(PLAN, json=request())
    for _ in range(2):
        await setup.http.post(PLAN, json=request(2, report=report(1, ghz=0.3)))
    assert setup.sample("lockstep_frequency_mismatches_total") == 1
    assert setup.report is not None
    assert list(setup.report.mismatches) == ["fast-0"]


async def test_a_client_of_no_group_is_refused_in_words(setup: Setup) -> None:
    answer = await setup.http.post(PLAN, json=request(1, "ghost-0"))
    assert answer.status_code == 422
    assert "ghost-0" in answer.json()["message"]


async def test_a_body_that_is_no_request_is_refused(setup: Setup) -> None:
    assert (await setup.http.post(PLAN, json={"round": 0})).status_code == 422


async def test_a_job_that_does_not_exist(setup: Setup) -> None:
    setup.kube.remove(job_ref("lab", "digits"))
    assert (await setup.http.post(PLAN, json=request())).status_code == 404


@pytest.mark.parametrize("phase", ["Completed", "Failed", "Refused"])
async def test_a_job_that_takes_no_rounds(setup: Setup, phase: str) -> None:
    stored = setup.kube.objects[job_ref("lab", "digits")]
    setup.kube.put({**stored, "status": {"phase": phase}})
    answer = await setup.http.post(PLAN, json=request())
    assert answer.status_code == 409
    assert phase in answer.json()["message"]


async def test_kubernetes_does_not_answer(setup: Setup) -> None:
    setup.kube.fail = failing("list", Unavailable("connection lost"), "Pod")
    answer = await setup.http.post(PLAN, json=request())
    assert (answer.status_code, answer.json()) == (503, {"message": "connection lost"})


async def test_an_outcome_is_taken_when_it_is_in_the_status(setup: Setup) -> None:
    await setup.http.post(PLAN, json=request())
    answer = await setup.http.post(OUTCOME, json=DONE | {"report": report(3, 1.0)})
    assert answer.status_code == 200
    assert status_of(setup.kube)["phase"] == "Completed"
    assert status_of(setup.kube)["round"] == 3


async def test_a_repeated_outcome_is_taken_again(setup: Setup) -> None:
    for _ in range(2):
        assert (await setup.http.post(OUTCOME, json=DONE)).status_code == 200


async def test_an_outcome_is_not_taken_while_the_status_cannot_be_written(setup: Setup) -> None:
    setup.kube.fail = failing("status", Unavailable("connection lost"))
    assert (await setup.http.post(OUTCOME, json=DONE)).status_code == 503
    setup.kube.fail = lambda verb, name: None
    assert (await setup.http.post(OUTCOME, json=DONE)).status_code == 200


@pytest.mark.parametrize(
    ("token", "status"), [(None, 401), ("made-up", 401), ("device", 403), ("cloud", 200)]
)
@pytest.mark.parametrize("route", [PLAN, OUTCOME])
async def test_only_the_cloud_pod_may_call(
    setup: Setup, token: str | None, status: int, route: str
) -> None:
    async with client(setup.planner, token) as http:
        body: Any = request() if route == PLAN else DONE
        answer = await http.post(route, json=body)
    assert answer.status_code == status
    assert status == 200 or answer.json()["message"]


async def test_the_cloud_pod_of_another_job_may_not_call(setup: Setup) -> None:
    setup.kube.users["cloud"] = User("system:serviceaccount:lab:other-cloud", "x")
    assert (await setup.http.post(PLAN, json=request())).status_code == 403


async def test_the_check_can_be_switched_off(setup: Setup) -> None:
    async with client(replace(setup.planner, authenticator=None), None) as http:
        assert (await http.post(PLAN, json=request())).status_code == 200


async def test_a_token_is_reviewed_once_a_minute() -> None:
    now = [0.0]
    kube = FakeKube(users={"cloud": User(CLOUD_USER, "x")})
    checked = Authenticator(kube, clock=lambda: now[0])
    for moment in (0.0, CACHE_S - 1, CACHE_S + 1):
        now[0] = moment
        await checked.check(KEY, "Bearer cloud")
    assert kube.reviews == [("cloud", names.PLANNER_AUDIENCE)] * 2


async def test_a_refused_token_is_reviewed_every_time() -> None:
    kube = FakeKube()
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await Authenticator(kube).check(KEY, "Bearer made-up")
    assert len(kube.reviews) == 2


async def test_health_is_the_age_of_the_last_pass(setup: Setup) -> None:
    answer = await setup.http.get("/healthz")
    assert answer.status_code == 200
    assert answer.json()["lastPassAgeSeconds"] >= 0


async def test_a_dead_watch_is_unhealthy(setup: Setup) -> None:
    async with client(replace(setup.planner, watching=lambda: False)) as http:
        assert (await http.get("/healthz")).status_code == 503


async def test_no_pass_for_long_is_unhealthy_only_with_jobs(setup: Setup) -> None:
    async with client(replace(setup.planner, resync_s=-1.0)) as http:
        assert (await http.get("/healthz")).status_code == 200
        await setup.planner.runtime.pass_now(KEY)
        assert (await http.get("/healthz")).status_code == 503


async def test_readiness_needs_the_watch(setup: Setup) -> None:
    assert (await setup.http.get("/readyz")).status_code == 200
    async with client(replace(setup.planner, ready=lambda: False)) as http:
        assert (await http.get("/readyz")).status_code == 503


async def test_metrics_count_jobs_by_phase(setup: Setup) -> None:
    await setup.planner.runtime.pass_now(KEY)
    text = (await setup.http.get("/metrics")).text
    assert 'lockstep_jobs{phase="Starting"} 1.0' in text
    assert "lockstep_queue_depth 0.0" in text


async def test_an_unreadable_spec_is_refused_with_its_path(setup: Setup) -> None:
    setup.kube.put(_with_uid(setup, job_body(devices=[])))
    answer = await setup.http.post(PLAN, json=request())
    assert answer.status_code == 422
    assert "spec.devices" in answer.json()["message"]


def _with_uid(setup: Setup, job: Manifest) -> Manifest:
    job["metadata"]["uid"] = setup.kube.objects[job_ref("lab", "digits")]["metadata"]["uid"]
    return job


async def test_the_cloud_pod_of_a_deleted_job_does_not_speak_for_the_next_of_its_name(
    setup: Setup,
) -> None:
    assert (await setup.http.post(PLAN, json=request())).status_code == 200
    setup.kube.put(job_body() | {"metadata": job_body()["metadata"] | {"uid": "new"}})

    async def statuses() -> list[int]:
        calls = ((PLAN, request(7)), (OUTCOME, DONE))
        return [(await setup.http.post(route, json=body)).status_code for route, body in calls]

    assert await statuses() == [403, 403]
    await setup.planner.runtime.pass_now(KEY)  # deletes what is left of the old job
    assert await statuses() == [403, 403]
    await setup.planner.runtime.pass_now(KEY)
    assert await statuses() == [403, 403]
    assert status_of(setup.kube)["phase"] == "Starting"
    assert setup.deps.sources.reports.get("new") is None
    setup.kube.account("cloud", "digits-cloud")
    async with client(replace(setup.planner, authenticator=Authenticator(setup.kube))) as http:
        assert (await http.post(PLAN, json=request())).status_code == 200


async def test_notices_become_events_once(setup: Setup) -> None:
    notice = {"type": "Warning", "reason": "CheckpointCorrupt", "message": "round 7 is damaged"}
    for _ in range(2):
        answer = await setup.http.post(PLAN, json={**request(1), "notices": [notice]})
        assert answer.status_code == 200
    told = [event for event in setup.kube.events if event["reason"] == "CheckpointCorrupt"]
    assert [(event["type"], event["message"]) for event in told] == [
        ("Warning", "round 7 is damaged")
    ]


async def test_a_checkpoint_that_is_not_written_degrades_the_job(setup: Setup) -> None:
    problem = "the checkpoint of round 2 cannot be written: No space left on device"
    await setup.http.post(PLAN, json={**request(3), "checkpointProblem": problem})
    await setup.planner.runtime.pass_now(KEY)
    found = find(status_of(setup.kube), "Degraded")
    assert (found["status"], found["reason"]) == ("True", "CheckpointFailed")
    assert problem in found["message"]
    await setup.http.post(PLAN, json=request(4))
    assert setup.report is not None
    assert setup.report.checkpoint_problem is None


async def test_who_does_not_lead_plans_nothing(setup: Setup) -> None:
    planner = replace(setup.planner, leads=lambda: False)
    async with client(planner) as http:
        for path, body in ((PLAN, request(1)), (OUTCOME, DONE)):
            answer = await http.post(path, json=body)
            assert answer.status_code == 503
            assert answer.headers["connection"] == "close"
            assert "does not lead" in answer.json()["message"]
    assert [verb for verb, _ in setup.kube.writes if verb != "apply"] == []


# -- learning on the job -------------------------------------------------------------------------

BOTH = ("fast-0", "fast-1")
EXPERIENCE = ObjectRef("v1", "ConfigMap", "lab", "digits-experience")


async def play(setup: Setup, rounds: range) -> None:
    """Rounds of both devices, as their cloud pod would report them."""
    for round in rounds:
        done = report(round - 1, 2.0, clients=BOTH) if round > 1 else None
        answer = await setup.http.post(PLAN, json=request(round, report=done))
        assert answer.status_code == 200


async def online(setup: Setup, **allocation: Any) -> None:
    """The job learns, and has a place."""
    allocated(setup, policy="ppo", online=True, **allocation)
    await setup.planner.runtime.pass_now(KEY)


async def offer(setup: Setup, policy: Policy, token: str = "trainer") -> httpx2.Response:
    headers = {"authorization": f"Bearer {token}"}
    return await setup.http.post(POLICY, content=policy.to_bytes(), headers=headers)


def slow(policy: Policy) -> Policy:
    """One that lets every device compute as long as it may."""
    last = {"leave.2.bias": np.array([9, -9, 0], np.float32)}
    return replace(policy, weights={**policy.weights, **last})


def told(setup: Setup, reason: str) -> list[str]:
    return [event["message"] for event in setup.kube.events if event["reason"] == reason]


async def test_every_20_rounds_a_trainer_learns_from_what_was_recorded(setup: Setup) -> None:
    await online(setup)
    await play(setup, range(1, 22))
    assert ObjectRef("batch/v1", "Job", "lab", "digits-trainer-20") not in setup.kube.objects
    await play(setup, range(22, 23))  # of round 1 nobody knew how long a step takes
    trainer = setup.kube.objects[ObjectRef("batch/v1", "Job", "lab", "digits-trainer-21")]
    pod = trainer["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "digits-trainer"
    assert pod["containers"][0]["args"] == ["trainer"]
    sources = next(v for v in pod["volumes"] if v["name"] == "experience")["projected"]["sources"]
    files = {
        name: content
        for source in sources
        for name, content in setup.kube.objects[
            ObjectRef("v1", "ConfigMap", "lab", source["configMap"]["name"])
        ]["binaryData"].items()
    }
    rounds = Experience.from_bytes(base64.b64decode(files[names.EXPERIENCE_FILE]))
    assert [record.round for record in rounds.records] == list(range(2, 22))
    began = Policy.from_bytes(base64.b64decode(files[names.POLICY_FILE]), source="test")
    assert began.training == read_policy(SHIPPED).training
    assert told(setup, "TrainerStarted") == ["digits-trainer-21 learns from the last 20 rounds"]
    await play(setup, range(23, 42))
    assert told(setup, "TrainerSilent") == []
    await play(setup, range(42, 43))
    assert told(setup, "TrainerSilent") == [
        "digits-trainer-21 gave no policy: kubectl logs job/digits-trainer-21 says why"
    ]


async def test_a_job_that_does_not_ask_for_it_records_nothing(setup: Setup) -> None:
    allocated(setup, policy="ppo")
    await setup.planner.runtime.pass_now(KEY)
    await play(setup, range(1, 24))
    assert EXPERIENCE not in setup.kube.objects
    assert (await offer(setup, read_policy(SHIPPED))).status_code == 409


async def test_a_restarted_operator_goes_on_with_the_rounds_that_were_recorded(
    setup: Setup,
) -> None:
    await online(setup)
    await play(setup, range(1, 12))
    policies = Policies(setup.kube)
    anew = replace(setup.planner, policies=policies, learning=PolicyLearning(setup.deps, policies))
    async with client(anew) as http:
        again = Setup(setup.kube, setup.deps, anew, http)
        await play(again, range(12, 24))
    assert told(setup, "TrainerStarted") == ["digits-trainer-22 learns from the last 20 rounds"]


async def test_a_policy_is_taken_up_only_if_the_recorded_rounds_had_not_cost_more(
    setup: Setup,
) -> None:
    await online(setup, energyWeight=0)
    await play(setup, range(1, 23))
    shipped = read_policy(SHIPPED)
    same = await offer(setup, shipped)
    assert same.json() == {
        "taken": False,
        "message": "20 rounds taught nothing that is surely better: the policy stays",
    }
    worse = (await offer(setup, slow(shipped))).json()
    assert not worse["taken"]
    assert "the policy stays, the one that was learnt is worse" in worse["message"]
    before = await setup.planner.policies.learnt(KEY, None)
    assert before is not None
    assert (before.weights["leave.2.bias"] == shipped.weights["leave.2.bias"]).all()
    allocated(setup, policy="ppo", online=True, energyWeight=1e6)  # being slow is worth it now
    await play(setup, range(23, 125))
    better = (await offer(setup, slow(shipped))).json()
    assert better["taken"]
    assert "the policy that was learnt is used from now on" in better["message"]
    assert len(told(setup, "PolicyUpdated")) == 1
    assert len(told(setup, "PolicyKept")) == 2
    assert setup.sample("lockstep_policies_offered_total") is None  # by verdict only
    learnt = await setup.planner.policies.learnt(KEY, None)
    assert learnt is not None
    assert learnt.weights["leave.2.bias"].tolist() == [9, -9, 0]
    # A job that asks for another policy begins with that.
    assert await setup.planner.policies.learnt(KEY, "mine") is None


async def test_what_another_policy_learnt_does_not_matter_even_if_it_is_damaged(
    setup: Setup,
) -> None:
    damaged = policy_map(b"garbage")
    damaged["metadata"]["name"] = "digits-policy"
    setup.kube.put({**damaged, "data": {BEGAN_WITH: "other"}})
    assert await setup.planner.policies.learnt(KEY, None) is None
    with pytest.raises(PolicyUnavailable, match="is no policy file"):
        await setup.planner.policies.learnt(KEY, "other")


async def test_what_was_learnt_is_given_up_when_the_rounds_say_so(setup: Setup) -> None:
    await online(setup, energyWeight=1e6)
    await play(setup, range(1, 23))
    shipped = read_policy(SHIPPED)
    assert (await offer(setup, slow(shipped))).json()["taken"]
    allocated(setup, policy="ppo", online=True, energyWeight=0)
    await play(setup, range(23, 125))
    back = (await offer(setup, slow(shipped))).json()
    assert not back["taken"]
    assert "back to the policy that the job began with" in back["message"]
    learnt = await setup.planner.policies.learnt(KEY, None)
    assert learnt is not None
    assert learnt.weights["leave.2.bias"].tolist() == shipped.weights["leave.2.bias"].tolist()


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"garbage", 422, "the policy offered is no policy file"),
        (SHIPPED.read_bytes()[:-4], 422, "the policy offered is damaged"),
    ],
)
async def test_an_offer_that_is_no_policy_is_refused(
    setup: Setup, content: bytes, status: int, message: str
) -> None:
    await online(setup)
    headers = {"authorization": "Bearer trainer"}
    answer = await setup.http.post(POLICY, content=content, headers=headers)
    assert answer.status_code == status
    assert message in answer.json()["message"]


@pytest.mark.parametrize("token", ["cloud", "device"])
async def test_only_the_trainer_offers_policies(setup: Setup, token: str) -> None:
    await online(setup)
    assert (await offer(setup, read_policy(SHIPPED), token)).status_code == 403
    headers = {"authorization": "Bearer trainer"}
    refused = await setup.http.post(PLAN, json=request(), headers=headers)
    assert refused.status_code == 403


async def test_rounds_that_cannot_be_written_are_written_with_the_next(setup: Setup) -> None:
    await online(setup)
    setup.kube.fail = failing("apply", Unavailable("etcd is full"), "digits-experience")
    await play(setup, range(1, 6))
    assert EXPERIENCE not in setup.kube.objects
    setup.kube.fail = lambda verb, name: None
    await play(setup, range(6, 7))
    content = setup.kube.objects[EXPERIENCE]["binaryData"][names.EXPERIENCE_FILE]
    rounds = Experience.from_bytes(base64.b64decode(content))
    assert [record.round for record in rounds.records] == [2, 3, 4, 5]


async def test_damaged_rounds_begin_anew(setup: Setup) -> None:
    await online(setup)
    meta = {"name": EXPERIENCE.name, "namespace": "lab"}
    setup.kube.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "binaryData": {}})
    await play(setup, range(1, 5))
    content = setup.kube.objects[EXPERIENCE]["binaryData"][names.EXPERIENCE_FILE]
    assert len(Experience.from_bytes(base64.b64decode(content))) == 2
