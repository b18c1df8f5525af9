"""The list of the pods of jobs, as Prometheus's `http_sd` asks for it.

`app` puts the route beside the operator's metrics. Only the operator that leads, and that knows the
cluster, has a list; Prometheus keeps its last one while nobody answers, so an empty or incomplete
list is never given: it would end the series of jobs that go on.
"""

import json
from collections.abc import Callable

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from lockstep_api import names
from lockstep_operator.cluster_state import ClusterState

_UNKNOWN = "this operator does not lead, or has not seen the cluster yet: ask again"


def add_targets(app: FastAPI, cluster: ClusterState, *, leads: Callable[[], bool]) -> None:
    """The route of the list."""

    @app.get(names.TARGETS_ROUTE)
    async def targets() -> Response:
        if not (leads() and cluster.is_known):
            closed = {"connection": "close"}  # the next try may reach the one that leads
            return JSONResponse({"message": _UNKNOWN}, status_code=503, headers=closed)
        return Response(target_list(cluster), media_type="application/json")


def target_list(cluster: ClusterState) -> str:
    """What `http_sd` reads: a group of one for each pod."""
    found = cluster.targets()
    listed = [{"targets": [one.address], "labels": dict(one.labels)} for one in found]
    return json.dumps(listed, separators=(",", ":"))
