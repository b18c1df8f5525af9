"""What a pod of a job is, and how it is; pure.

Invariant: its state is the word that kubectl has for it.
"""

from dataclasses import dataclass

from lockstep_api import names
from lockstep_api.names import Role, client_name
from lockstep_cli.shown import Json

RUNNING = "Running"
STARTING = "Starting"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a job."""

    body: Json

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.body["metadata"]["name"])

    @property
    def role(self) -> str:
        """What it does; empty where it says nothing."""
        return str(self._labels.get(names.ROLE_LABEL, ""))

    @property
    def short(self) -> str:
        """What people call it: `cloud`, or a client's or edge's name, as plans have it."""
        group = self._labels.get(names.GROUP_LABEL) or self._labels.get(names.EDGE_GROUP_LABEL)
        ordinal = self.name.rpartition("-")[2]
        if group and ordinal.isdecimal():
            return client_name(group, int(ordinal))
        return Role.CLOUD if self.role == Role.CLOUD else self.name

    @property
    def cluster(self) -> str:
        """The cluster that it is in now."""
        return str(self._labels.get(names.CLUSTER_LABEL, ""))

    @property
    def edge(self) -> str:
        """The edge that it works with."""
        return str(self._labels.get(names.EDGE_LABEL, ""))

    @property
    def node(self) -> str:
        """Where it is."""
        return str(self.body.get("spec", {}).get("nodeName") or "")

    @property
    def restarts(self) -> int:
        """Of its containers."""
        return sum(int(one.get("restartCount") or 0) for one in self._containers)

    @property
    def started(self) -> bool:
        """Whether it has a log."""
        states = (one.get("state") or {} for one in self._containers)
        return any("running" in state or "terminated" in state for state in states)

    @property
    def state(self) -> str:
        """One word."""
        if self.body["metadata"].get("deletionTimestamp"):
            return "Terminating"
        for one in self._containers:
            for how in ("waiting", "terminated"):
                reason = ((one.get("state") or {}).get(how) or {}).get("reason")
                if reason:
                    return STARTING if reason in _ON_ITS_WAY else str(reason)
        phase = str(self._status.get("phase") or "Pending")
        return STARTING if phase == RUNNING and not self._ready else phase

    @property
    def _labels(self) -> Json:
        return self.body["metadata"].get("labels") or {}

    @property
    def _status(self) -> Json:
        return self.body.get("status") or {}

    @property
    def _containers(self) -> list[Json]:
        return list(self._status.get("containerStatuses") or ())

    @property
    def _ready(self) -> bool:
        said = self._status.get("conditions") or ()
        return any(one["type"] == "Ready" and one["status"] == "True" for one in said)


_ON_ITS_WAY = frozenset({"ContainerCreating", "PodInitializing"})
