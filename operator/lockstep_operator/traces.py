"""Copies bandwidth traces of users' ConfigMaps for the devices of a job; `reconcile` calls it.

Users' ConfigMaps have no label of a job, so nobody follows them: they are looked at in passes of
jobs with pods, at most once in LOOK_S. They are only read, and only those whose author has said by
a label that they hold traces: who makes jobs need not be allowed to read ConfigMaps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lockstep_api import names
from lockstep_operator.core.children import is_copy_of, trace_copy, trace_refs
from lockstep_operator.core.model import JobView, Manifest, ObjectRef, Observed
from lockstep_operator.errors import NotFound, NotOffered
from lockstep_operator.kube import Kube
from lockstep_operator.owned import put

LOOK_S = 10.0
"""Between two looks at the ConfigMaps with a job's traces."""


@dataclass(frozen=True, slots=True)
class TraceSource:
    """A user's ConfigMap, and the job's copy as it is known."""

    ref: ObjectRef
    copy: Manifest | None


@dataclass(slots=True)
class Looks:
    """What is known of a job's traces between passes."""

    at: float = -math.inf
    """Monotonic seconds of the last look."""
    absent: set[ObjectRef] = field(default_factory=set)
    """Copies whose ConfigMap was not there."""

    def due(
        self, sources: Mapping[ObjectRef, TraceSource], now: float
    ) -> Mapping[ObjectRef, TraceSource]:
        """The copies to look after now; a copy that is gone is missed at once."""
        gone = [copy for copy, one in sources.items() if one.copy is None]
        if now < self.at + LOOK_S and self.absent.issuperset(gone):
            return {}
        self.at = now
        return sources


def trace_sources(seen: Observed) -> Mapping[ObjectRef, TraceSource]:
    """Copy → where it comes from, for all that a job needs."""
    if seen.job.spec is None:
        return {}
    refs = trace_refs(seen.job, seen.job.spec)
    return {copy: TraceSource(source, seen.children.get(copy)) for source, copy in refs}


async def copy_traces(job: JobView, source: TraceSource, *, kube: Kube) -> Manifest | None:
    """Bring the copy up to date; returns it, None when there is nothing to copy.

    Raises:
        NotOffered: it has not the label of ConfigMaps with traces.
        KubeError: it could not be read or written.
    """
    try:
        meta = await kube.metadata(source.ref)
        _check(meta)
        if source.copy is not None and is_copy_of(source.copy, meta):
            return source.copy
        found = await kube.get(source.ref)
    except NotFound:  # the worker names it
        return None
    _check(found)  # it may be another one by now
    return await put(job, trace_copy(job, found), kube=kube)


def _check(source: Manifest) -> None:
    labels, name = source["metadata"].get("labels") or {}, source["metadata"]["name"]
    if labels.get(names.TRACES_LABEL) != "true":
        raise NotOffered(
            f"ConfigMap {name} does not say that it has traces, so nothing of it is copied: "
            f"kubectl label configmap {name} {names.TRACES_LABEL}=true"
        )
