"""The list of the pods of jobs, as Prometheus's `http_sd` asks for it.

`app` puts the route beside the operator's probes, whose thread asks it. Only the operator that
leads, and that knows the cluster, has a list; Prometheus keeps its last one while nobody answers,
so an empty or incomplete list is never given: it would end the series of jobs that go on.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from lockstep_operator.cluster_state import ClusterState
from lockstep_serving.probes import Answer

_UNKNOWN = "this operator does not lead, or has not seen the cluster yet: ask again"
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class TargetList:
    """The route of the list."""

    cluster: ClusterState
    leads: Callable[[], bool]

    def answer(self) -> Answer:
        """The list; without one the connection ends: the next may reach the one that leads."""
        if not (self.leads() and self.cluster.is_known):
            return Answer(503, json.dumps({"message": _UNKNOWN}).encode(), _JSON, stays=False)
        return Answer(200, target_list(self.cluster).encode(), _JSON)


def target_list(cluster: ClusterState) -> str:
    """What `http_sd` reads: a group of one for each pod."""
    found = cluster.targets()
    listed = [{"targets": [one.address], "labels": dict(one.labels)} for one in found]
    return json.dumps(listed, separators=(",", ":"))
