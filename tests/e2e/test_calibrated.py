"""docs/examples/calibrated.yaml on real pods: steps and frequencies that are planned together."""

from collections.abc import Callable

import pytest
import yaml

from lockstep_api.wire import RoundReport
from tests.e2e.running import (
    EXAMPLE,
    Json,
    apply,
    condition,
    in_phase,
    on_volume,
    pods,
    watch,
)

pytestmark = [pytest.mark.cluster]

ROUNDS = 8
HISTORY = "print(open('/data/history.jsonl').read())"
MAX_GHZ = {"fast": 3.0, "medium": 1.0, "slow": 0.3}


def job() -> Json:
    """The example, with few rounds."""
    made: Json = yaml.safe_load((EXAMPLE.parent / "calibrated.yaml").read_text())
    made["spec"]["training"]["rounds"] = ROUNDS
    made["spec"]["cloud"] = {"cpu": "100m"}
    return made


def gathers(
    plans: dict[int, Json], limits: dict[int, Json], namespace: str
) -> Callable[[Json], bool]:
    """Keeps every round's last plan that the status shows, and the pods' limits at that time; until
    the end."""

    def look(seen: Json) -> bool:
        plan = seen.get("status", {}).get("lastPlan") or {"round": 0, "clients": []}
        entries = {one["client"]: one for one in plan["clients"]}
        if entries != plans.get(plan["round"], {}):
            plans[plan["round"]] = entries
            limits[plan["round"]] = {
                pod["metadata"]["name"]: pod["spec"]["containers"][0]["resources"]["limits"]["cpu"]
                for pod in pods(namespace, "calibrated", "device")
            }
        return in_phase("Completed", "Failed")(seen)

    return look


def is_in_force(plan: Json) -> bool:
    """Whether kubelets were in time with all limits of a plan."""
    return all(one["applied"] for one in plan.values())


def test_steps_and_limits_are_planned_each_round(lockstep: str) -> None:
    apply(lockstep, job())
    plans: dict[int, Json] = {}
    limits: dict[int, Json] = {}
    ended = watch(lockstep, "calibrated", gathers(plans, limits, lockstep))
    assert ended["status"]["phase"] == "Completed"
    if is_in_force(plans[ended["status"]["lastPlan"]["round"]]):
        assert condition(ended, "Degraded").get("reason") != "FrequencyNotApplied"
    assert any(map(is_in_force, plans.values()))
    lines = on_volume(lockstep, "calibrated-cloud", HISTORY).splitlines()
    rounds = [RoundReport.model_validate_json(line) for line in lines if line]
    assert len(rounds) == ROUNDS
    for report in rounds:
        told = {
            one.update.client: (one.update.steps, one.update.frequency_ghz)
            for one in report.clients
        }
        print(report.round, f"{report.seconds:.2f} s, accuracy {report.accuracy}:", told)
        assert {one.update.client: one.asked_steps for one in report.clients} == {
            client: steps for client, (steps, _) in told.items()
        }
        for client, plan in plans.get(report.round, {}).items() if report.planned else ():
            assert told[client][0] == plan["steps"]
            if plan["applied"]:
                assert told[client][1] == pytest.approx(plan["frequencyGHz"], rel=0.05)
    print("limits of pods:", limits)
    first, *later = rounds
    assert {one.update.steps for one in first.clients} == {4}  # nobody knows the work yet
    for report in later:
        steps = [one.update.steps for one in report.clients]
        assert min(steps) >= 4
        assert max(steps) <= 20 * min(steps)
    by_group: dict[str, list[int]] = {group: [] for group in MAX_GHZ}
    for report in later:
        for one in report.clients:
            group = one.update.client.rsplit("-", 1)[0]
            by_group[group].append(one.update.steps)
            if group == "slow":
                assert one.update.frequency_ghz > 0.6 * MAX_GHZ[group]
    assert len({*by_group["medium"], *by_group["fast"]}) > 1  # they change from round to round
    assert max(by_group["fast"]) > 2 * min(by_group["slow"])
