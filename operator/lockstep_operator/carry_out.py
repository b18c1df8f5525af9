"""Does to the objects of a job what was decided, in an order that is safe to break off.

`reconcile` calls it. Deletions come first, so that what is in the way is gone. Pods find what they
use by its name: their sets come last, and only when all of it is there and the job's own.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from lockstep_api.status import Phase
from lockstep_operator.cluster_state import ClusterState
from lockstep_operator.core.model import Decision, JobView, Manifest, ObjectRef, Observed
from lockstep_operator.errors import KubeError
from lockstep_operator.kube import Kube, ref_of
from lockstep_operator.metrics import Metrics
from lockstep_operator.owned import put, remove
from lockstep_operator.traces import Looks, TraceSource, copy_traces, trace_sources

CONCURRENT_WRITES = 20
_WITH_PODS = frozenset({Phase.STARTING, Phase.RUNNING})
_Write = Callable[[], Awaitable[None]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hands:
    """What it is done with."""

    kube: Kube
    cluster: ClusterState
    """Hears what was written."""
    metrics: Metrics
    traces: Looks
    """What is known of this job's traces."""


async def carry_out(
    seen: Observed, decision: Decision, *, hands: Hands, now: float
) -> dict[ObjectRef, KubeError]:
    """Delete and write what was decided; returns what failed, by object."""
    job = seen.job
    failures = await _all(
        {ref: partial(_delete, job, ref, hands=hands) for ref in decision.delete}, hands
    )
    failures |= await _all(_copies(seen, decision, hands=hands, now=now), hands)
    for kind, same_kind in groupby(decision.apply, key=lambda manifest: manifest["kind"]):
        if kind == "StatefulSet" and failures:
            break
        writes = {ref_of(one): partial(_apply, seen, one, hands=hands) for one in same_kind}
        failures |= await _all(writes, hands)
    return failures


async def _all(writes: Mapping[ObjectRef, _Write], hands: Hands) -> dict[ObjectRef, KubeError]:
    """Run writes, some at once; returns the failures."""
    slots = asyncio.Semaphore(CONCURRENT_WRITES)

    async def bounded(write: _Write) -> KubeError | None:
        async with slots:
            try:
                await write()
            except KubeError as error:
                hands.metrics.reconcile_errors.labels(type(error).__name__).inc()
                return error
        return None

    results = await asyncio.gather(*map(bounded, writes.values()))
    tried = zip(writes, results, strict=True)
    return {ref: error for ref, error in tried if error is not None}


async def _delete(job: JobView, ref: ObjectRef, *, hands: Hands) -> None:
    await remove(job, ref, kube=hands.kube)
    logger.info("deleted %s %s/%s", ref.kind, ref.namespace, ref.name)


async def _apply(seen: Observed, manifest: Manifest, *, hands: Hands) -> None:
    """Make a child whose name is free, or renew one that is the job's."""
    ref = ref_of(manifest)
    if ref in seen.children:
        written = await put(seen.job, manifest, kube=hands.kube)
    else:
        written = await hands.kube.create(manifest)
    hands.cluster.wrote(written)
    logger.info("wrote %s %s/%s", ref.kind, ref.namespace, ref.name)


def _copies(
    seen: Observed, decision: Decision, *, hands: Hands, now: float
) -> dict[ObjectRef, _Write]:
    """The copies of traces to look after now, of a job that has pods."""
    if decision.status.phase not in _WITH_PODS:
        hands.traces.absent.clear()
        return {}
    due = hands.traces.due(trace_sources(seen), now)
    return {
        copy: partial(_copy, seen.job, copy, source=one, hands=hands) for copy, one in due.items()
    }


async def _copy(job: JobView, copy: ObjectRef, *, source: TraceSource, hands: Hands) -> None:
    absent = hands.traces.absent
    absent.discard(copy)
    found = await copy_traces(job, source, kube=hands.kube)
    if found is None:
        absent.add(copy)
    elif found is not source.copy:
        hands.cluster.wrote(found)
