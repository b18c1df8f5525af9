"""Who leads: what to do about a Lease as it was read. `election` acts on it.

As in client-go: a holder counts as alive for the lease's duration after *this* process saw the
lease change, so clocks of two machines are never compared. A leader that could not renew for the
renew deadline, which is shorter, has stopped before a successor may begin.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from lockstep_operator.core.model import Manifest

LEASE_API = "coordination.k8s.io/v1"
_MICRO = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of an election.

    Raises:
        ValueError: they do not keep two leaders apart.
    """

    lease_s: float = 20.0
    """How long a follower waits after the last change of the lease that it saw."""
    renew_within_s: float = 15.0
    """How long a leader may go without a renewal before it stops."""
    retry_s: float = 2.0
    """Between two looks at the lease."""

    def __post_init__(self) -> None:
        if not 0 < self.retry_s < self.renew_within_s < self.lease_s:
            raise ValueError(
                "leader election needs retry < renew deadline < lease duration, not "
                f"{self.retry_s:g} < {self.renew_within_s:g} < {self.lease_s:g} s"
            )


class Step(StrEnum):
    """What to do about a lease."""

    CREATE = "create"
    """There is none."""
    TAKE = "take"
    """It is free, was released, or its holder has been silent for too long."""
    RENEW = "renew"
    """It is ours."""
    WAIT = "wait"
    """Somebody else leads."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A lease and when its present state was first seen, in seconds of the own clock."""

    state: str
    since_s: float


def state_of(lease: Manifest) -> str:
    """What changes with every write to a lease."""
    return str(lease["metadata"].get("resourceVersion", ""))


def holder_of(lease: Manifest) -> str:
    """Who holds a lease; empty when it was released."""
    return str(lease.get("spec", {}).get("holderIdentity") or "")


def sighted(before: Sighting | None, lease: Manifest, *, now_s: float) -> Sighting:
    """The sighting of a lease that was read now."""
    state = state_of(lease)
    return before if before is not None and before.state == state else Sighting(state, now_s)


def next_step(
    lease: Manifest | None, seen: Sighting | None, *, me: str, now_s: float, timing: Timing
) -> Step:
    """What `me` has to do; `seen` is the sighting of this lease."""
    if lease is None or seen is None:
        return Step.CREATE
    if holder_of(lease) == me:
        return Step.RENEW
    # The holder's own duration counts: it may have been configured otherwise.
    return Step.WAIT if is_alive(lease, seen, now_s=now_s, timing=timing) else Step.TAKE


def is_alive(lease: Manifest, seen: Sighting, *, now_s: float, timing: Timing) -> bool:
    """Whether a lease has a holder that may still lead."""
    duration = float(lease.get("spec", {}).get("leaseDurationSeconds") or timing.lease_s)
    return bool(holder_of(lease)) and now_s < seen.since_s + duration


def lease_manifest(
    name: str, namespace: str, *, me: str, now: datetime, before: Manifest | None, timing: Timing
) -> Manifest:
    """The lease that makes or keeps `me` its holder.

    `before`, the lease as read, gives the resource version that the write depends on.
    """
    old: dict[str, Any] = (before or {}).get("spec", {})
    kept = before is not None and holder_of(before) == me
    at = now.astimezone(UTC).strftime(_MICRO)
    metadata: Manifest = {"name": name, "namespace": namespace}
    if before is not None:
        metadata["resourceVersion"] = state_of(before)
    return {
        "apiVersion": LEASE_API,
        "kind": "Lease",
        "metadata": metadata,
        "spec": {
            "holderIdentity": me,
            "leaseDurationSeconds": round(timing.lease_s),
            "acquireTime": old.get("acquireTime", at) if kept else at,
            "renewTime": at,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (not kept and bool(old)),
        },
    }


def released(lease: Manifest) -> Manifest:
    """The lease without a holder: a successor need not wait."""
    spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
    return {**lease, "spec": spec}
