"""Properties of the operator's decisions over random jobs, clusters and reports."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lockstep_api.names import Role
from lockstep_api.quantity import parse_quantity
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FederatedJobStatus, Phase
from lockstep_api.wire import Outcome, PlanRequest, RoundReport
from lockstep_operator.core.amount import Amount
from lockstep_operator.core.decide import decide
from lockstep_operator.core.manifests import reference
from lockstep_operator.core.model import (
    Decision,
    JobKey,
    JobView,
    NodeView,
    Observed,
    PodView,
    Settings,
)
from lockstep_operator.core.placement import CLOUD_POD, Placement, PodSet, place
from lockstep_operator.core.plan import plan_round, with_applied
from lockstep_operator.core.state import JobState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
SETTINGS = Settings(worker_image="worker:1", planner_url="http://planner")
RANK = (
    None,
    Phase.PENDING,
    Phase.STARTING,
    Phase.RUNNING,
    Phase.COMPLETED,
    Phase.FAILED,
)

milli = st.integers(50, 3000).map(lambda value: f"{value}m")
memory = st.integers(64, 2048).map(lambda value: f"{value}Mi")


@st.composite
def specs(draw: st.DrawFn) -> FederatedJobSpec:
    names = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
    devices = [
        {
            "name": name,
            "replicas": draw(st.integers(1, 4)),
            "cpuAtMax": draw(milli),
            "memory": draw(memory),
        }
        for name in names
    ]
    return FederatedJobSpec.model_validate(
        {
            "model": {"name": "mlp"},
            "data": {"name": "fashion-mnist"},
            "training": {"rounds": 5},
            "cloud": {"cpu": draw(milli), "memory": draw(memory)},
            "devices": devices,
            "suspend": draw(st.sampled_from([False, False, False, True])),
        }
    )


@st.composite
def clusters(draw: st.DrawFn) -> tuple[NodeView, ...]:
    tier = st.sampled_from([None, "cloud", "edge", "device"])
    tiered = draw(st.booleans())
    nodes = []
    for index in range(draw(st.integers(0, 5))):
        label = draw(tier) if tiered else None
        cpu = draw(st.floats(0.5, 16))
        node = NodeView(
            name=f"n{index}",
            labels={} if label is None else {"lockstep.dev/tier": label},
            ready=draw(st.sampled_from([True, True, True, False])),
            taints=(),
            cpu=cpu,
            free=Amount(
                cpu * draw(st.floats(-0.1, 1)),
                draw(st.floats(0, 2.0**33)),
                draw(st.integers(0, 12)),
            ),
        )
        nodes.append(node)
    return tuple(nodes)


@st.composite
def reports(draw: st.DrawFn, spec: FederatedJobSpec) -> JobState | None:
    if draw(st.booleans()):
        return None
    round = draw(st.integers(1, 5))
    clients = [f"{g.name}-{i}" for g in spec.devices for i in range(g.replicas)]
    registrations = [{"client": c, "incarnation": "x", "examples": 1} for c in clients]
    request = PlanRequest.model_validate({"round": round, "clients": registrations})
    off = draw(st.lists(st.sampled_from(clients), unique=True))
    plan = with_applied(plan_round(spec, request), dict.fromkeys(off, "no such pod"), refusals={})
    head: dict[str, Any] = {"round": round - 1, "planned": draw(st.booleans())}
    numbers = {"seconds": 1, "elapsedSeconds": draw(st.floats(0, 1e6)), "energyJoules": {}}
    numbers["accuracy"] = draw(st.none() | st.floats(0, 1))
    done = RoundReport.model_validate({**head, **numbers, "clients": []}) if round > 1 else None
    result = draw(st.sampled_from([None, None, None, "RoundsCompleted", "Failed"]))
    end = None if result is None else Outcome.model_validate({"result": result, "message": "m"})
    moments = st.none() | st.just(NOW)
    return JobState(done, plan, end, draw(moments), draw(moments))


@st.composite
def observations(draw: st.DrawFn) -> Observed:
    spec = draw(specs())
    job = JobView(JobKey("ml", "demo"), "uid-1", 1, spec, None, FederatedJobStatus(), 0.0)
    return Observed(job, {}, draw(pods(spec)), draw(clusters()), draw(reports(spec)))


@st.composite
def pods(draw: st.DrawFn, spec: FederatedJobSpec) -> tuple[PodView, ...]:
    group = spec.devices[0]
    problem = draw(st.none() | st.just("CrashLoopBackOff: exit 1"))
    first = PodView(f"demo-device-{group.name}-0", "device", group.name, None, False, problem)
    cloud = PodView("demo-cloud-0", "cloud", "", "n0", draw(st.booleans()), None)
    return draw(st.sampled_from([(), (cloud,), (cloud, first)]))


def carried_out(seen: Observed, decision: Decision) -> Observed:
    present = dict(seen.children) | {reference(m): m for m in decision.apply}
    children = {ref: m for ref, m in present.items() if ref not in decision.delete}
    return replace(seen, job=replace(seen.job, status=decision.status), children=children)


def assert_settled(again: Decision, first: Decision) -> None:
    """Nothing is to be done any more; only reminders, which have a pace of their own, may come."""
    reminders = tuple(note for note in again.events if note.every_s)
    assert replace(again, requeue_in_s=None) == Decision((), (), first.status, reminders)


@given(seen=observations())
def test_a_decision_that_was_carried_out_asks_for_nothing(seen: Observed) -> None:
    first = decide(seen, SETTINGS, now=NOW)
    again = decide(carried_out(seen, first), SETTINGS, now=LATER)
    assert_settled(again, first)


@given(seen=observations())
def test_a_status_survives_the_way_through_the_apiserver(seen: Observed) -> None:
    status = decide(seen, SETTINGS, now=NOW).status
    assert FederatedJobStatus.model_validate_json(status.to_json()) == status


@given(data=st.data(), seen=observations())
def test_phases_never_go_back_and_every_decision_settles(
    data: st.DataObject, seen: Observed
) -> None:
    spec = seen.job.spec
    assert spec is not None
    seen = replace(seen, job=replace(seen.job, spec=spec.model_copy(update={"suspend": False})))
    ranks = [0]
    rounds = [0]
    for _ in range(5):
        decision = decide(seen, SETTINGS, now=NOW)
        ranks.append(RANK.index(decision.status.phase))
        rounds.append(decision.status.round or 0)
        seen = carried_out(seen, decision)
        assert_settled(decide(seen, SETTINGS, now=LATER), decision)
        heard, nodes = data.draw(reports(spec)), data.draw(clusters())
        seen = replace(seen, report=heard, nodes=nodes, pods=data.draw(pods(spec)))
    assert ranks == sorted(ranks)
    assert rounds == sorted(rounds)
    assert all(after == before for before, after in pairwise(ranks) if before > 3)


def least_used(spec: FederatedJobSpec, placement: Placement) -> Mapping[str, float]:
    """Cores that must be taken on single nodes: the cloud's, and those of groups on one node."""
    used: dict[str, float] = defaultdict(float)
    used[placement[CLOUD_POD][0]] += parse_quantity(spec.cloud.cpu)
    for group in spec.devices:
        if len(nodes := placement[PodSet(Role.DEVICE, group.name)]) == 1:
            used[nodes[0]] += parse_quantity(group.cpu_at_max) * group.replicas
    return used


@given(spec=specs(), nodes=clusters())
def test_placement_never_overcommits(spec: FederatedJobSpec, nodes: tuple[NodeView, ...]) -> None:
    placement = place(spec, nodes)
    if not isinstance(placement, Placement):
        assert placement.message
        return
    by_name = {node.name: node for node in nodes if node.ready}
    for name, cores in least_used(spec, placement).items():
        assert cores <= by_name[name].free.cpu + 1e-6
    free = sum(max(0.0, by_name[name].free.cpu) for name in placement.nodes())
    free_memory = sum(by_name[name].free.memory for name in placement.nodes())
    needs = [
        (parse_quantity(g.cpu_at_max), parse_quantity(g.memory), g.replicas) for g in spec.devices
    ]
    needs.append((parse_quantity(spec.cloud.cpu), parse_quantity(spec.cloud.memory), 1))
    assert sum(cpu * count for cpu, _, count in needs) <= free + 1e-6
    assert sum(size * count for _, size, count in needs) <= free_memory + 1
    assert len(placement[CLOUD_POD]) == 1
    pods = 1 + sum(group.replicas for group in spec.devices)  # some groups share their nodes
    for group in spec.devices:
        assert len(placement[PodSet(Role.DEVICE, group.name)]) <= pods


PODS_OF = ("StatefulSet", "PodDisruptionBudget")


@given(seen=observations(), heard=st.data())
def test_a_suspended_job_has_no_pods_and_keeps_its_volume(
    seen: Observed, heard: st.DataObject
) -> None:
    """Whatever it was doing before, and it comes back when there is room."""
    spec = seen.job.spec
    assert spec is not None
    awake = replace(seen, job=replace(seen.job, spec=spec.model_copy(update={"suspend": False})))
    before = carried_out(awake, decide(awake, SETTINGS, now=NOW))
    held = replace(before, job=replace(before.job, spec=spec.model_copy(update={"suspend": True})))
    decision = decide(held, SETTINGS, now=LATER)
    after = carried_out(held, decision)
    if decision.status.phase is not Phase.SUSPENDED:
        assert before.job.status.phase in {Phase.COMPLETED, Phase.FAILED}
        return
    assert not [ref for ref in after.children if ref.kind in PODS_OF]
    claims = [ref for ref in before.children if ref.kind == "PersistentVolumeClaim"]
    assert [ref for ref in after.children if ref.kind == "PersistentVolumeClaim"] == claims
    assert decision.status.round == before.job.status.round
    assert_settled(decide(after, SETTINGS, now=LATER), decision)
    resumed = replace(after, job=replace(after.job, spec=awake.job.spec), report=None)
    again = decide(resumed, SETTINGS, now=LATER)
    assert again.status.phase in {Phase.STARTING, Phase.PENDING}
    if before.job.status.placement and again.status.phase is Phase.STARTING:
        assert again.status.placement is not None
        assert again.status.placement[0] == before.job.status.placement[0]


@given(seen=observations(), ttl=st.integers(0, 7200), waited_s=st.integers(0, 7200))
def test_a_finished_job_goes_when_its_time_is_over(seen: Observed, ttl: int, waited_s: int) -> None:
    spec = seen.job.spec
    assert spec is not None
    kept = spec.model_copy(update={"ttl_seconds_after_finished": ttl, "suspend": False})
    heard = JobState(outcome=Outcome.model_validate({"result": "Failed", "message": "m"}))
    seen = replace(seen, job=replace(seen.job, spec=kept), report=heard)
    first = decide(seen, SETTINGS, now=NOW)
    assert (first.status.phase, first.delete_job) == (Phase.FAILED, False)
    assert first.requeue_in_s == ttl
    later = decide(carried_out(seen, first), SETTINGS, now=NOW + timedelta(seconds=waited_s))
    assert later.delete_job == (waited_s >= ttl)
    assert later.requeue_in_s == max(0, ttl - waited_s)


@given(seen=observations(), limit=st.integers(1, 7200), waited_s=st.integers(0, 7200))
def test_a_job_fails_when_it_was_active_for_too_long(
    seen: Observed, limit: int, waited_s: int
) -> None:
    spec = seen.job.spec
    assert spec is not None
    limited = spec.model_copy(update={"active_deadline_seconds": limit, "suspend": False})
    seen = replace(seen, job=replace(seen.job, spec=limited), report=None)
    first = decide(seen, SETTINGS, now=NOW)
    later = decide(carried_out(seen, first), SETTINGS, now=NOW + timedelta(seconds=waited_s))
    active = first.status.active_time is not None
    assert (later.status.phase is Phase.FAILED) == (active and waited_s >= limit)
    if later.status.phase is Phase.FAILED:
        failed = next(c for c in later.status.conditions if c.type == "Failed")
        assert failed.reason == "DeadlineExceeded"
        assert not [r for r in carried_out(seen, later).children if r.kind in PODS_OF]
    elif active:
        assert later.requeue_in_s is not None
        assert later.requeue_in_s <= limit - waited_s
