"""The conditions of a job: setting one, and what Ready and Degraded say.

`status` and `decide` call it. A condition's transition time moves only when its status does.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from lockstep_api import names
from lockstep_api.settings import edge_names
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import Condition, ConditionType, FederatedJobStatus, PlannedClient
from lockstep_api.text import cut, few, printable
from lockstep_api.wire import ClientPlan, RoundReport
from lockstep_operator.core.causes import Cause
from lockstep_operator.core.model import Observed
from lockstep_operator.core.plan import fell_back, needs_telemetry
from lockstep_operator.core.state import JobState

Truth = Literal["True", "False", "Unknown"]

CLIENTS_MISSING = "ClientsMissing"
PODS_NOT_READY = "PodsNotReady"
_SHOWN = 5
_MAX_MESSAGE = 4096


@dataclass(frozen=True, slots=True)
class Finding:
    """What a condition is to say."""

    status: Truth
    reason: str
    message: str


def moment(text: str | None) -> datetime | None:
    """The time that `timestamp` wrote."""
    return None if text is None else datetime.fromisoformat(text)


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def set_condition(
    conditions: Sequence[Condition],
    type: ConditionType,
    *,
    found: Finding,
    generation: int,
    now: datetime,
) -> list[Condition]:
    """The conditions with one set, in its old place or at the end."""
    old = next((c for c in conditions if c.type is type), None)
    kept = old is not None and old.status == found.status
    new = Condition(
        type=type,
        status=found.status,
        reason=found.reason,
        message=cut(printable(found.message), _MAX_MESSAGE),
        observed_generation=generation,
        last_transition_time=old.last_transition_time if old and kept else timestamp(now),
    )
    if old is None:
        return [*conditions, new]
    return [new if c.type is type else c for c in conditions]


def readiness(observed: Observed, spec: FederatedJobSpec, *, found: Sequence[Cause]) -> Finding:
    """Ready: all that the job consists of could be written, and all its pods are ready; or why."""
    wanted = _pod_names(observed.job.key.name, spec)
    ready = {pod.name for pod in observed.pods if pod.ready}
    missing = [name for name in wanted if name not in ready]
    tiers = _ready_edges(observed.job.key.name, spec, ready=ready)
    if not missing and not observed.refused:
        return Finding("True", "AllPodsReady", f"all {len(wanted)} pods are ready{tiers}")
    message = f"{len(missing)} of {len(wanted)} pods are not ready{tiers}"
    if missing:
        message = f"{message}: {few(missing, _SHOWN)}"
    if found:
        why = few([str(one) for one in found], _SHOWN, comma="; ")
        return Finding("False", found[0].reason, f"{why}; {message}")
    return Finding("False", PODS_NOT_READY, message)


def _pod_names(job: str, spec: FederatedJobSpec) -> list[str]:
    devices = (
        names.client_pod(job, names.client_name(group.name, index))
        for group in spec.devices
        for index in range(group.replicas)
    )
    return [names.cloud_pod(job), *_edge_pods(job, spec), *devices]


def _edge_pods(job: str, spec: FederatedJobSpec) -> list[str]:
    return [names.edge_pod(job, edge) for edge in edge_names(spec)]


def _ready_edges(job: str, spec: FederatedJobSpec, *, ready: Set[str]) -> str:
    """How many of the edges are ready (", edges 1/2"); empty for a job without."""
    edges = _edge_pods(job, spec)
    return f", edges {len(ready & set(edges))}/{len(edges)}" if edges else ""


def degradation(status: FederatedJobStatus, report: JobState | None) -> Finding:
    """Degraded: a round that cannot be planned, no checkpoints, clients given up, missing or left
    out, frequencies not in force, no planner, devices that have to slow themselves although the job
    did not ask for that."""
    found = [*_degradations(status, report)]
    if not found:
        return Finding("False", "AsPlanned", "rounds run as planned")
    return Finding("True", found[0][0], "; ".join(message for _, message in found))


def _degradations(status: FederatedJobStatus, report: JobState | None) -> Iterator[tuple[str, str]]:
    """(reason, message) of everything that is not as it should be, the worst first."""
    if report is not None and report.plan_problem is not None:
        yield "RoundNotPlanned", report.plan_problem
    if report is not None and report.checkpoint_problem is not None:
        message = f"{report.checkpoint_problem}; rounds since the one before would be lost"
        yield "CheckpointFailed", message
    if report is not None and report.given_up is not None:
        yield "ClientsGivenUp", report.given_up
    if report is not None and report.report is not None and report.report.lost:
        yield CLIENTS_MISSING, missing(report.report)
    if out := _sitting_out(status):
        yield "ClientsSitOut", f"left out since their updates stood out: {few(out, _SHOWN)}"
    off = {entry.client: entry.reason or "not applied" for entry in _unapplied(status, report)}
    if report is not None:
        off |= report.mismatches
    if off:
        listed = few([f"{client} ({why})" for client, why in sorted(off.items())], _SHOWN)
        yield "FrequencyNotApplied", f"frequency not as planned: {listed}"
    if _bypassed(status, report):
        message = "the cloud pod could not reach the planner and used the plan before again"
        yield "PlannerBypassed", message
    if slowed := _slowed(status, report):
        listed = few([f"{client} ({why})" for client, why in sorted(slowed.items())], _SHOWN)
        message = (
            f"devices keep to their CPU limits themselves, as they cannot be resized: {listed}; "
            "allow pods/resize, or set allocation.actuator: cooperative"
        )
        yield "CooperativeThrottling", message


def telemetry(spec: FederatedJobSpec, report: JobState | None) -> Finding:
    """TelemetryDegraded: rounds are planned without what Prometheus should say, or energy that
    devices tell cannot be."""
    found = _telemetry(spec, report)
    doubts = () if report is None else report.energy_doubts
    if not doubts:
        return found
    told = f"energy that cannot be is not the job's: {few(doubts, _SHOWN, comma='; ')}"
    if found.status == "True":
        return replace(found, message=f"{found.message}; {told}")
    return Finding("True", "EnergyLeftOut", told)


def _telemetry(spec: FederatedJobSpec, report: JobState | None) -> Finding:
    if not needs_telemetry(spec):
        policy = spec.allocation.policy
        return Finding("False", "NotNeeded", f"allocation.policy {policy} needs no telemetry")
    if report is None or report.telemetry_problem is None:
        return Finding("False", "Fresh", "bandwidth and work come from Prometheus")
    message = f"{report.telemetry_problem}; the reports of rounds stand in"
    return Finding("True", "TelemetryMissing", message)


def missing(report: RoundReport) -> str:
    """Who gave nothing to a round."""
    everyone, who = len(report.lost) + len(report.clients), few(report.lost, _SHOWN)
    return f"the last round went without {len(report.lost)} of {everyone}: {who}"


def _slowed(status: FederatedJobStatus, report: JobState | None) -> dict[str, str]:
    plan = report.plan if report is not None and report.plan is not None else status.last_plan
    return {} if plan is None else fell_back(plan)


def _sitting_out(status: FederatedJobStatus) -> list[str]:
    """Who is left out of the coming round too, and until when."""
    last = status.last_round
    return [
        f"{one.client} (may return in round {one.returns})"
        for one in (last.sat_out if last else None) or ()
        if last and one.returns > last.round + 1
    ]


def _unapplied(
    status: FederatedJobStatus, report: JobState | None
) -> list[ClientPlan | PlannedClient]:
    """From the plan in memory, or after a restart of the operator from the last one written."""
    if report is not None and report.plan is not None:
        return [entry for entry in report.plan.participants if not entry.applied]
    if status.last_plan is None:
        return []
    return [entry for entry in status.last_plan.clients if not entry.applied]


def _bypassed(status: FederatedJobStatus, report: JobState | None) -> bool:
    if report is not None and report.report is not None:
        return not report.report.planned
    return status.last_plan is not None and not status.last_plan.planned
