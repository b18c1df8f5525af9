"""How long a job may run, take to start and stay after its end; `decide` acts on it."""

from datetime import datetime

from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import Phase
from lockstep_operator.core.causes import causes
from lockstep_operator.core.conditions import Finding, moment, readiness
from lockstep_operator.core.model import JobView, Observed
from lockstep_operator.core.status import is_running


def kept_s(spec: FederatedJobSpec | None, ended: str | None, *, now: datetime) -> float | None:
    """Seconds for which a job that has ended is still kept; None: for ever."""
    end = moment(ended)
    if end is None or spec is None or spec.ttl_seconds_after_finished is None:
        return None
    return max(0.0, spec.ttl_seconds_after_finished - (now - end).total_seconds())


def left_s(observed: Observed, spec: FederatedJobSpec, *, now: datetime) -> float | None:
    """Seconds until the job has been active, or without a round, for too long; None: no limit."""
    limits = [spec.active_deadline_seconds]
    if not is_running(observed):
        limits.append(spec.start_deadline_seconds)
    times = [_of(limit, observed.job, now=now) for limit in limits]
    return min((s for s in times if s is not None), default=None)


def _of(limit: int | None, job: JobView, *, now: datetime) -> float | None:
    active = moment(job.status.active_time)
    if limit is None or active is None or job.status.phase is Phase.SUSPENDED:
        return None
    return limit - (now - active).total_seconds()


def exceeded(observed: Observed, spec: FederatedJobSpec, *, now: datetime) -> Finding | None:
    """Which limit of time a job has passed; of one that did not start also what kept it."""
    active_s = _of(spec.active_deadline_seconds, observed.job, now=now)
    if active_s is not None and active_s <= 0:
        message = f"the job was active for longer than {spec.active_deadline_seconds} s"
        return Finding("True", "DeadlineExceeded", message)
    start_s = _of(spec.start_deadline_seconds, observed.job, now=now)
    if start_s is None or start_s > 0 or is_running(observed):
        return None
    why = readiness(observed, spec, found=causes(observed)).message
    message = f"no round began within {spec.start_deadline_seconds} s: {why}"
    return Finding("True", "StartDeadlineExceeded", message)
