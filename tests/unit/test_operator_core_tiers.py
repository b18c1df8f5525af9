"""Rounds with edges: clusters, their edges, batches and frequencies, as `plan_round` gives them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from lockstep_api.spec import FederatedJobSpec, Mode
from lockstep_api.wire import PlanRequest, RoundPlan
from lockstep_operator.core.insight import ClientInsight, Insight, Way
from lockstep_operator.core.offload import Averaging, Site, Splitting
from lockstep_operator.core.plan import plan_round, replanned, with_applied
from lockstep_operator.core.tiers import grouped, sites
from lockstep_operator.errors import UnfitRequest
from tests.support.tiered import CNN, asking, group, hierarchical_job, split_job

SLOW = group("slow", "0.25", replicas=2)
FAST = group("fast", replicas=2)
ONE_EACH = {"slow-0": [9, 0], "fast-0": [9, 0], "slow-1": [0, 9], "fast-1": [0, 9]}


def measured(**clients: ClientInsight) -> Insight:
    return Insight({name.replace("_", "-"): one for name, one in clients.items()}, cuts=CNN)


def alike(spec: FederatedJobSpec, work: float = 1e-4, **more: Any) -> Insight:
    names = [f"{g.name}-{i}" for g in spec.devices for i in range(g.replicas)]
    return Insight({one: ClientInsight(work_per_example=work, **more) for one in names}, cuts=CNN)


def members(plan: RoundPlan) -> list[set[str]]:
    return [set(one.clients) for one in plan.clusters]


def test_every_participant_is_in_one_cluster_with_labels_of_all() -> None:
    spec = split_job(SLOW, FAST)
    plan = plan_round(spec, asking(spec, labels=ONE_EACH))
    everyone = [client for one in plan.clusters for client in one.clients]
    assert sorted(everyone) == sorted(one.client for one in plan.participants)
    assert len(plan.clusters) == 2
    for one in plan.clusters:
        assert {ONE_EACH[client][0] for client in one.clients} == {0, 9}
        assert one.divergence == pytest.approx(0, abs=1e-9)
    assert {one.edge for one in plan.clusters} == {"e-0", "e-1"}
    assert [len(one.fallbacks) for one in plan.clusters] == [1, 1]


def test_split_rounds_have_a_cut_and_batches_that_keep_each_clusters_sum() -> None:
    spec = split_job(SLOW, FAST)
    plan = plan_round(spec, asking(spec))
    assert plan.cut == "3"
    batches = {one.client: one.batch_size or 0 for one in plan.participants}
    for one in plan.clusters:
        assert sum(batches[client] for client in one.clients) == 32 * len(one.clients)
    mixed = split_job(SLOW, FAST, clustering={"method": "none"})
    of = {one.client: one.batch_size or 0 for one in plan_round(mixed, asking(mixed)).participants}
    assert of["fast-0"] > of["slow-0"] >= 8
    assert all(one.cost_seconds and " s" in one.why for one in plan.clusters)


def test_equal_batches_are_the_batch_size_on_all() -> None:
    spec = split_job(SLOW, FAST, split={"batches": "equal"})
    plan = plan_round(spec, asking(spec))
    assert {one.batch_size for one in plan.participants} == {32}


def test_the_limit_of_a_split_device_is_told_to_it_too_as_a_quota_does_not_slow_a_step() -> None:
    spec = split_job()
    entry = plan_round(spec, asking(spec)).participants[0]
    assert entry.throttle_milli() == entry.cpu_milli == 1000
    federated = entry.model_copy(update={"batch_size": None})
    assert federated.throttle_milli() is None


def test_hierarchical_rounds_are_those_of_mode_federated_with_clusters_besides() -> None:
    spec = hierarchical_job(SLOW, FAST, allocation={"policy": "static"})
    plan = plan_round(spec, asking(spec, cuts=[]))
    flat = spec.model_copy(update={"mode": Mode.FEDERATED, "edges": None})
    assert plan.participants == plan_round(flat, asking(spec, cuts=[])).participants
    assert sorted(map(len, members(plan))) == [2, 2]
    assert plan.cut is None
    assert {one.edge for one in plan.clusters} == {"e-0", "e-1"}
    assert plan.clusters[0].cost_seconds is None
    assert plan.clusters[0].why == "nothing is measured yet: clusters are spread evenly"


def test_a_hierarchical_cluster_goes_where_its_links_are_better() -> None:
    spec = hierarchical_job(group(replicas=2), clustering={"clusters": 2})
    near = {"e-0": Way(10.0, None), "e-1": Way(100.0, None)}
    far = {"e-0": Way(100.0, None), "e-1": Way(10.0, None)}
    insight = measured(
        d_0=ClientInsight(upload_mbit=10, last_mbps=50, by_edge=near),
        d_1=ClientInsight(upload_mbit=10, last_mbps=50, by_edge=far),
    )
    plan = plan_round(spec, asking(spec), insight=insight)
    at = {one.clients[0]: one for one in plan.clusters}
    assert (at["d-0"].edge, at["d-1"].edge) == ("e-1", "e-0")
    assert at["d-0"].cost_seconds == pytest.approx(10 / 100 + 10 / 1000 + 2 * 10 / 1000)
    assert at["d-0"].fallbacks == ["e-0"]


def test_a_split_cluster_goes_where_the_back_half_is_faster() -> None:
    spec = split_job(clustering={"method": "none"}, edges=[
        {"name": "small", "cpu": "500m"}, {"name": "big", "cpu": "4"},
    ])  # fmt: skip
    edges = ["small-0", "big-0"]
    assert plan_round(spec, asking(spec, edges=edges)).clusters[0].edge == "big-0"
    slow = Insight(back_work={"small-0": 1e-3, "big-0": 9e-3}, cuts=CNN)
    assert plan_round(spec, asking(spec, edges=edges), insight=slow).clusters[0].edge == "small-0"


def test_without_an_edge_nothing_is_planned() -> None:
    spec = split_job()
    with pytest.raises(UnfitRequest, match="none of the 2 edges is connected"):
        plan_round(spec, asking(spec, edges=[]))


def test_an_edge_that_is_not_of_the_job_is_refused() -> None:
    spec = split_job()
    with pytest.raises(UnfitRequest, match="no such edges in this job: e-9"):
        plan_round(spec, asking(spec, edges=["e-0", "e-9"]))


def test_all_clusters_run_on_the_one_edge_that_is_connected() -> None:
    spec = split_job(clustering={"clusters": 3})
    plan = plan_round(spec, asking(spec, edges=["e-1"]))
    assert [one.edge for one in plan.clusters] == ["e-1"] * 3
    assert [one.fallbacks for one in plan.clusters] == [[], [], []]


def test_clusters_for_which_no_edge_has_memory_are_refused_with_numbers() -> None:
    spec = split_job(edges=[{"name": "e", "replicas": 2, "memory": "321Mi"}],
                     clustering={"clusters": 3})  # fmt: skip
    with pytest.raises(UnfitRequest, match=r"3 clusters, 2 edges with room for \d"):
        plan_round(spec, asking(spec))


def test_the_sources_clusters_are_refused_where_one_stays_empty() -> None:
    spec = hierarchical_job(group(replicas=4), clustering={"method": "literal", "clusters": 3})
    labels = {f"d-{i}": [10 if i == label else 0 for label in range(4)] for i in range(4)}
    with pytest.raises(UnfitRequest, match=r"clustering\.method literal leaves 2 of 3"):
        plan_round(spec, asking(spec, labels=labels))


def test_a_deterministic_job_has_the_same_clusters_and_batches_whatever_was_measured() -> None:
    training = {"rounds": 9, "localSteps": {"fixed": 10}, "deterministic": True}
    seen = {
        "slow_0": ClientInsight(work_per_example=9e-4, last_mbps=1.0, down_mbps=1.0),
        "fast_1": ClientInsight(work_per_example=1e-5, last_mbps=900.0),
    }
    for fixed in (True, False):
        spec = split_job(SLOW, FAST, training=training | {"deterministic": fixed})
        before = plan_round(spec, asking(spec, labels=ONE_EACH))
        after = plan_round(spec, asking(spec, labels=ONE_EACH), insight=measured(**seen))
        assert members(before) == members(after)
        sizes = [[one.batch_size for one in plan.participants] for plan in (before, after)]
        assert (sizes[0] == sizes[1]) is fixed


def test_devices_that_would_wait_are_slowed_also_in_clusters_that_are_not_the_longest() -> None:
    equal = {"batches": "equal"}
    spec = split_job(SLOW, FAST, split=equal, allocation={"policy": "equalize"},
                     clustering={"method": "none"})  # fmt: skip
    ghz = ghz_of(plan_round(spec, asking(spec), insight=alike(spec, 1e-3)))
    assert ghz["slow-0"] == ghz["slow-1"] == 2.0
    assert ghz["fast-0"] == ghz["fast-1"] < 1.0


def ghz_of(plan: RoundPlan) -> dict[str, float]:
    return {one.client: one.frequency_ghz for one in plan.participants}


def test_before_work_was_measured_only_static_goes_by_the_spec() -> None:
    for policy, slowed in (("equalize", False), ("static", True), ("max", False)):
        spec = split_job(SLOW, FAST, split={"batches": "equal"}, allocation={"policy": policy},
                         clustering={"method": "none"})  # fmt: skip
        ghz = ghz_of(plan_round(spec, asking(spec)))
        assert (ghz["fast-0"] < 2.0) is slowed
        assert ghz["slow-0"] == 2.0


def test_others_are_planned_around_a_device_whose_limit_stays() -> None:
    spec = split_job(SLOW, FAST, allocation={"policy": "equalize"}, clustering={"method": "none"})
    insight = alike(spec, 1e-3)
    plan = plan_round(spec, asking(spec), insight=insight)
    stuck = with_applied(plan, {"slow-0": "Deferred"}, refusals={})
    again = replanned(spec, stuck, has_ghz={"slow-0": 0.5}, insight=insight, policy=None)
    before, after = ghz_of(plan), ghz_of(again)
    assert after["slow-0"] == before["slow-0"]
    assert after["fast-0"] < before["fast-0"]
    assert [one.batch_size for one in again.participants] == [
        one.batch_size for one in plan.participants
    ]
    assert again.clusters == plan.clusters


def test_clusters_stay_for_as_many_rounds_as_asked() -> None:
    spec = split_job(group(replicas=8), clustering={"everyRounds": 3, "method": "random"})
    plans: list[RoundPlan] = []
    for number in range(1, 7):
        before = plans[-1] if plans else None
        plans.append(plan_round(spec, asking(spec, round=number), before=before))
    found = [members(plan) for plan in plans]
    assert found[0] == found[1] == found[2]
    assert found[3] == found[4] == found[5]
    assert found[0] != found[3]


def test_clusters_that_are_drawn_again_alike_keep_their_names() -> None:
    spec = split_job(SLOW, FAST)
    names = set()
    for number in range(1, 21):
        plan = plan_round(spec, asking(spec, round=number, labels=ONE_EACH))
        places = [plan.participants[0].client in one.clients for one in plan.clusters]
        names.add((*places, *(one.cluster for one in plan.clusters)))
    assert names == {(True, False, "c0", "c1")}


@pytest.mark.parametrize("deterministic", [True, False])
def test_clusters_of_a_deterministic_job_do_not_depend_on_the_plan_before(
    deterministic: bool,
) -> None:
    """An operator that has restarted does not know it."""
    training = {"rounds": 9, "localSteps": {"fixed": 10}, "deterministic": deterministic}
    spec = split_job(group(replicas=12), training=training, participation={"fraction": 0.5},
                     clustering={"everyRounds": 100, "method": "random"})  # fmt: skip
    before, same = plan_round(spec, asking(spec)), []
    for number in range(2, 6):
        asked = asking(spec, round=number)
        plan = plan_round(spec, asked, before=before)
        same.append(members(plan) == members(plan_round(spec, asked)))
        before = plan
    assert all(same) is deterministic


def test_edges_are_matched_by_the_sum_where_that_is_asked_for(monkeypatch: Any) -> None:
    monkeypatch.setattr("lockstep_operator.core.matching.least_sum", lambda costs: [[], [0, 1]])
    spec = split_job(offload={"objective": "sum"})
    assert [one.edge for one in plan_round(spec, asking(spec)).clusters] == ["e-1", "e-1"]


def test_the_order_in_which_clients_and_edges_connected_changes_nothing() -> None:
    spec = split_job(SLOW, FAST)
    there = asking(spec, labels=ONE_EACH)
    turned = there.model_copy(update={"clients": there.clients[::-1], "edges": there.edges[::-1]})
    assert plan_round(spec, there) == plan_round(spec, turned)


def test_nobody_connected_is_a_plan_without_anybody() -> None:
    spec = split_job()
    nobody = PlanRequest.model_validate(asking(spec).model_dump(by_alias=True) | {"clients": []})
    assert plan_round(spec, nobody).clusters == []
    assert [*sites(spec)] == ["e-0", "e-1"]


@pytest.mark.parametrize("mode", [hierarchical_job, split_job])
def test_what_a_cluster_costs_is_reckoned_once_for_all_edges_that_it_has_not_met(
    mode: Callable[..., FederatedJobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large job has a thousand of them, and its plan must not take minutes."""
    nine = [{"name": "e", "replicas": 9}]
    spec = mode(group("fast", replicas=6), edges=nine)
    met = {"e-8": Way(up_mbps=50.0, down_mbps=50.0)}
    seen = alike(spec, work_per_step=0.01, upload_mbit=8.0)
    known = {**seen.clients, "fast-0": replace(seen.of("fast-0"), by_edge=met)}
    asked: list[tuple[str, ...]] = []
    for kind in (Averaging, Splitting):
        reckon = kind.member_seconds

        def counted(work: Any, clients: Sequence[str], site: Site, reckon: Any = reckon) -> float:
            asked.append((*clients, site.name))
            return float(reckon(work, clients, site))

        monkeypatch.setattr(kind, "member_seconds", counted)
    asked_for = asking(spec, edges=[f"e-{i}" for i in range(9)])
    grouped(spec, asked_for, steps=dict.fromkeys(known, 4), cut=CNN[0],
            insight=replace(seen, clients=known))  # fmt: skip
    once = [one for one in asked if "fast-0" not in one]
    assert len(once) == len({one[:-1] for one in once})
    assert sorted(one[-1] for one in asked if "fast-0" in one) == ["e-0", "e-8"]
