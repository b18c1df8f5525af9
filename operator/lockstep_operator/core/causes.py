"""Why something of a job is not there or not well, in the words of who refused it.

`conditions` makes Ready of it, `decide` the events. A cause comes from whichever object has it: a
child that the apiserver refuses, a StatefulSet that may not make its pods, a claim that is not
bound, a pod that does not start or has ended. The same cause in other words (counts, times, another
pod of a set) has the same signature, so that it is told once.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from lockstep_api.names import ROLE_LABEL, Role
from lockstep_operator.core.model import (
    Complaint,
    EventNote,
    Manifest,
    ObjectRef,
    Observed,
    PodView,
)
from lockstep_operator.core.ownership import own

SETTLES_S = 5.0
"""What keeps a pod from starting may pass by itself for so long; then an event tells it."""
MOST_TOLD = 5
_PACE_S = 10.0
"""Between two events of the same reason: words may be another in each try."""
_CLAIM = "PersistentVolumeClaim"
_SIGNIFICANT = 200
_NUMBERS = re.compile(r"[0-9a-f]*[0-9][0-9a-f]*(?:[.:,][0-9]+)*")
_ORDINAL = re.compile(r"-[0-9]+$")
_TOLD_WITH = re.compile(
    r"^(?:CrashLoopBackOff|Restarted|ErrImagePull|ImagePullBackOff): "
    r'(?:Back-off pulling image "[^"]*"(?:: ErrImagePull)?:? ?)?'
    r"|^Restarting: [0-9]+ restarts; "
)
"""The kubelet's words for the same failure before, between and during its next tries."""
_IN_STATUS = frozenset({"FailedScheduling", "Failed", "InspectFailed", "BackOff", "Unhealthy"})
"""Warnings about a pod whose status says the same, if a moment later and in other words."""
_NOT_YET = "no relationship found between node"
"""A kubelet may read a pod's claim once the apiserver's authorizer has heard of the pod, too."""
_HINTS = (("maximum cpu usage per", "lower the CPU of the spec, or have the LimitRange raised"),)
_NEEDS_LIMIT = "must specify limits.cpu"


class CauseReason(StrEnum):
    """What a condition's reason says of a cause."""

    CHILD_REFUSED = "ChildRefused"
    PODS_NOT_CREATED = "PodsNotCreated"
    CLAIM_NOT_BOUND = "ClaimNotBound"
    POD_PROBLEM = "PodProblem"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something is not there or not well."""

    reason: CauseReason
    where: str
    """The object; of several pods with the same cause the first."""
    words: str
    signature: str
    """What stays when only counts, times or the pod differ."""
    settles_at: float = 0.0
    """Unix seconds until which it may pass by itself."""
    more: int = 0
    """How many other pods have it."""

    def __str__(self) -> str:
        others = f" and {self.more} more" if self.more else ""
        return f"{self.where}{others}: {self.words}"


def causes(observed: Observed) -> list[Cause]:
    """All of them, those first without which others cannot go away."""
    claims = [*_claims(observed)]
    pods = [one for one in _pods(observed) if not claims or _CLAIM not in one.words]
    return [*_once([*_refused(observed), *_sets(observed), *claims, *pods])]


def told(
    found: Sequence[Cause], *, since: str, now: datetime
) -> tuple[tuple[EventNote, ...], float | None]:
    """One event a cause while a job is not ready, and when to look at those that may pass.

    Args:
        since: when it was ready last, as its condition says.
    """
    lasting = [one for one in found if one.settles_at <= now.timestamp()]
    notes = tuple(
        EventNote("Warning", one.reason, str(one), every_s=_PACE_S, once=f"{since} {one.signature}")
        for one in lasting[:MOST_TOLD]
    )
    waits = [one.settles_at - now.timestamp() for one in found if one not in lasting]
    return notes, min(waits, default=None)


def _once(found: Iterable[Cause]) -> Iterator[Cause]:
    """Each cause once, with how many have it, and settled as soon as one of them is."""
    by_signature: dict[str, Cause] = {}
    for one in found:
        first = by_signature.setdefault(one.signature, one)
        if first is not one:
            by_signature[one.signature] = replace(
                first, more=first.more + 1, settles_at=min(first.settles_at, one.settles_at)
            )
    return iter(by_signature.values())


def _refused(observed: Observed) -> Iterator[Cause]:
    for one in observed.refused:
        where = f"{one.ref.kind} {one.ref.name}"
        yield _cause(CauseReason.CHILD_REFUSED, where, words=one.message)


def _sets(observed: Observed) -> Iterator[Cause]:
    """What a StatefulSet says that lacks pods: quota, LimitRange, PodSecurity, webhooks …"""
    for ref, complaint in _complaints(observed, "StatefulSet"):
        words = _said(complaint)
        if _NEEDS_LIMIT in words:  # devices always have one
            is_edge = _role(observed, ref) == Role.EDGE
            words = f"{words}; set spec.{'edges[]' if is_edge else 'cloud'}.cpuLimit"
        yield _cause(CauseReason.PODS_NOT_CREATED, f"{ref.kind} {ref.name}", words=words)


def _role(observed: Observed, ref: ObjectRef) -> str:
    """Of a child that is there."""
    labels = observed.children.get(ref, {}).get("metadata", {}).get("labels") or {}
    return str(labels.get(ROLE_LABEL, ""))


def _claims(observed: Observed) -> Iterator[Cause]:
    """A claim that is not bound although its pod waits for it, or of which somebody warns."""
    complaints = dict(_complaints(observed, _CLAIM))
    waiting = [pod for pod in observed.pods if _CLAIM in (pod.problem or "")]
    for ref, claim in own(observed).items():
        if ref.kind != _CLAIM or claim.get("status", {}).get("phase") == "Bound":
            continue
        complaint = complaints.get(ref)
        if complaint is None and not waiting:
            continue
        where = f"{ref.kind} {ref.name}"
        settles_at = max((_settles_at(pod) for pod in waiting), default=0.0)
        found = _cause(CauseReason.CLAIM_NOT_BOUND, where, words=_unbound(claim, None))
        yield replace(found, words=_unbound(claim, complaint), settles_at=settles_at)


def _unbound(claim: Manifest, complaint: Complaint | None) -> str:
    storage_class = claim.get("spec", {}).get("storageClassName")
    said = "" if complaint is None else f": {_said(complaint)}"
    if storage_class:
        return f"is not bound, of StorageClass {storage_class}{said}"
    why = "names no StorageClass, and the cluster has no default one"
    return f"is not bound: it {why}: set spec.cloud.storage.storageClassName{said}"


def _pods(observed: Observed) -> Iterator[Cause]:
    """What the status of a pod says; of one that waits without a word, what is warned of."""
    complaints = {
        ref.name: said
        for ref, said in _complaints(observed, "Pod")
        if said.reason not in _IN_STATUS and _NOT_YET not in said.message
    }
    pods = (pod for pod in observed.pods if pod.role != Role.TRAINER)
    for pod in sorted(pods, key=lambda pod: pod.name):
        words = None if pod.ready else pod.problem
        passing = words is not None and words.startswith("Unschedulable")
        if not pod.ready and pod.waits and pod.name in complaints:
            words, passing = _said(complaints[pod.name]), True
        if words is not None:
            settles_at = _settles_at(pod) if passing else 0.0
            yield _cause(CauseReason.POD_PROBLEM, pod.name, words=words, settles_at=settles_at)


def _settles_at(pod: PodView) -> float:
    return pod.created_at + SETTLES_S if pod.created_at else 0.0


def _complaints(observed: Observed, kind: str) -> Iterator[tuple[ObjectRef, Complaint]]:
    """What was warned of about the job's own objects of a kind."""
    found: Mapping[ObjectRef, Complaint] = observed.complaints
    strangers = observed.children.keys() - own(observed).keys()
    return ((ref, found[ref]) for ref in sorted(found) if ref.kind == kind and ref not in strangers)


def _said(complaint: Complaint) -> str:
    hints = [hint for part, hint in _HINTS if part in complaint.message]
    return "; ".join([f"{complaint.reason}: {complaint.message}", *hints])


def _cause(reason: CauseReason, where: str, *, words: str, settles_at: float = 0.0) -> Cause:
    return Cause(reason, where, words, f"{reason} {_signature(where, words)}", settles_at)


def _signature(where: str, words: str) -> str:
    """The end of the last line, without numbers: a crash's first words may be cut anywhere.

    Nor the name of the object or, of a pod, its set: others may have the same cause.
    """
    name = _ORDINAL.sub("", where.rpartition(" ")[2])
    last = _TOLD_WITH.sub("", words.strip()).rpartition("\n")[2]
    return _NUMBERS.sub("#", last.replace(name, "*"))[-_SIGNIFICANT:]
