"""Copies bandwidth traces of users' ConfigMaps for the devices of a job; `reconcile` calls it.

Users' ConfigMaps have no label of ours, so nobody follows them: they are looked at in passes of
jobs with pods, at most once in LOOK_S. They are only read.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lockstep_operator.core.children import is_copy_of, trace_copy, trace_refs
from lockstep_operator.core.model import JobView, Manifest, ObjectRef, Observed
from lockstep_operator.errors import NotFound
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
        KubeError: it could not be read or written.
    """
    try:
        if source.copy is not None and is_copy_of(source.copy, await kube.metadata(source.ref)):
            return source.copy
        found = await kube.get(source.ref)
    except NotFound:  # the worker names it
        return None
    return await put(job, trace_copy(job, found), kube=kube)
