"""What to do about one job, from everything observed about it; `reconcile` calls `decide`.

Level-triggered: the same observation gives the same decision, and once a decision has been
carried out the next one asks for nothing. A finished job is left alone but for its pods.
"""

from collections.abc import Iterable
from datetime import datetime

from lockstep_api import names
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import ConditionType, FederatedJobStatus, Phase
from lockstep_api.wire import Outcome
from lockstep_operator.core.children import children, reference, spec_hash
from lockstep_operator.core.conditions import Finding, degradation, readiness, timestamp
from lockstep_operator.core.model import (
    Decision,
    EventNote,
    JobView,
    Manifest,
    ObjectRef,
    Observed,
    Settings,
)
from lockstep_operator.core.placement import Placement, Refused, place
from lockstep_operator.core.status import (
    connected,
    progress_of,
    read_placement,
    status_for,
    with_progress,
    written_placement,
)
from lockstep_operator.core.support import unsupported

TERMINAL = (Phase.COMPLETED, Phase.FAILED)
_STARTED = (Phase.STARTING, Phase.RUNNING)
_STOPPED_KINDS = ("StatefulSet", "Service", "ServiceAccount")
_WARNINGS = (Phase.PENDING, Phase.REFUSED, Phase.FAILED)
_ACCEPTED = Finding("True", "Valid", "the job can be run")
_NOT_READY = Finding("False", "NotPlaced", "the job has no pods yet")


def decide(observed: Observed, settings: Settings, now: datetime) -> Decision:
    """Children to apply and delete, the status to write and events to emit."""
    job = observed.job
    if job.status.phase in TERMINAL:
        return Decision((), _to_stop(observed), job.status, ())
    if observed.report is not None and observed.report.outcome is not None:
        return _finish(observed, observed.report.outcome, now=now)
    if job.spec is None:
        refusal = Finding("False", "InvalidSpec", job.spec_error or "the spec is unreadable")
        return _refuse(observed, refusal, now)
    if reasons := unsupported(job.spec):
        return _refuse(observed, Finding("False", "NotSupported", "; ".join(reasons)), now)
    return _run(observed, job.spec, settings=settings, now=now)


def _run(
    observed: Observed, spec: FederatedJobSpec, *, settings: Settings, now: datetime
) -> Decision:
    """Place the job if it has no place, and bring its children about.

    A started job one of whose nodes is gone keeps its place until another one fits.
    """
    kept = read_placement(observed.job.status, spec)
    found = kept if kept and not _node_gone(kept, observed) else place(spec, observed.nodes)
    if not isinstance(found, Refused):
        progressing = _progressing(observed)
        placement = found
    elif kept is not None and _has_started(observed):
        message = f"a node of the job is gone, and without it the job {found.message}"
        progressing = Finding("False", "DoesNotFit", message)
        placement = kept
    else:
        return _wait(observed, spec, message=found.message, now=now)
    status = _running_status(observed, spec, placement=placement, progressing=progressing, now=now)
    wanted = children(observed.job, placement, settings)
    events = _events(observed.job, status, "pods are being started")
    return Decision(_to_apply(observed, wanted), _to_replace(observed, wanted), status, events)


def _progressing(observed: Observed) -> Finding:
    if _is_running(observed):
        return Finding("True", "Training", "rounds are running")
    return Finding("True", "Starting", "pods are starting")


def _is_running(observed: Observed) -> bool:
    """Round 1 has been planned, as the status or the report says."""
    heard = progress_of(observed.report)
    known = observed.job.status.start_time is not None
    return known or heard.plan is not None or heard.report is not None


def _has_started(observed: Observed) -> bool:
    return observed.job.status.phase in _STARTED or observed.job.status.start_time is not None


def _node_gone(placement: Placement, observed: Observed) -> bool:
    known = {node.name for node in observed.nodes}
    used = {*placement.cloud, *(name for nodes in placement.groups.values() for name in nodes)}
    return not used <= known


def _running_status(
    observed: Observed,
    spec: FederatedJobSpec,
    *,
    placement: Placement,
    progressing: Finding,
    now: datetime,
) -> FederatedJobStatus:
    heard = progress_of(observed.report)
    base = with_progress(observed.job.status, heard, spec=spec, now=now).model_copy(
        update={
            "placement": written_placement(placement),
            "clients": connected(observed, spec),
        }
    )
    findings = {
        ConditionType.ACCEPTED: _ACCEPTED,
        ConditionType.READY: readiness(observed, spec),
        ConditionType.PROGRESSING: progressing,
        ConditionType.DEGRADED: degradation(base, observed.report),
    }
    phase = Phase.RUNNING if _is_running(observed) else Phase.STARTING
    return status_for(observed, phase=phase, base=base, findings=findings, now=now)


def _wait(observed: Observed, spec: FederatedJobSpec, *, message: str, now: datetime) -> Decision:
    """Nothing is created; the next resync tries again."""
    base = with_progress(
        observed.job.status, progress_of(observed.report), spec=spec, now=now
    ).model_copy(update={"clients": connected(observed, spec)})
    findings = {
        ConditionType.ACCEPTED: _ACCEPTED,
        ConditionType.READY: _NOT_READY,
        ConditionType.PROGRESSING: Finding("False", "DoesNotFit", message),
    }
    status = status_for(observed, phase=Phase.PENDING, base=base, findings=findings, now=now)
    return Decision((), (), status, _events(observed.job, status, message))


def _refuse(observed: Observed, refusal: Finding, now: datetime) -> Decision:
    """Leaves alone what runs already: an edit that takes the reason away goes on."""
    findings = {
        ConditionType.ACCEPTED: refusal,
        ConditionType.PROGRESSING: Finding("False", refusal.reason, "the job is refused"),
    }
    base = observed.job.status
    status = status_for(observed, phase=Phase.REFUSED, base=base, findings=findings, now=now)
    return Decision((), (), status, _events(observed.job, status, refusal.message))


def _finish(observed: Observed, outcome: Outcome, *, now: datetime) -> Decision:
    """The job has ended: its last numbers, the outcome, and no more pods."""
    failed = outcome.result == "Failed"
    kind = ConditionType.FAILED if failed else ConditionType.COMPLETE
    reason = "TrainingFailed" if failed else outcome.result
    findings = {
        ConditionType.READY: Finding("False", "Finished", "the job has ended"),
        ConditionType.PROGRESSING: Finding("False", "Finished", "the job has ended"),
        kind: Finding("True", reason, outcome.message),
    }
    phase = Phase.FAILED if failed else Phase.COMPLETED
    base = _final_numbers(observed, now)
    status = status_for(observed, phase=phase, base=base, findings=findings, now=now)
    events = _events(observed.job, status, outcome.message)
    return Decision((), _to_stop(observed), status, events)


def _final_numbers(observed: Observed, now: datetime) -> FederatedJobStatus:
    job, heard = observed.job, progress_of(observed.report)
    base = with_progress(job.status, heard, spec=job.spec, now=now)
    updates: dict[str, object] = {"completion_time": timestamp(now)}
    if heard.report is not None and job.spec is not None:
        updates["clients"] = f"{len(heard.report.clients)}/{job.spec.clients()}"
    return base.model_copy(update=updates)


def _to_stop(observed: Observed) -> tuple[ObjectRef, ...]:
    """What a finished job no longer needs; its settings and its volume stay."""
    return tuple(
        ref
        for ref, manifest in observed.children.items()
        if ref.kind in _STOPPED_KINDS and not _is_going(manifest)
    )


def _to_apply(observed: Observed, wanted: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """The children that are missing or were applied in another form."""
    return tuple(manifest for manifest in wanted if _differs(observed, manifest))


def _differs(observed: Observed, manifest: Manifest) -> bool:
    existing = observed.children.get(reference(manifest))
    if existing is None:
        return True
    if _is_going(existing) or _is_of_another(existing, observed.job):
        return False
    return spec_hash(existing) != spec_hash(manifest) or _scaled(existing, manifest)


def _scaled(existing: Manifest, manifest: Manifest) -> bool:
    """Whether somebody else has set another number of pods: the hash does not see that."""
    wanted = manifest.get("spec", {}).get("replicas")
    return wanted is not None and existing.get("spec", {}).get("replicas") != wanted


def _to_replace(observed: Observed, wanted: Iterable[Manifest]) -> tuple[ObjectRef, ...]:
    """Left over from a deleted job of the same name: they go before ours can come."""
    found = [(ref, observed.children.get(ref)) for ref in map(reference, wanted)]
    return tuple(
        ref
        for ref, manifest in found
        if manifest is not None
        and not _is_going(manifest)
        and _is_of_another(manifest, observed.job)
    )


def _is_going(manifest: Manifest) -> bool:
    return bool(manifest["metadata"].get("deletionTimestamp"))


def _is_of_another(manifest: Manifest, job: JobView) -> bool:
    """Whether an earlier job of this name owns the object, and this one does not."""
    owners = manifest["metadata"].get("ownerReferences") or []
    uids = {owner["uid"] for owner in owners if owner.get("kind") == names.KIND}
    return bool(uids) and job.uid not in uids


def _events(job: JobView, status: FederatedJobStatus, message: str) -> tuple[EventNote, ...]:
    """One event when the phase changes."""
    if status.phase is None or status.phase is job.status.phase:
        return ()
    if status.phase is Phase.RUNNING:
        message = "round 1 has been planned"
    kind = "Warning" if status.phase in _WARNINGS else "Normal"
    return (EventNote(kind, status.phase.value, message),)
