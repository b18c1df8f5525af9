"""The events of a job that is to run, beside the one for a new phase; `decide` adds them.

Each has a pace of its own (`EventNote.every_s`, `once`): they are asked for as long as they hold.
"""

from collections.abc import Sequence
from datetime import datetime

from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import ConditionType, FederatedJobStatus, Phase
from lockstep_operator.core.advice import advised
from lockstep_operator.core.causes import Cause, told
from lockstep_operator.core.conditions import CLIENTS_MISSING, PODS_NOT_READY, missing, moment
from lockstep_operator.core.model import EventNote
from lockstep_operator.core.state import JobState

_PATIENCE_S = 60.0
"""How long pods may take to be ready, and between two events about clients that are missing."""
_REMINDER_S = 600.0
_BEFORE_ROUNDS = (Phase.PENDING, Phase.STARTING)

Notes = tuple[tuple[EventNote, ...], float | None]
"""What is told, and the seconds after which to look again; None: time changes nothing."""


def reminders(
    status: FederatedJobStatus, heard: JobState | None, *, why: Sequence[Cause], now: datetime
) -> Notes:
    """What keeps the job from being ready, who is missing, which pods are late."""
    parts = (_causes(status, why, now=now), (_missing(status, heard), None), _late(status, now))
    waits = [look_again_s for _, look_again_s in parts if look_again_s is not None]
    return tuple(note for notes, _ in parts for note in notes), min(waits, default=None)


def on_acceptance(spec: FederatedJobSpec, phase: Phase | None) -> tuple[EventNote, ...]:
    """What a user should know before the job runs: each time that it waits for its first round."""
    return advised(spec) if phase in _BEFORE_ROUNDS else ()


def _causes(status: FederatedJobStatus, why: Sequence[Cause], *, now: datetime) -> Notes:
    """What keeps the job from being ready, and when to look whether it does."""
    ready = status.condition(ConditionType.READY)
    if ready is None or ready.status == "True":
        return (), None
    return told(why, since=ready.last_transition_time, now=now)


def _late(status: FederatedJobStatus, now: datetime) -> Notes:
    """A starting job whose pods take long tells which; and when to look whether they do."""
    active = moment(status.active_time)
    if status.phase is not Phase.STARTING or active is None:
        return (), None
    left_s = _PATIENCE_S - (now - active).total_seconds()
    ready = status.condition(ConditionType.READY)
    if left_s > 0 or ready is None or ready.reason != PODS_NOT_READY:
        return (), left_s if left_s > 0 else None
    return (EventNote("Warning", PODS_NOT_READY, ready.message, every_s=_REMINDER_S),), None


def _missing(status: FederatedJobStatus, report: JobState | None) -> tuple[EventNote, ...]:
    """Clients that gave nothing to the last round are named, but not for every round."""
    if report is None or report.report is None or not report.report.lost:
        return ()
    if status.phase is not Phase.RUNNING:
        return ()
    return (EventNote("Warning", CLIENTS_MISSING, missing(report.report), every_s=_PATIENCE_S),)
