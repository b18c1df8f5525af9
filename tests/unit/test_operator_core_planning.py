"""A job's rounds played with the pure planning step: no Kubernetes, no Prometheus, no HTTP."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lockstep_allocator.baselines import maximum
from lockstep_allocator.observation import EDGES_S
from lockstep_api.budget import steps_done
from lockstep_api.spec import Actuator, FederatedJobSpec, Privacy
from lockstep_api.wire import ClientPlan, Outcome, PlanRequest, RoundPlan, RoundReport
from lockstep_operator.core.insight import ClientInsight, Insight
from lockstep_operator.core.learn import record_of
from lockstep_operator.core.model import EventNote
from lockstep_operator.core.plan import with_applied
from lockstep_operator.core.planning import Basis, draw, ended, hear, know, limits, redraw, settle
from lockstep_operator.core.privacy import Counted
from lockstep_operator.core.state import FinishedRound, JobState

CLIENTS = ("d-0", "d-1", "d-2")
BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UPLOAD_S = {"d-0": 1.0, "d-1": 1.0, "d-2": 2.0}
WORK_PER_STEP = 0.05


def spec(*, steps: dict[str, Any] | None = None, **allocation: Any) -> FederatedJobSpec:
    return FederatedJobSpec.model_validate(
        {
            "model": {"name": "mlp"}, "data": {"name": "fashion-mnist"},
            "training": {"rounds": 9, "localSteps": steps or {"fixed": 10}},
            "allocation": allocation,
            "devices": [{"name": "d", "replicas": 3, "cpuAtMax": "1",
                         "frequency": {"minGHz": 0.5, "maxGHz": 2.0}}],
        }
    )  # fmt: skip


@dataclass
class World:
    """Devices that a test plays: which limits they take, and what was said of the job."""

    spec: FederatedJobSpec
    state: JobState = field(default_factory=JobState)
    stuck: dict[str, float] = field(default_factory=dict)
    """Device whose limit stays → the frequency that it has."""
    refuses: dict[str, str] = field(default_factory=dict)
    """Device that cannot be resized → why."""
    asked: list[dict[str, int]] = field(default_factory=list)
    """Limits that were to be put in force, in order."""
    events: list[EventNote] = field(default_factory=list)
    finished: list[FinishedRound] = field(default_factory=list)
    mismatches: int = 0
    now: datetime = BEGAN

    def plays(
        self,
        *rounds: int,
        telemetry: Insight | None = None,
        policy_problem: str | None = None,
        **request: Any,
    ) -> RoundPlan:
        """Rounds one after the other; the plan of the last."""
        for number in rounds:
            self.now += timedelta(seconds=10)
            plan = self._step(self._request(number, request), telemetry, policy_problem)
        return plan

    def _request(self, number: int, more: Mapping[str, Any]) -> PlanRequest:
        clients = [{"client": one, "incarnation": "a", "examples": 1} for one in CLIENTS]
        last = self.state.plan
        report = self.report(last) if last is not None and last.round < number else None
        told = {"round": number, "clients": clients, "report": report, **more}
        return PlanRequest.model_validate(told)

    def _step(
        self, request: PlanRequest, telemetry: Insight | None, policy_problem: str | None
    ) -> RoundPlan:
        heard = hear(self.state, request, spec=self.spec)
        insight = know(heard.state, request, telemetry=telemetry, spec=self.spec)
        policy = None if policy_problem else maximum
        basis = Basis(self.spec, insight, policy, policy_problem)
        drawn = draw(heard.state, request, basis=basis)
        plan = self._put_in_force(drawn.plan)
        if (again := redraw(plan, basis)) is not None:
            plan = self._put_in_force(again, but=self.stuck)
        settled = settle(drawn.state, plan, basis=basis, before=None, now=self.now)
        self.state, self.mismatches = settled.state, self.mismatches + heard.mismatches
        self.events += [*heard.events, *drawn.events, *settled.events]
        self.finished += [settled.finished] if settled.finished else []
        return plan

    def _put_in_force(self, plan: RoundPlan, *, but: Container[str] = ()) -> RoundPlan:
        if not (wanted := limits(plan, but=but)):
            return plan
        self.asked.append(wanted)
        return with_applied(plan, dict.fromkeys(self.stuck, "Deferred"), refusals=self.refuses)

    def report(self, plan: RoundPlan) -> Mapping[str, Any]:
        """How the devices did what was planned."""
        done = [self._update(one) for one in plan.participants]
        seconds = max(one["arrivedSeconds"] for one in done)
        return {
            "round": plan.round, "planned": True, "seconds": seconds, "elapsedSeconds": seconds,
            "clients": done, "energyJoules": {"model": 1.0},
        }  # fmt: skip

    def _update(self, asked: ClientPlan) -> dict[str, Any]:
        client = asked.client
        ghz = self.stuck.get(client, asked.frequency_ghz)
        step_s = WORK_PER_STEP / (ghz / 2.0)
        steps = steps_done(asked.steps, budget_s=asked.budget_seconds, step_s=step_s)
        compute_s = steps * step_s
        update = {
            "client": client, "round": 1, "examples": 1, "steps": steps, "downloadSeconds": 0,
            "computeSeconds": compute_s, "cpuSeconds": steps * WORK_PER_STEP, "throttledSeconds": 0,
            "frequencyGHz": ghz, "energyJoules": {"model": 0.1},
        }  # fmt: skip
        return {
            "update": update, "arrivedSeconds": compute_s + UPLOAD_S[client],
            "uploadSeconds": UPLOAD_S[client], "bytes": 1_000_000,
        }  # fmt: skip

    def reasons(self) -> list[str]:
        return [note.reason for note in self.events]


def ghz(plan: RoundPlan) -> list[float]:
    return [one.frequency_ghz for one in plan.participants]


def measured(*mbps: float) -> Insight:
    """What Prometheus has of the first devices."""
    return Insight(
        {
            client: ClientInsight(slots_mbps=(rate,) * (len(EDGES_S) - 1))
            for client, rate in zip(CLIENTS, mbps, strict=False)
        }
    )


def spread_s(world: World, plan: RoundPlan) -> float:
    arrived: list[float] = [one["arrivedSeconds"] for one in world.report(plan)["clients"]]
    return max(arrived) - min(arrived)


def test_rounds_are_planned_from_what_the_rounds_before_said() -> None:
    world = World(spec(policy="equalize", energyWeight=0.001))
    assert ghz(world.plays(1)) == [2.0, 2.0, 2.0]  # nothing was measured yet
    plan = world.plays(2, 3, 4)
    assert plan.round == 4
    assert all(one.applied for one in plan.participants)
    assert spread_s(world, plan) < 0.01
    assert world.asked[-1] == {one.client: one.cpu_milli for one in plan.participants}
    assert (world.state.started_at, world.state.planned_at) == (
        BEGAN + timedelta(seconds=10), BEGAN + timedelta(seconds=40),
    )  # fmt: skip
    assert world.state.report is not None
    assert (world.state.report.round, world.events, world.mismatches) == (3, [], 0)


def test_a_device_whose_limit_stays_is_planned_around() -> None:
    world = World(spec(policy="equalize", energyWeight=0.001), stuck={"d-1": 0.5})
    world.plays(1)
    free = ghz(World(world.spec, world.state).plays(2))
    plan = world.plays(2)
    assert [(one.client, one.reason) for one in plan.participants if not one.applied] == [
        ("d-1", "Deferred")
    ]
    assert plan.participants[1].frequency_ghz == pytest.approx(free[1])  # as soon as it can
    assert ghz(plan)[0] < free[0]  # it waits for d-1 anyway
    assert [sorted(one) for one in world.asked[1:]] == [["d-0", "d-1", "d-2"], ["d-0", "d-2"]]
    assert world.mismatches == 0  # its limit was not told to be in force
    world.stuck = {}
    assert all(one.applied for one in world.plays(3).participants)


def unequal(least: int, most: int) -> dict[str, Any]:
    """Steps that are drawn anew every round, each number once."""
    rule = {"distribution": "linear", "min": least, "max": most, "redraw": True}
    return {"perDevice": rule}


def test_devices_with_unequal_steps_finish_together() -> None:
    world = World(spec(policy="equalize", energyWeight=0.001, steps=unequal(20, 36)))
    world.plays(1)
    drawn = set()
    for number in range(2, 9):
        plan = world.plays(number)
        steps = [one.steps for one in plan.participants]
        assert sorted(steps) == [20, 28, 36]
        assert spread_s(world, plan) < 0.01
        drawn.add(tuple(steps))
    assert len(drawn) > 1


def test_a_plan_around_a_device_whose_limit_stays_keeps_the_steps() -> None:
    rule = unequal(20, 36)
    job = spec(policy="equalize", energyWeight=0.001, steps=rule)
    world, free = World(job, stuck={"d-1": 0.5}), World(job)
    for number in (1, 2, 3):
        stuck, other = world.plays(number), free.plays(number)
        assert [one.steps for one in stuck.participants] == [
            one.steps for one in other.participants
        ]
    assert ghz(stuck)[0] < ghz(other)[0]


def test_a_budget_is_planned_from_the_work_that_the_first_round_showed() -> None:
    world = World(spec(steps={"budgetSeconds": 2.02}))
    first = world.plays(1)
    assert [(one.asked_steps(), one.budget_seconds) for one in first.participants] == [
        (None, 2.02)
    ] * 3
    assert [one["update"]["steps"] for one in world.report(first)["clients"]] == [41] * 3
    second = world.plays(2)
    assert [(one.steps, one.budget_seconds) for one in second.participants] == [(40, 2.02)] * 3


def test_a_device_that_has_less_than_its_cores_is_asked_for_what_it_can_do_in_a_budget() -> None:
    world = World(spec(steps={"budgetSeconds": 2.02}), stuck={"d-1": 0.5})
    world.plays(1)
    plan = world.plays(2)
    assert [one.steps for one in plan.participants] == [40, 10, 40]
    assert [one["update"]["steps"] for one in world.report(plan)["clients"]] == [40, 10, 40]
    world.stuck = {}
    assert [one.steps for one in world.plays(3, 4).participants] == [40] * 3


def test_a_record_of_a_round_has_the_work_of_each_devices_own_steps() -> None:
    world = World(spec(policy="ppo", online=True, steps=unequal(20, 36)))
    world.plays(1, 2, 3, telemetry=measured(8, 8, 8))
    finished = world.finished[-1]
    record = record_of(finished)
    assert record is not None
    steps = [one.steps for one in finished.planned.plan.participants]
    assert sorted(steps) == [20, 28, 36]
    work = [2.0 * WORK_PER_STEP * count for count in steps]  # Gcycles at 1 core and 2 GHz
    assert record.observation.devices.work[0] == pytest.approx(work)


def test_a_limit_that_was_said_to_be_in_force_is_held_against_the_report() -> None:
    world = World(spec())
    plan = world.plays(1)
    world.stuck = {"d-2": 0.7}
    world.plays(2)
    assert plan.participants[2].applied
    assert world.mismatches == 1
    assert world.state.mismatches == {"d-2": "0.70 GHz instead of 2.00 GHz"}


def test_without_telemetry_reports_stand_in_and_the_state_says_why() -> None:
    world = World(spec(policy="equalize", energyWeight=0.001))
    world.plays(1, 2, telemetry=measured(8, 8, 8))
    assert world.state.telemetry_problem is None
    plan = world.plays(3, telemetry=Insight(problem="Prometheus did not answer"))
    assert world.state.telemetry_problem == "Prometheus did not answer"
    assert spread_s(world, plan) < 0.01
    world.plays(4, telemetry=measured(8, 8))
    assert world.state.telemetry_problem == (
        "Prometheus has no fresh bandwidth of 1 of 3 devices: d-2"
    )
    world.plays(5, telemetry=measured(8, 8, 8))
    assert world.state.telemetry_problem is None


def test_a_policy_that_is_missing_is_told_once_and_again_when_it_goes_again() -> None:
    world = World(spec(policy="ppo"))
    missing = "there is no ConfigMap mine"
    world.plays(1, 2, 3, policy_problem=missing)
    assert [(note.type, note.message) for note in world.events] == [
        ("Warning", f"policy equalize stands in for ppo: {missing}")
    ]
    assert world.state.policy_problem == missing
    assert ghz(world.plays(4)) == [2.0, 2.0, 2.0]  # the policy of this test is `maximum`
    assert world.state.policy_problem is None
    world.plays(5, policy_problem=missing)
    assert world.reasons() == ["PolicyUnavailable"] * 2


def test_devices_that_slow_themselves_are_told_once() -> None:
    world = World(spec(), refuses={"d-0": "forbidden"})
    world.plays(1, 2, 3)
    assert world.reasons() == ["CooperativeThrottling"]


def test_a_cooperative_job_puts_nothing_in_force() -> None:
    world = World(spec(actuator="cooperative"))
    plan = world.plays(1, 2)
    assert world.asked == []
    assert all(one.applied and one.actuator is Actuator.COOPERATIVE for one in plan.participants)


def test_notices_are_told_once_while_they_are_repeated() -> None:
    world = World(spec())
    notice = {"type": "Warning", "reason": "CheckpointFailed", "message": "no space"}
    world.plays(1, 1, 2, notices=[notice], checkpointProblem="no space")
    assert world.reasons() == ["CheckpointFailed"]
    assert world.state.checkpoint_problem == "no space"
    world.plays(3)
    world.plays(4, notices=[notice])
    assert world.reasons() == ["CheckpointFailed"] * 2
    assert world.state.checkpoint_problem is None


def test_who_is_given_up_is_known_for_as_long_as_requests_say_so() -> None:
    world = World(spec())
    world.plays(1, givenUp="client d-0: raised")
    assert world.state.given_up == "client d-0: raised"
    world.plays(2)
    assert world.state.given_up is None


def test_a_repeated_request_counts_once() -> None:
    world = World(spec(online=True))
    world.plays(1)
    world.stuck = {"d-0": 0.7}
    request = world._request(2, {})
    for _ in range(3):
        world._step(request, None, None)
    assert world.mismatches == 1
    assert [one.report.round for one in world.finished] == [1]


@pytest.mark.parametrize(("online", "rounds"), [(True, [1, 2, 3]), (False, [])])
def test_a_job_that_learns_gets_its_rounds_with_what_was_known_before_them(
    online: bool, rounds: Sequence[int]
) -> None:
    world = World(spec(policy="ppo", online=online))
    world.plays(1, 2, 3, 4, telemetry=measured(8, 7, 6))
    assert [one.report.round for one in world.finished] == rounds
    assert [one.planned.plan.round for one in world.finished] == rounds
    for one in world.finished:
        assert one.planned.insight.of("d-1").slots_mbps == (7.0,) * (len(EDGES_S) - 1)
        assert one.planned.at_s == BEGAN.timestamp() + 10 * one.report.round


def test_an_outcome_brings_the_last_report() -> None:
    world = World(spec())
    last = RoundReport.model_validate(world.report(world.plays(1, 2)))
    end = Outcome(result="RoundsCompleted", message="2 rounds", report=last)
    state = ended(world.state, end)
    assert (state.outcome, state.report) == (end, last)
    without = Outcome(result="Failed", message="no")
    assert ended(world.state, without).report is world.state.report


def private() -> FederatedJobSpec:
    """A job that hides its clients."""
    return spec().model_copy(update={"privacy": Privacy(clip_norm=1, noise_multiplier=2)})


def test_a_plan_of_a_private_job_goes_on_from_what_was_said_before() -> None:
    job = World(private())
    assert accounts(job, [0, 1, 2]) == [(0, 0), (1, 0), (2, 0)]
    assert job.state.private_rounds == 2
    assert accounts(job, [0, 1]) == [(3, 3), (3, 3)]  # its volume is lost
    assert job.state.private_rounds == 2
    assert accounts(job, [3, 4]) == [(3, 0), (4, 0)]


def test_a_volume_that_is_lost_with_the_first_model_is_noticed() -> None:
    """Whoever asks again before its plan has arrived is told the same again."""
    job, told = World(private()), []
    for number, (rounds, name, models) in enumerate(
        [(0, "a", 0), (0, "b", 0), (0, "b", 0), (1, "b", 1), (2, "b", 2)], 1
    ):
        mark = {"ledger": name * 32, "models": models}
        plan = job.plays(number, privateRounds=rounds, ledger=mark).privacy
        assert plan is not None
        told.append((plan.rounds, plan.least_rounds, plan.least_models))
    assert told == [(0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 0, 0), (2, 0, 0)]


def test_a_restarted_operator_goes_on_from_the_status() -> None:
    clients = [{"client": one, "incarnation": "a", "examples": 1} for one in CLIENTS]
    request = PlanRequest.model_validate({"round": 1, "clients": clients, "privateRounds": 0})
    plan = draw(JobState(), request, basis=Basis(private(), Insight(), private=Counted(7))).plan
    assert plan.privacy is not None
    assert (plan.privacy.rounds, plan.privacy.least_rounds) == (8, 8)


def test_a_plan_that_is_made_anew_around_a_device_has_the_same_account() -> None:
    static = spec(policy="static").model_copy(update={"privacy": private().privacy})
    job = World(static, stuck={CLIENTS[0]: 2.0})
    plan = job.plays(1, telemetry=measured(5.0, 5.0, 5.0), privateRounds=1)
    assert plan.privacy is not None
    assert plan.privacy.rounds == 1


def accounts(job: World, told: Sequence[int]) -> list[tuple[int, int]]:
    """What rounds are told of the account, for each count that a cloud pod says."""
    plans = [job.plays(number, privateRounds=one).privacy for number, one in enumerate(told, 1)]
    return [(one.rounds, one.least_rounds) for one in plans if one is not None]
