"""What a plan says of the figures that it was made of: those that its frequencies really follow."""

from typing import Any

import pytest

from lockstep_allocator.observation import EDGES_S
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.wire import PlanBasis, PlanRequest, RoundPlan
from lockstep_operator.core.insight import ClientInsight, Insight
from lockstep_operator.core.plan import plan_round, replanned
from tests.support.recorded import split
from tests.support.tiered import asking, group, split_job

SLOTS = len(EDGES_S) - 1
RECENT = EDGES_S.index(10)


def spec(policy: str = "equalize", **more: Any) -> FederatedJobSpec:
    """Two devices of a core and two of half a core, each from 0.2 to 2 GHz."""
    return FederatedJobSpec.model_validate(
        {
            "model": {"name": "mlp"}, "data": {"name": "fashion-mnist"},
            "training": {"rounds": 3, "localSteps": more.pop("steps", {"fixed": 10})},
            "allocation": {"policy": policy},
            "devices": [group("fast", replicas=2), group("slow", "500m", replicas=2)], **more,
        }
    )  # fmt: skip


def asked(job: FederatedJobSpec) -> PlanRequest:
    """All are there."""
    return asking(job, round=2, edges=())


def seen(**changes: Any) -> ClientInsight:
    """8 Mbit at 8 Mbit/s; a step takes 100 ms of a core."""
    told: dict[str, Any] = {"slots_mbps": (8.0,) * SLOTS, "work_per_step": 0.1, "upload_mbit": 8.0}
    return ClientInsight(**(told | changes))


def known(**changes: ClientInsight) -> Insight:
    """All as usual, but for these."""
    told = {name.replace("_", "-"): one for name, one in changes.items()}
    names = ("fast-0", "fast-1", "slow-0", "slow-1")
    return Insight({name: told.get(name, seen()) for name in names})


def basis_of(plan: RoundPlan, client: str) -> PlanBasis:
    """Of a client that has one."""
    basis = next(one.basis for one in plan.participants if one.client == client)
    assert basis is not None
    return basis


def test_a_plan_says_what_it_counts_on_and_when_updates_will_be_in() -> None:
    """slow: 10 steps of 0.1 core-seconds on half a core and a second of upload; all end with it."""
    job = spec()
    plan = plan_round(job, asked(job), insight=known(fast_1=seen(upload_mbit=4.0)))
    assert basis_of(plan, "slow-0") == PlanBasis(
        mbps=8.0, upload_mbit=8.0, work_per_step=0.1, finish_seconds=3.0
    )
    assert basis_of(plan, "fast-1").upload_mbit == 4.0
    finish = [basis_of(plan, one.client).finish_seconds for one in plan.participants]
    assert finish == pytest.approx([3.0] * 4, rel=1e-3)


@pytest.mark.parametrize(
    ("policy", "steps", "mbps"),
    [("equalize", {"fixed": 10}, 2.0), ("static", {"fixed": 10}, 6.0), ("max", {"fixed": 10}, 2.0),
     ("equalize", {"planned": {"minSteps": 1, "maxRatio": 4}}, 6.0)],
)  # fmt: skip
def test_the_bandwidth_is_the_one_that_the_policy_goes_by(
    policy: str, steps: dict[str, Any], mbps: float
) -> None:
    """2 Mbit/s in the last 10 s, 6 on the mean of its uploads, more in the minute before."""
    job = spec(policy, steps=steps)
    slots = (2.0,) * RECENT + (6.8,) * (SLOTS - RECENT)
    found = seen(slots_mbps=slots, mean_mbps=6.0)
    plan = plan_round(job, asked(job), insight=known(fast_0=found))
    assert basis_of(plan, "fast-0").mbps == pytest.approx(mbps, rel=1e-4)


def test_where_everybody_runs_at_the_maximum_what_is_known_is_told_all_the_same() -> None:
    job = spec("max")
    plan = plan_round(job, asked(job), insight=known())
    assert {one.frequency_ghz for one in plan.participants} == {2.0}
    finish = [basis_of(plan, one.client).finish_seconds for one in plan.participants]
    assert finish == pytest.approx([2.0, 2.0, 3.0, 3.0])


@pytest.mark.parametrize("policy", ["max", "static", "equalize"])
def test_before_anything_was_measured_there_is_nothing_to_tell(policy: str) -> None:
    job = spec(policy)
    assert all(one.basis is None for one in plan_round(job, asked(job)).participants)


def test_what_nobody_knows_is_empty() -> None:
    """Work alone was measured: uploads count as nothing."""
    job = spec()
    only = ClientInsight(work_per_step=0.1)
    plan = plan_round(job, asked(job), insight=Insight({"fast-0": only}))
    assert basis_of(plan, "slow-1") == PlanBasis(work_per_step=0.1, finish_seconds=2.0)


def test_a_device_whose_limit_is_not_in_force_is_counted_on_with_what_it_has() -> None:
    job = spec()
    plan = plan_round(job, asked(job), insight=known())
    again = replanned(job, plan, has_ghz={"slow-0": 0.5}, insight=known(), policy=None)
    slow = basis_of(again, "slow-0")
    assert slow.has_ghz == 0.5
    assert slow.finish_seconds == pytest.approx(9.0)
    assert basis_of(again, "fast-0").has_ghz is None
    assert basis_of(again, "fast-0").finish_seconds == pytest.approx(9.0, rel=1e-3)


def test_a_link_that_stands_still_makes_no_plan_that_cannot_be_told() -> None:
    """8 Tbit at a bit a second."""
    job = spec()
    still = seen(slots_mbps=(0.0,) * SLOTS, upload_mbit=8e6)
    plan = plan_round(job, asked(job), insight=known(fast_0=still))
    assert basis_of(plan, "fast-0").finish_seconds == 1e7


def test_figures_are_short() -> None:
    job = spec()
    plan = plan_round(job, asked(job), insight=known(fast_0=seen(work_per_step=1 / 30)))
    assert len(basis_of(plan, "fast-0").to_json()) < 90


def test_in_split_training_a_cluster_ends_when_its_edge_was_matched_for() -> None:
    """All at their maximum: the slowest device of a cluster is what it costs on its edge."""
    job = split_job(
        group("a", replicas=3, uplink={"mbps": 20}), group("b", "500m", uplink={"mbps": 5}),
        allocation={"policy": "max"},
    )  # fmt: skip
    measured = Insight({"a-0": ClientInsight(work_per_example=0.002, work_per_step=0.06)})
    plan = plan_round(job, asking(job, round=2), insight=measured)
    for cluster in plan.clusters:
        ends = [basis_of(plan, client).finish_seconds for client in cluster.clients]
        assert max(ends) == pytest.approx(cluster.cost_seconds, rel=1e-4)
    for one in plan.participants:
        assert one.batch_size is not None
        assert basis_of(plan, one.client).work_per_step == pytest.approx(0.002 * one.batch_size)


def test_in_split_training_the_bits_of_all_steps_count() -> None:
    """What the devices then sent, but for heads of frames and the last report."""
    record = split().records[-1]
    assert record.plan is not None
    for done in record.clients:
        told = basis_of(record.plan, done.update.client).upload_mbit
        assert told == pytest.approx(done.bytes * 8e-6, rel=0.02)


def test_a_cluster_says_what_other_edges_would_have_cost() -> None:
    plan = split().records[-1].plan
    assert plan is not None
    for cluster in plan.clusters:
        assert [one.edge for one in cluster.offers] == cluster.fallbacks
        assert cluster.cost_seconds is not None
        assert all(one.cost_seconds > cluster.cost_seconds for one in cluster.offers)


def test_clusters_that_were_spread_say_no_costs() -> None:
    job = split_job(group(replicas=4), mode="hierarchical")
    plan = plan_round(job, asking(job))
    assert all(one.fallbacks and not one.offers for one in plan.clusters)
