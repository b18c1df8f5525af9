"""Reads everything that a decision about one job needs; called by `reconcile` at every pass.

Reads only. The job itself is asked for; what belongs to it and the nodes are what `cluster_state`
knows from its watches. These see only what has the job's label, so it also asks for what lies under
the names of children that are missing.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from pydantic import ValidationError

from lockstep_api.status import FINISHED, FederatedJobStatus
from lockstep_operator.cluster_state import ClusterState
from lockstep_operator.core.model import (
    JobKey,
    JobView,
    Manifest,
    NodeView,
    ObjectRef,
    Observed,
)
from lockstep_operator.core.ownership import names_taken, needed_names
from lockstep_operator.core.spec import parse_spec
from lockstep_operator.core.status import needs_place
from lockstep_operator.errors import InvalidSpec, NotFound
from lockstep_operator.kube import Kube, job_ref
from lockstep_operator.reports import Reports
from lockstep_operator.views import kept_child

CONCURRENT_READS = 20


@dataclass(frozen=True, slots=True)
class Sources:
    """Where observations come from."""

    kube: Kube
    reports: Reports
    cluster: ClusterState
    written: dict[JobKey, tuple[str, FederatedJobStatus]] = field(default_factory=dict)
    """Job → its uid and the status that this operator knows to be in the cluster, as it wrote it or
    left it. What else is read there somebody else has written."""


async def observe(
    key: JobKey, sources: Sources, *, others: Mapping[ObjectRef, Manifest] | None = None
) -> Observed | None:
    """The job and what belongs to it; None when it is gone or being deleted.

    Args:
        key: the job.
        sources: where from.
        others: what no watch tells of, as it was just read.
    """
    job = await read_job(key, sources)
    if job is None:
        return None
    children = sources.cluster.children(key)
    if others:
        children |= {ref: others[ref] for ref in needed_names(job).all if ref in others}
    nodes = () if names_taken(job, children) else await _nodes(job, sources.cluster)
    return Observed(
        job=job,
        children=children,
        pods=sources.cluster.pods(key),
        nodes=nodes,
        report=sources.reports.get(job.uid),
        complaints=sources.cluster.complaints(key),
        bounds=sources.cluster.bounds(key.namespace),
    )


def unseen_names(seen: Observed) -> tuple[ObjectRef, ...]:
    """Names of its children that no watch tells of: a job that is to get children asks for them
    before the first is made."""
    needed = needed_names(seen.job)
    return (*(ref for ref in needed.children if ref not in seen.children), *needed.records)


async def read_job(key: JobKey, sources: Sources) -> JobView | None:
    """The job alone, with the status that is true; None when it is gone or being deleted."""
    try:
        body = await sources.kube.get(job_ref(key.namespace, key.name))
    except NotFound:
        return None
    if "deletionTimestamp" in body["metadata"]:
        return None
    job = job_view(body)
    uid, written = sources.written.get(key, ("", job.status))
    if uid != job.uid or job.status == written:
        return job
    return replace(job, status=written, overwritten=True)


def job_view(body: Manifest) -> JobView:
    """A FederatedJob as it was read, however wrong its spec is."""
    meta = body["metadata"]
    spec, problem = None, None
    try:
        spec = parse_spec(body.get("spec", {}))
    except InvalidSpec as error:
        problem = str(error)
    return JobView(
        key=JobKey(meta["namespace"], meta["name"]),
        uid=meta["uid"],
        generation=meta.get("generation", 1),
        spec=spec,
        spec_error=problem,
        status=_status(body.get("status", {})),
        created_at=datetime.fromisoformat(meta["creationTimestamp"]).timestamp(),
    )


def _status(status: Manifest) -> FederatedJobStatus:
    """The status; what another version wrote and this one cannot read counts as not there."""
    try:
        return FederatedJobStatus.model_validate(status)
    except ValidationError as error:
        unread = {item["loc"][0] for item in error.errors()}
        return _status({name: value for name, value in status.items() if name not in unread})


async def read_names(refs: Iterable[ObjectRef], kube: Kube) -> dict[ObjectRef, Manifest]:
    """The objects that are there, as decisions read them.

    Of others' objects each may have a megabyte: nobody waits for whoever looks at them.
    """
    slots = asyncio.Semaphore(CONCURRENT_READS)

    async def one(ref: ObjectRef) -> Manifest | None:
        async with slots:
            try:
                return kept_child(await kube.metadata(ref)).manifest
            except NotFound:
                return None

    refs = tuple(refs)
    found = zip(refs, await asyncio.gather(*map(one, refs)), strict=True)
    return {ref: manifest for ref, manifest in found if manifest is not None}


async def _nodes(job: JobView, cluster: ClusterState) -> tuple[NodeView, ...]:
    """The nodes, of which only a job that needs a place has to know what others use."""
    if job.status.phase in FINISHED or job.spec is None or job.spec.suspend:
        return ()
    nodes = cluster.nodes()
    if needs_place(job, {node.name for node in nodes}):
        return await cluster.free_nodes(job)
    return nodes
