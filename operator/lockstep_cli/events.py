"""Which of a namespace's events are about a job, and in which order; pure but for the list.

`events` and `describe` show them. Invariant: events of pods count that are gone already, since
names of children are known.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from lockstep_api import names
from lockstep_cli.cluster import EVENTS, Cluster
from lockstep_cli.shown import Json

_CHILDREN = frozenset({"Pod", "StatefulSet", "PersistentVolumeClaim", "Job"})
_DAILY = frozenset(
    {
        "ResizeStarted", "ResizeCompleted", "Scheduled", "Pulled", "Created", "Started", "Killing",
        "SuccessfulCreate", "SuccessfulDelete", "WaitForFirstConsumer", "ExternalProvisioning",
        "Provisioning", "ProvisioningSucceeded",
    }
)  # fmt: skip
"""Reasons of pods and claims that say that all goes as it should: some with every round."""
_NOT_READY = ("Startup probe failed", "Readiness probe failed")
"""What a kubelet warns of each pod that begins or ends; a condition of the job says what lasts."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are told of a job."""

    job: str
    everything: bool = False
    """Also those of which there are many, and which say nothing new."""

    def has(self, event: Json) -> bool:
        """Whether one is."""
        return self._about(event) and (self.everything or not _daily(event))

    def _about(self, event: Json) -> bool:
        about = event.get("involvedObject") or {}
        kind, name = about.get("kind"), str(about.get("name") or "")
        if kind == names.KIND:
            return name == self.job
        return kind in _CHILDREN and name.startswith(_beginnings(self.job))


def _daily(event: Json) -> bool:
    if event.get("type") != "Warning":
        return event.get("reason") in _DAILY
    message = str(event.get("message") or "")
    return event.get("reason") == "Unhealthy" and message.startswith(_NOT_READY)


def events_of(cluster: Cluster, wanted: Wanted) -> list[Json]:
    """Events of a job and its children, oldest first."""
    items = cluster.list(EVENTS, cluster.namespace).items
    return by_time(one for one in items if wanted.has(one))


def by_time(events: Iterable[Json]) -> list[Json]:
    """Oldest first."""
    return sorted(events, key=last_seen)


def last_seen(event: Json) -> str:
    """When it was told last (RFC 3339)."""
    series = event.get("series") or {}
    moments = (
        series.get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        event.get("firstTimestamp"),
        event["metadata"].get("creationTimestamp"),
    )
    return str(next((moment for moment in moments if moment), ""))


def _beginnings(job: str) -> tuple[str, ...]:
    """How names of children begin."""
    return names.cloud_name(job), f"{job}-device-", f"{job}-edge-", f"{job}-trainer-"
