"""Whatever somebody else writes into the status of a job, the next pass makes it true again."""

import asyncio
import copy
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_api.status import FederatedJobStatus, Phase
from lockstep_api.wire import Outcome, RoundPlan, RoundReport
from lockstep_operator.core.model import Manifest
from lockstep_operator.core.state import JobState
from lockstep_operator.kube import job_ref
from lockstep_operator.reconcile import Deps, reconcile
from tests.support.kube import KEY, NOW, FakeKube, cluster_with, make_deps, status_of

REF = job_ref(KEY.namespace, KEY.name)
TIMES = st.sampled_from(["2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z"])
NUMBERS = st.floats(0, 1e9)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "phase": st.sampled_from([phase.value for phase in Phase]),
    "round": st.integers(0, 10**6),
    "rounds": st.integers(1, 10**6),
    "progress": st.just("7/7"),
    "clients": st.just("9/9"),
    "accuracy": NUMBERS,
    "loss": NUMBERS,
    "elapsedSeconds": NUMBERS,
    "energyJoules": st.fixed_dictionaries({"model": NUMBERS}),
    "observedGeneration": st.integers(0, 99),
    "activeTime": TIMES,
    "startTime": TIMES,
    "completionTime": TIMES,
    "placement": st.just([{"name": "cloud", "nodes": ["elsewhere"]}]),
    "lastPlan": st.just({"round": 10**6, "planned": False, "clients": []}),
    "lastRound": st.just({"round": 9, "seconds": 1, "uploadBytes": 2, "clients": []}),
    "conditions": st.sampled_from(["none", "turned", "ended"]),
}


def turned(conditions: list[Manifest]) -> list[Manifest]:
    other = {"True": "False", "False": "True"}
    return [{**one, "status": other[one["status"]], "message": "mine"} for one in conditions]


def foreign(status: Manifest, changes: Manifest, *, removed: set[str]) -> Manifest:
    """The status as somebody else leaves it."""
    made = copy.deepcopy(status) | changes
    if how := changes.get("conditions"):
        ended = {**status["conditions"][0], "type": "Complete", "status": "True"}
        ways = {"none": [], "turned": turned(status["conditions"])}
        made["conditions"] = ways.get(how, [*status["conditions"], ended])
    return {key: value for key, value in made.items() if key not in removed}


def heard(round: int) -> JobState:
    """A round is finished and the next one planned."""
    head: dict[str, Any] = {"round": round, "planned": True, "seconds": 1, "elapsedSeconds": 2}
    energy = {"energyJoules": {"model": 3.0}, "accuracy": 0.5, "loss": 0.7, "clients": []}
    report = RoundReport.model_validate(head | energy)
    plan = RoundPlan.model_validate({"round": round + 1, "rounds": 9, "participants": []})
    return JobState(report, plan, started_at=NOW, planned_at=NOW + timedelta(seconds=1))


async def running() -> tuple[FakeKube, Deps, list[float]]:
    now = [100.0]
    kube = cluster_with()
    deps = make_deps(kube, monotonic=lambda: now[0])
    await reconcile(KEY, deps)
    uid = kube.objects[REF]["metadata"]["uid"]
    deps.sources.reports.keep(KEY, uid, state=heard(1))
    assert (await reconcile(KEY, deps)).phase == "Running"
    now[0] += 10
    return kube, deps, now


@given(
    changes=st.fixed_dictionaries({}, optional=FIELDS),
    removed=st.sets(st.sampled_from([*FIELDS])),
)
def test_a_foreign_status_of_a_running_job_is_healed_by_the_next_pass(
    changes: Manifest, removed: set[str]
) -> None:
    async def play() -> None:
        kube, deps, _ = await running()
        true, children = status_of(kube), [ref for ref in kube.objects if ref != REF]
        kube.put(kube.objects[REF] | {"status": foreign(true, changes, removed=removed)})
        kube.events.clear()
        await reconcile(KEY, deps)
        assert status_of(kube) == true
        assert [ref for ref in kube.objects if ref != REF] == children, "no pod is lost for it"
        assert kube.events == []

    asyncio.run(play())


@pytest.mark.parametrize("wrong", [999, 0])
async def test_after_a_restart_the_next_report_heals_the_round(wrong: int) -> None:
    kube, _, _ = await running()
    tampered = status_of(kube) | {"round": wrong, "accuracy": 0.99, "progress": f"{wrong}/3"}
    kube.put(kube.objects[REF] | {"status": tampered})
    deps = make_deps(kube)  # another operator, which has heard nothing
    deps.sources.reports.keep(KEY, kube.objects[REF]["metadata"]["uid"], state=heard(2))
    await reconcile(KEY, deps)
    status = FederatedJobStatus.model_validate(status_of(kube))
    assert (status.round, status.progress, status.accuracy) == (2, "2/3", 0.5)


async def test_a_job_that_has_ended_stays_so() -> None:
    kube, deps, now = await running()
    done = Outcome(result="RoundsCompleted", message="3 rounds")
    uid = kube.objects[REF]["metadata"]["uid"]
    deps.sources.reports.keep(KEY, uid, state=JobState(outcome=done))
    await reconcile(KEY, deps)
    true = status_of(kube)
    assert true["phase"] == "Completed"
    now[0] += 10
    await reconcile(KEY, deps)  # the pods are gone: so is what kept others from them
    deps.sources.reports.forget(KEY)
    now[0] += 10
    kube.put(kube.objects[REF] | {"status": true | {"phase": "Running", "completionTime": None}})
    kube.writes.clear()
    await reconcile(KEY, deps)
    assert status_of(kube) == true
    assert kube.writes == [("status", f"FederatedJob/{KEY.name}")], "no pods come back"
