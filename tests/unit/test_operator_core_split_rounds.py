"""Rounds with edges played with the pure planning step: what is learnt, kept, told and shown."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lockstep_api.spec import FederatedJobSpec, Mode
from lockstep_api.status import FederatedJobStatus
from lockstep_api.wire import PlanRequest, RoundPlan, RoundReport
from lockstep_operator.core.insight import Insight
from lockstep_operator.core.model import EventNote
from lockstep_operator.core.plan import with_applied
from lockstep_operator.core.planning import Basis, draw, hear, know, settle, undrawn
from lockstep_operator.core.state import JobState
from lockstep_operator.core.status import newest_of, with_progress
from lockstep_operator.errors import UnfitRequest
from tests.support.tiered import asking, group, hierarchical_job, split_job

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BITS = 8e-6


class World:
    """A job whose rounds are planned, and played as its devices and edges are."""

    def __init__(self, spec: FederatedJobSpec, **request: Any) -> None:
        self.spec, self.request = spec, request
        self.state = JobState()
        self.insight = Insight()
        self.now = BEGAN
        self.events: list[EventNote] = []

    def plays(self, number: int, report: dict[str, Any] | None = None, **more: Any) -> RoundPlan:
        told = None if report is None else RoundReport.model_validate(report)
        asked = asking(self.spec, round=number, report=told, **self.request | more)
        return self.hears(asked)

    def hears(self, asked: PlanRequest) -> RoundPlan:
        heard = hear(self.state, asked, spec=self.spec)
        self.insight = know(heard.state, asked, telemetry=None, spec=self.spec)
        drawn = draw(heard.state, asked, basis=Basis(self.spec, self.insight))
        plan, basis = with_applied(drawn.plan, {}, refusals={}), Basis(self.spec, self.insight)
        settled = settle(drawn.state, plan, basis=basis, before=None, now=self.now)
        self.state = settled.state
        self.events += [*heard.events, *drawn.events, *settled.events]
        self.now += timedelta(seconds=10)
        return plan

    def status(self) -> FederatedJobStatus:
        newest = newest_of(self.state)
        return with_progress(FederatedJobStatus(), newest, spec=self.spec, now=self.now)

    def told(self, reason: str) -> list[str]:
        return [note.message for note in self.events if note.reason == reason]


def played(plan: RoundPlan, *, cpu_s: float = 1.0, **changes: Any) -> dict[str, Any]:
    """A report of a round of split training: 10 Mbit/s up, 20 down, 5 ms of CPU an example.

    Args:
        plan: the round's.
        cpu_s: CPU seconds of each device.
        changes: of `moved` of each device.
    """
    clients = []
    for one in plan.participants:
        samples = (one.batch_size or 0) * one.steps
        moved = {"upBytes": 5_000_000, "downBytes": 5_000_000, "upSeconds": 4.0, "downSeconds": 2.0,
                 "waitSeconds": 1.0} | changes  # fmt: skip
        update = {
            "client": one.client, "round": plan.round, "examples": 100, "steps": one.steps,
            "downloadSeconds": 0, "computeSeconds": 5.0, "cpuSeconds": cpu_s, "throttledSeconds": 0,
            "frequencyGHz": one.frequency_ghz, "energyJoules": {}, "samples": samples,
            "moved": moved,
        }  # fmt: skip
        clients.append({"update": update, "arrivedSeconds": 10.0, "uploadSeconds": 0.1,
                        "bytes": 5_000_000})  # fmt: skip
    clusters = [
        {"cluster": one.cluster, "edge": one.edge, "clients": len(one.clients), "examples": 200,
         "seconds": 3.0, "samples": 640, "steps": 10, "backCpuSeconds": 6.4, "tries": 1}
        for one in plan.clusters
    ]  # fmt: skip
    return {"round": plan.round, "planned": True, "seconds": 11.0, "elapsedSeconds": 11.0,
            "clients": clients, "energyJoules": {}, "clusters": clusters}  # fmt: skip


def test_what_devices_and_edges_report_of_a_round_is_what_the_next_is_planned_with() -> None:
    world = World(split_job())
    first = world.plays(1)
    world.plays(2, played(first))
    edge = {c: one.edge for one in first.clusters for c in one.clients}
    for one in first.participants:
        seen = world.insight.of(one.client)
        assert one.batch_size is not None
        assert seen.work_per_example == pytest.approx(1.0 / (10 * one.batch_size))
        assert seen.last_mbps == pytest.approx(5e6 * BITS / 4)
        assert seen.down_mbps == pytest.approx(5e6 * BITS / 2)
        assert seen.by_edge is not None
        way = seen.by_edge[edge[one.client]]
        assert (way.up_mbps, way.down_mbps) == (seen.last_mbps, seen.down_mbps)
    assert world.insight.back_work == pytest.approx({"e-0": 0.01, "e-1": 0.01})


def test_a_pair_of_device_and_edge_is_remembered_when_another_edge_has_the_device() -> None:
    world = World(split_job(group()))
    first = world.plays(1)
    report = played(first)
    report["clusters"][0]["edge"] = "e-1" if first.clusters[0].edge == "e-0" else "e-0"
    world.plays(2, report)
    by_edge = world.insight.of("d-0").by_edge or {}
    assert [*by_edge] == [report["clusters"][0]["edge"]]
    second = world.state.plan
    assert second is not None
    again = played(second)
    again["clusters"][0]["edge"] = first.clusters[0].edge
    world.plays(3, again)
    assert {*(world.insight.of("d-0").by_edge or {})} == {"e-0", "e-1"}


@pytest.mark.parametrize(
    ("lie", "doubt"),
    [
        ({"upSeconds": 16.0}, "transfers of 16 and 2 s, but was done in 10 s"),
        ({"downSeconds": 99.0}, "transfers of 4 and 99 s"),
    ],
)
def test_transfers_that_cannot_be_are_left_out_and_said(lie: dict[str, Any], doubt: str) -> None:
    world = World(split_job(allocation={"policy": "equalize"}))
    world.plays(2, played(world.plays(1), **lie))
    seen = world.insight.of("d-0")
    assert (seen.last_mbps, seen.down_mbps, seen.by_edge) == (None, None, None)
    assert any(doubt in one for one in world.state.doubts)


def test_no_link_is_slower_than_what_its_edge_received_in_the_round() -> None:
    world = World(split_job())
    world.plays(2, played(world.plays(1), upBytes=1, downBytes=1))
    seen = world.insight.of("d-0")
    received = 5e6 * BITS / (1.5 * 10)
    assert seen.last_mbps == pytest.approx(received)
    assert seen.down_mbps == pytest.approx(received / 8)


def test_a_device_that_came_back_tells_of_its_last_part_of_the_round_only() -> None:
    """The edge received all of it; bandwidth is of what the device counted."""
    world = World(split_job())
    part = {"upBytes": 1_000_000, "upSeconds": 0.4, "downBytes": 100_000, "downSeconds": 0.02}
    world.plays(2, played(world.plays(1), **part))
    seen = world.insight.of("d-0")
    assert seen.last_mbps == pytest.approx(20.0)
    assert seen.down_mbps == pytest.approx(40.0)
    assert world.state.doubts == ()


def test_a_split_devices_frequency_is_measured_and_so_coarser_than_a_quota() -> None:
    for off, counted in ((0.1, 0), (0.2, 4)):
        world = World(split_job())
        report = played(world.plays(1))
        for one in report["clients"]:
            one["update"]["frequencyGHz"] *= 1 - off
        world.plays(2, report)
        assert len(world.state.mismatches) == counted


def test_cpu_that_a_device_cannot_have_used_says_nothing_of_its_examples() -> None:
    world = World(split_job())
    world.plays(2, played(world.plays(1), cpu_s=100.0))
    assert world.insight.of("d-0").work_per_example is None


def test_an_edge_that_reports_what_no_edge_can_is_not_believed() -> None:
    world = World(split_job())
    report = played(world.plays(1))
    report["clusters"][0]["backCpuSeconds"] = 1e7
    report["clusters"][1]["edge"] = "x-7"
    world.plays(2, report)
    assert world.insight.back_work == {}


def test_the_cut_is_chosen_once_and_kept_by_whoever_plans_next() -> None:
    world = World(split_job())
    assert world.plays(1).cut == "3"
    assert world.status().cut is not None
    assert world.plays(2, cut="3").cut == "3"
    anew = World(split_job())
    assert anew.plays(3, cut="2").cut == "2"
    shown = anew.status().cut
    assert shown is not None
    assert shown.why == "the job was cut here before"


def test_a_named_cut_beyond_the_bounds_is_told_once_as_a_warning() -> None:
    world = World(split_job(model={"name": "cnn", "cut": "4"}))
    world.plays(1)
    world.plays(1)
    world.plays(2, cut="4")
    assert len(world.told("CutUnusual")) == 1
    assert "0.99" in world.told("CutUnusual")[0]


def test_an_assignment_is_told_when_it_changes_and_not_each_time() -> None:
    world = World(hierarchical_job(group(replicas=4), clustering={"everyRounds": 100}))
    plan = world.plays(1)
    world.now += timedelta(minutes=2)
    world.plays(2)
    where = ", ".join(f"{one.cluster} (2 clients) at {one.edge}" for one in plan.clusters)
    assert world.told("ClustersAssigned") == [f"round 1: {where}"]
    world.plays(3, edges=["e-1"])
    told = world.told("ClustersAssigned")
    assert len(told) == 2
    assert told[1].startswith("round 3: 2 moved of 4 clients: ")
    assert "at e-1" in told[1]
    assert "at e-0" not in told[1]


def test_assignments_that_change_every_round_are_told_once_a_minute() -> None:
    world = World(hierarchical_job(group(replicas=8), clustering={"method": "random"}))
    for number in range(1, 13):
        world.plays(number)
    assert len(world.told("ClustersAssigned")) == 2


def test_status_shows_cut_clusters_and_edges() -> None:
    world = World(split_job())
    plan = world.plays(1)
    world.plays(2, played(plan), edges=["e-0"])
    shown = world.status().model_dump(by_alias=True, exclude_none=True)
    assert shown["cut"]["layer"] == "3"
    assert [one["layer"] for one in shown["cut"]["candidates"]] == ["0", "2", "3", "4", "7"]
    third = shown["cut"]["candidates"][2]
    assert third == {"layer": "3", "deviceFlops": 0.0765, "deviceMemory": 0.6111, "values": 3136,
                     "stepSeconds": third["stepSeconds"]}  # fmt: skip
    assert "split.maxDeviceFlops" in shown["cut"]["candidates"][3]["refused"]
    first = shown["clusters"][0]
    facts = [first[name] for name in ("name", "edge", "clients", "examples")]
    assert facts == ["c0", "e-0", 2, 200]
    assert (first["tries"], first["seconds"]) == (1, 3.0)
    assert first["costSeconds"] > 0
    assert "e-0" in first["why"]
    assert shown["edges"] == [
        {"name": "e-0", "connected": True, "clusters": 2, "seconds": 3.0},
        {"name": "e-1", "connected": False, "clusters": 0, "seconds": 3.0},
    ]


def test_status_shows_what_distillation_and_missing_devices_did() -> None:
    world = World(split_job())
    report = played(world.plays(1))
    report["clusters"][0]["missed"] = 3
    report["distillation"] = {"samples": 50, "edgeTaught": True, "cloudTaught": False,
                              "cloudAccuracy": 0.54321, "seconds": 1.23456}  # fmt: skip
    world.plays(2, report)
    status = world.status()
    assert status.cloud_accuracy == 0.5432
    assert status.last_round is not None
    assert status.last_round.missed_steps == 3
    assert status.last_round.distillation is not None
    assert status.last_round.distillation.model_dump() == {
        "samples": 50, "edgeTaught": True, "cloudTaught": False, "seconds": 1.235,
    }  # fmt: skip


def test_status_lists_64_clusters_and_edges_and_16_layers_with_the_one_that_was_taken() -> None:
    spec = hierarchical_job(group(replicas=70), edges=[{"name": "e", "replicas": 70}])
    edges = [f"e-{index}" for index in range(70)]
    world = World(spec, edges=edges)
    world.plays(1)
    shown = world.status()
    assert shown.clusters is not None
    assert shown.edges is not None
    assert (len(shown.clusters), len(shown.edges)) == (64, 64)
    many = split_job(model={"name": "cnn", "cut": "layer-40"})
    cuts = [{"layer": f"layer-{i}", "frontFlops": 1, "backFlops": 9, "frontValues": 1,
             "cutValues": 1, "savedBytes": 1, "wholeSavedBytes": 9} for i in range(50)]  # fmt: skip
    deep = World(many, cuts=cuts)
    deep.plays(1)
    cut = deep.status().cut
    assert cut is not None
    assert len(cut.candidates) == 16
    assert cut.candidates[-1].layer == "layer-40"


def test_a_federated_jobs_status_has_nothing_of_tiers() -> None:
    spec = hierarchical_job().model_copy(update={"mode": Mode.FEDERATED, "edges": None})
    world = World(spec, edges=[], cuts=[])
    world.plays(1)
    status = world.status()
    assert (status.cut, status.clusters, status.edges) == (None, None, None)


def test_an_operator_that_has_restarted_leaves_what_the_status_says_of_tiers() -> None:
    world = World(split_job())
    world.plays(1)
    before = world.status()
    again = with_progress(before, newest_of(JobState()), spec=world.spec, now=world.now)
    assert (again.cut, again.clusters, again.edges) == (before.cut, before.clusters, before.edges)


def test_a_round_that_cannot_be_planned_leaves_the_plan_before_and_is_forgotten_with_the_next() -> (
    None
):
    world = World(split_job())
    plan = world.plays(1)
    asked = asking(world.spec, round=2, edges=[])
    with pytest.raises(UnfitRequest) as refused:
        world.hears(asked)
    undone = undrawn(world.state, asked, error=refused.value)
    assert [note.reason for note in undone.events] == ["RoundNotPlanned"]
    assert undone.state.plan == plan
    assert undrawn(undone.state, asked, error=refused.value).events == ()
    world.state = replace(undone.state)
    world.plays(2)
    assert world.state.plan_problem is None
