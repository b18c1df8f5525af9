"""Why a round was planned as it was: the bound that binds, what others would have cost."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_allocator.baselines import equalize_10s, maximum
from lockstep_allocator.fleet import Method as Gives
from lockstep_allocator.observation import EDGES_S, Observation
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FederatedJobStatus
from lockstep_api.wire import RoundPlan
from lockstep_operator.core.allocate import groups_by_client
from lockstep_operator.core.alternatives import Alternative, Method, alternatives
from lockstep_operator.core.explain import Bound, ClientExplanation, explained, explained_now
from lockstep_operator.core.insight import ClientInsight, Insight, Member, observation_of
from lockstep_operator.core.plan import plan_round, replanned, with_applied
from lockstep_operator.core.state import JobState
from lockstep_operator.core.status import newest_of, with_progress
from lockstep_operator.errors import UnfitRequest
from tests.support.decisions import NOW
from tests.support.recorded import Recorded, federated, split
from tests.support.tiered import asking, group, split_job

SLOTS = len(EDGES_S) - 1
NAMES = ("fast-0", "fast-1", "slow-0", "slow-1")
STEPS = 10


def spec(policy: str = "equalize", *, weight: float = 0.3, **more: Any) -> FederatedJobSpec:
    """Two devices of a core and two of half a core, each from 0.2 to 2 GHz."""
    return FederatedJobSpec.model_validate(
        {
            "model": {"name": "mlp"}, "data": {"name": "fashion-mnist"},
            "training": {"rounds": 3, "localSteps": more.pop("steps", {"fixed": STEPS})},
            "allocation": {"policy": policy, "energyWeight": weight},
            "devices": [group("fast", replicas=2), group("slow", "500m", replicas=2)], **more,
        }
    )  # fmt: skip


def seen(mbps: float = 8.0, *, mbit: float = 8.0, work: float = 0.1) -> ClientInsight:
    """What is known of a device."""
    return ClientInsight(slots_mbps=(mbps,) * SLOTS, work_per_step=work, upload_mbit=mbit)


def known(**changes: ClientInsight) -> Insight:
    """All as usual, but for these."""
    told = {name.replace("_", "-"): one for name, one in changes.items()}
    return Insight({name: told.get(name, seen()) for name in NAMES})


def planned(
    job: FederatedJobSpec, insight: Insight | None = None, *, policy: Gives | None = None
) -> RoundPlan:
    """A plan that is in force."""
    asked = asking(job, round=2, edges=())
    plan = plan_round(job, asked, insight=insight or Insight(), policy=policy)
    return with_applied(plan, {}, refusals={})


def of(clients: tuple[ClientExplanation, ...], client: str) -> ClientExplanation:
    """The one of a client."""
    return next(one for one in clients if one.client == client)


def by_method(found: tuple[Alternative, ...]) -> dict[Method, Alternative]:
    """The alternatives of a plan."""
    return {one.method: one for one in found}


# -- the bound that binds --------------------------------------------------------------------


CASES = [
    (spec(weight=0.01), known(), "slow-0", Bound.HIGHEST,
     "at its highest frequency it is in after 3 s: the round waits for it"),
    (spec(weight=0.01), known(), "fast-0", Bound.LEVELLED,
     "it runs so slowly that it is in with the last, after 3 s"),
    (spec(weight=0.01), known(fast_0=seen(work=0.01)), "fast-0", Bound.LOWEST,
     "at its lowest frequency it is in after 2 s, before the round's 3"),
    (spec("max"), known(), "fast-0", Bound.POLICY_MAX,
     "policy max has every device run at its highest frequency"),
    (spec(), None, "fast-0", Bound.NOT_MEASURED,
     "no work was measured yet: it runs at its highest frequency"),
    (spec("static"), None, "fast-0", Bound.NOT_MEASURED,
     "no work was measured yet: devices are levelled by cpuAtMax and steps"),
    (spec("max", steps={"budgetSeconds": 2.5}), known(), "slow-0", Bound.BUDGET,
     "it has 2.5 s to train, and does what fits in at its highest frequency"),
]  # fmt: skip


@pytest.mark.parametrize(("job", "insight", "client", "bound", "why"), CASES)
def test_a_device_is_told_what_binds_it(
    job: FederatedJobSpec, insight: Insight | None, client: str, bound: Bound, why: str
) -> None:
    found = of(explained(job, planned(job, insight)).clients, client)
    assert (found.bound, found.why) == (bound, why)


def test_time_that_a_policy_leaves_for_a_link_that_varies_is_told_as_such() -> None:
    job = spec("ppo", weight=0.01)

    def careful(observation: Observation) -> np.ndarray:
        return np.minimum(1.2 * equalize_10s(observation), observation.devices.max_ghz)

    found = explained(job, planned(job, known(), policy=careful))
    fast = of(found.clients, "fast-0")
    assert fast.bound is Bound.LEEWAY
    assert fast.why == (
        "the policy leaves it time for a link that varies: it is in after 2.67 s of 3 if the link "
        "stays as it was"
    )
    assert of(found.clients, "slow-0").bound is Bound.HIGHEST


def test_a_device_whose_limit_is_not_in_force_keeps_what_it_has_whatever_is_asked() -> None:
    job = spec()
    plan = planned(job, known())
    tried = with_applied(plan, {"slow-0": "no room on node n"}, refusals={})
    again = replanned(job, tried, has_ghz={"slow-0": 0.5}, insight=known(), policy=None)
    plan = with_applied(again, {"slow-0": "no room on node n"}, refusals={})
    found = explained(job, plan)
    slow = of(found.clients, "slow-0")
    assert (slow.bound, slow.reason) == (Bound.NOT_APPLIED, "no room on node n")
    assert slow.why == "it keeps 0.5 GHz, since its CPU limit is not in force"
    assert slow.expected is not None
    assert slow.expected.finish_s == pytest.approx(9.0)
    assert {one.clients["slow-0"].ghz for one in found.alternatives} == {0.5}
    assert of(found.clients, "fast-0").bound is Bound.LEVELLED, "they go by what it has"


def test_every_bound_has_a_case() -> None:
    assert {case[3] for case in CASES} == {*Bound} - {Bound.NOT_APPLIED, Bound.LEEWAY}


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ({"fixed": 10}, "localSteps.fixed asks every device for 10"),
        ({"perDevice": {"min": 4, "max": 9, "redraw": True}},
         "localSteps.perDevice draws 4 to 9 for each device, anew for each round"),
        ({"perDevice": {"min": 4, "max": 9, "redraw": False}},
         "localSteps.perDevice draws 4 to 9 for each device, once"),
        ({"planned": {"minSteps": 5, "maxRatio": 4}},
         "localSteps.planned chooses them with the frequencies: what a round costs for what it is "
         "worth, 5 at least, the most 4 times the fewest"),
        ({"budgetSeconds": 2.5},
         "localSteps.budgetSeconds asks for what fits into 2.5 s, by each device's work per step"),
    ],
)  # fmt: skip
def test_the_rule_of_the_steps_is_told(steps: dict[str, Any], why: str) -> None:
    job = spec("max", steps=steps)
    assert explained(job, planned(job, known())).why_steps == why


# -- what others would have cost -------------------------------------------------------------


def cost_of(job: FederatedJobSpec, insight: Insight, *, gives: Gives) -> tuple[float, float]:
    """Cost and joules of a method's frequencies, by the allocator and what the plan was made of."""
    groups = groups_by_client(job)
    members = [Member(name, groups[name], STEPS) for name in NAMES]
    found = observation_of(members, insight, energy_weight=job.allocation.energy_weight)
    assert found is not None
    compute_s = found.devices.work / gives(found)
    upload_s = found.upload_s(found.recent_mbps)
    seconds = (compute_s + upload_s).max(-1)
    joules = found.devices.energy(seconds, compute_s, upload_s=upload_s)
    return float((seconds + job.allocation.energy_weight * joules)[0]), float(joules[0])


devices = st.builds(seen, st.floats(0.5, 50), mbit=st.floats(0.5, 50), work=st.floats(0.02, 0.15))


@given(every=st.lists(devices, min_size=4, max_size=4), weight=st.floats(0, 3))
def test_alternatives_cost_what_the_allocator_says(
    every: list[ClientInsight], weight: float
) -> None:
    job, insight = spec(weight=weight), Insight(dict(zip(NAMES, every, strict=True)))
    found = by_method(alternatives(job, planned(job, insight)))
    for method, gives in ((Method.EQUALIZE, equalize_10s), (Method.MAXIMUM, maximum)):
        cost, joules = cost_of(job, insight, gives=gives)
        assert found[method].cost == pytest.approx(cost, rel=1e-4)
        assert found[method].joules == pytest.approx(joules, rel=1e-4)
    assert found[Method.PLANNED].cost == pytest.approx(found[Method.EQUALIZE].cost, rel=1e-3)
    assert found[Method.EQUALIZE].cost <= found[Method.MAXIMUM].cost * (1 + 1e-6)


@given(every=st.lists(devices, min_size=4, max_size=4))
def test_the_joules_of_devices_are_those_of_the_round(every: list[ClientInsight]) -> None:
    energy = {"idleWatts": 2.0, "transmitWatts": 1.5}
    job = spec(devices=[group("fast", replicas=2, energy=energy), group("slow", replicas=2)])
    plan = planned(job, Insight(dict(zip(NAMES, every, strict=True))))
    for one in alternatives(job, plan):
        assert sum(each.joules for each in one.clients.values()) == pytest.approx(one.joules)
        assert max(each.finish_s for each in one.clients.values()) == pytest.approx(one.seconds)


def test_without_figures_there_are_no_alternatives() -> None:
    job = spec()
    found = explained(job, planned(job))
    assert found.alternatives == ()
    assert all(one.expected is None for one in found.clients)


# -- whole jobs ------------------------------------------------------------------------------


@pytest.mark.parametrize("job", [federated, split])
def test_what_came_stands_beside_what_was_expected(job: Any) -> None:
    """Links of these jobs are steady: without edges it came as it was expected."""
    made: Recorded = job()
    for record in made.records[2:]:
        assert record.plan is not None
        found = explained(made.spec, record.plan, report=record)
        assert found.happened is not None
        assert found.happened.lost == tuple(record.lost)
        assert {one.client for one in found.clients if one.lost} == {*record.lost}
        for one in found.clients:
            assert one.expected is not None
            if one.happened is not None and made is federated():
                assert one.happened.arrived_s == pytest.approx(one.expected.finish_s, rel=0.01)
            if one.happened is not None:
                assert one.happened.frequency_ghz == pytest.approx(one.frequency_ghz, rel=0.02)


def test_clusters_are_told_with_their_edges_and_what_others_would_have_cost() -> None:
    made = split()
    record = made.records[-1]
    assert record.plan is not None
    found = explained(made.spec, record.plan, report=record)
    assert found.cut == "2"
    for one in found.clusters:
        assert one.why.startswith(f"{one.edge}: ")
        assert [offer.edge for offer in one.offers] == [e for e in ("edge-0", "edge-1")
                                                        if e != one.edge]  # fmt: skip
        assert one.happened is not None
        assert one.happened.edge == one.edge
        assert {client.edge for client in found.clients if client.client in one.clients} == {
            one.edge
        }


def test_in_split_training_the_plan_is_the_equalisers_round() -> None:
    made = split()
    plan = made.records[-1].plan
    assert plan is not None
    found = by_method(alternatives(made.spec, plan))
    assert found[Method.PLANNED].cost == pytest.approx(found[Method.EQUALIZE].cost, rel=1e-3)
    assert found[Method.MAXIMUM].joules > found[Method.PLANNED].joules


def test_a_plan_of_another_job_is_refused() -> None:
    plan = planned(spec(), known())
    with pytest.raises(UnfitRequest, match="this one has no fast-0, fast-1"):
        explained(spec(devices=[group("slow", replicas=2)]), plan)
    record = federated().records[0]
    with pytest.raises(UnfitRequest, match="the report is of round 1, the plan of 2"):
        explained(spec(), plan, report=record)


# -- a status --------------------------------------------------------------------------------


def shown(job: FederatedJobSpec, plan: RoundPlan) -> FederatedJobStatus:
    """The status with a plan, as it is read back."""
    heard = newest_of(JobState(plan=plan))
    status = with_progress(FederatedJobStatus(), heard, spec=job, now=NOW)
    return FederatedJobStatus.model_validate_json(status.to_json())


def test_a_round_that_runs_is_explained_by_its_status() -> None:
    job = spec()
    insight = known(fast_1=seen(3.0), slow_1=seen(9.87654321, work=0.0812345))
    plan = planned(job, insight)
    whole, found = explained(job, plan), explained_now(job, shown(job, plan))
    assert found is not None
    assert not found.shortened
    assert [one.why for one in found.clients] == [one.why for one in whole.clients]
    assert [one.frequency_ghz for one in found.clients] == [
        one.frequency_ghz for one in whole.clients
    ]
    for mine, theirs in zip(found.alternatives, whole.alternatives, strict=True):
        assert mine.cost == pytest.approx(theirs.cost, rel=1e-3)


def test_clusters_of_a_status_say_why_they_are_where_they_are() -> None:
    job = split_job(group(replicas=4))
    plan = with_applied(plan_round(job, asking(job)), {}, refusals={})
    found = explained_now(job, shown(job, plan))
    assert found is not None
    assert [(one.cluster, one.edge, one.why) for one in found.clusters] == [
        (one.cluster, one.edge, one.why) for one in plan.clusters
    ]
    assert all(one.clients == () for one in found.clusters)


def test_without_a_plan_there_is_nothing_to_explain() -> None:
    assert explained_now(spec(), FederatedJobStatus()) is None


def test_of_a_large_job_the_status_explains_some_clients_and_says_so() -> None:
    job = spec(devices=[group("d", replicas=70)])
    insight = Insight({f"d-{i}": seen() for i in range(70)})
    found = explained_now(job, shown(job, planned(job, insight)))
    assert found is not None
    assert found.shortened
    assert len(found.clients) == 64


def test_what_a_plan_was_made_of_takes_little_room_in_the_status() -> None:
    job = spec(devices=[group("d", replicas=64)])
    insight = Insight({f"d-{i}": seen(10 / 3, mbit=20 / 3, work=1 / 30) for i in range(64)})
    before, after = (len(shown(job, planned(job, known)).to_json()) for known in (None, insight))
    assert after - before < 64 * 100
