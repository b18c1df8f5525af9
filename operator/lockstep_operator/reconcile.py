"""One pass over one job: observe, decide, apply, write the status, emit events.

`runtime` calls it, one pass a job at a time. The status is written even when children could not be
applied, and says what the apiserver answered; at most once a second a job and only when it differs
from what was read.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from lockstep_api import names
from lockstep_api.status import FINISHED, FederatedJobStatus, Phase
from lockstep_api.text import printable
from lockstep_operator.beside import Beside
from lockstep_operator.carry_out import Hands, carry_out
from lockstep_operator.core.decide import decide
from lockstep_operator.core.model import (
    Decision,
    EventNote,
    JobKey,
    JobView,
    Manifest,
    ObjectRef,
    Observed,
    Refusal,
    Settings,
)
from lockstep_operator.core.ownership import names_taken
from lockstep_operator.core.privacy import load_accountant
from lockstep_operator.core.status import needs_place
from lockstep_operator.errors import Conflict, KubeError
from lockstep_operator.fair import FairLock
from lockstep_operator.kube import Kube, job_ref, ref_of
from lockstep_operator.metrics import Metrics
from lockstep_operator.observe import Sources, observe, read_names, unseen_names
from lockstep_operator.traces import LOOK_S, Looks

STATUS_INTERVAL_S = 1.0
ROOM_INTERVAL_S = 5.0
"""Between two looks for room: what others free on the nodes gives this job no event."""
ROOM_LOOKS_A_S = 4.0
"""Of all jobs of a namespace that wait for room together."""

MANY = 16
"""Groups of a job: with more, a decision takes milliseconds, and is made beside the event loop."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Known:
    """What is kept of a job between passes."""

    uid: str
    phase: Phase | None = None
    """The phase in its status."""
    is_placed: bool = False
    """Its last pass left it where it needs no place."""
    written_at: float | None = None
    """Monotonic seconds of the last status that was written."""
    told_at: dict[str, float] = field(default_factory=dict)
    """Reason of an event that is not for every time → monotonic seconds of the last one."""
    refused: tuple[Refusal, ...] = ()
    """The children that the last pass could not write or delete."""
    doubtful: frozenset[ObjectRef] = frozenset()
    """Names that it needs and that others' objects had, or may have, at the last look."""
    traces: Looks = field(default_factory=Looks)
    told: set[str] = field(default_factory=set)
    """Of the events that the last pass wanted told once, those that are."""


@dataclass(frozen=True, slots=True)
class Deps:
    """What a pass needs; made by `app`."""

    kube: Kube
    sources: Sources
    settings: Settings
    metrics: Metrics
    clock: Callable[[], datetime]
    monotonic: Callable[[], float] = time.monotonic
    known: dict[JobKey, Known] = field(default_factory=dict)
    placing: FairLock = field(default_factory=FairLock)
    """Held by a pass that places a job, from its look at the nodes until it is known what it took:
    never while it writes, or reads what others may have made large."""
    beside: Beside = field(default_factory=Beside)
    """For decisions about jobs with many groups."""


@dataclass(frozen=True, slots=True)
class PassResult:
    """How a pass went."""

    gone: bool = False
    """The job does not exist any more."""
    phase: Phase | None = None
    """The phase that is in the job's status now."""
    requeue_in_s: float | None = None
    """Seconds after which another pass is needed, without an event."""
    failure: KubeError | None = None
    """What kept children from being written: the pass is repeated with backoff."""


async def reconcile(key: JobKey, deps: Deps) -> PassResult:
    """Bring one job closer to what its spec says.

    Raises:
        KubeError: it could not be observed, or its status not written.
    """
    known = deps.known.get(key)
    others = await read_names(known.doubtful if known is not None else (), deps.kube)
    if known is None or known.is_placed:  # also what another operator has placed
        seen = await observe(key, deps.sources, others=others)
        if seen is None or not _needs_place(seen.job, seen):
            return await _one_pass(key, await _kept(seen, deps), deps=deps)
        del seen  # while others are placed
    decided = await _placed(key, others, deps=deps)
    return await _one_pass(key, decided, deps=deps)  # an apiserver may take 30 s for a large job


async def _placed(
    key: JobKey, others: Mapping[ObjectRef, Manifest], *, deps: Deps
) -> tuple[Observed, Decision] | None:
    """What becomes of a job that needs a place: one at a time, each sees what those before it took.

    Where names are to be looked at first, others are placed meanwhile.
    """
    async with deps.placing.of(key.namespace):
        seen = await observe(key, deps.sources, others=others)
        if seen is None:
            return None
        seen, decision = await _decide(seen, deps)
        if not (unseen := _unseen(seen, decision)):
            return _settled(seen, decision, deps=deps)
        del seen, decision
    found = await read_names(unseen, deps.kube)
    async with deps.placing.of(key.namespace):
        seen = await observe(key, deps.sources, others={**others, **found})
        return None if seen is None else _settled(*await _decide(seen, deps), deps=deps)


async def _kept(seen: Observed | None, deps: Deps) -> tuple[Observed, Decision] | None:
    """What becomes of a job that needs no place."""
    if seen is None:
        return None
    seen, decision = await _decide(seen, deps)
    if unseen := _unseen(seen, decision):
        found = await read_names(unseen, deps.kube)
        seen, decision = await _decide(replace(seen, children={**seen.children, **found}), deps)
    return _settled(seen, decision, deps=deps)


def _settled(seen: Observed, decision: Decision, *, deps: Deps) -> tuple[Observed, Decision]:
    """The decision, beside which other jobs are placed from now on."""
    deps.sources.cluster.decided(seen.job, decision.status)
    _known(seen.job, deps).doubtful = frozenset(names_taken(seen.job, seen.children))
    return seen, decision


def _needs_place(job: JobView, seen: Observed) -> bool:
    return needs_place(job, {node.name for node in seen.nodes})


async def _one_pass(
    key: JobKey, decided: tuple[Observed, Decision] | None, *, deps: Deps
) -> PassResult:
    if decided is None:
        deps.known.pop(key, None)
        deps.sources.written.pop(key, None)
        deps.sources.cluster.gone(key)
        deps.sources.reports.forget(key)
        return PassResult(gone=True)
    seen, decision = decided
    known = _known(seen.job, deps)
    wait: float | None = None
    if _ends(seen.job, decision):  # written down before its pods go: the outcome is nowhere else
        await _write_status(seen.job, decision, known=known, deps=deps)
        failures = await _carry_out(seen, decision, known=known, deps=deps)
        known.refused = _refusals(failures)
    else:
        failures = await _carry_out(seen, decision, known=known, deps=deps)
        known.refused = _refusals(failures)
        if known.refused != seen.refused:  # the status says it at once
            decision = await _made(replace(seen, refused=known.refused), deps)
        wait = await _write_status(seen.job, decision, known=known, deps=deps)
    known.doubtful |= _conflicts(failures)
    if decision.delete_job:
        await _delete_job(seen.job, deps)
    known.phase = decision.status.phase
    known.is_placed = not _needs_place(replace(seen.job, status=decision.status), seen)
    look_s = LOOK_S if known.traces.absent else None
    wait = min((s for s in (wait, decision.requeue_in_s, look_s) if s is not None), default=None)
    if known.phase is Phase.PENDING and wait is None:
        wait = _room_interval_s(key.namespace, deps)
    return PassResult(
        phase=known.phase, requeue_in_s=wait, failure=next(iter(failures.values()), None)
    )


def _room_interval_s(namespace: str, deps: Deps) -> float:
    """Until a job's next look for room: the longer, the more of its namespace wait for some."""
    waiting = sum(
        known.phase is Phase.PENDING and key.namespace == namespace
        for key, known in deps.known.items()
    )
    return max(ROOM_INTERVAL_S, waiting / ROOM_LOOKS_A_S)


def _conflicts(failures: Mapping[ObjectRef, KubeError]) -> set[ObjectRef]:
    return {ref for ref, error in failures.items() if isinstance(error, Conflict)}


def _refusals(failures: Mapping[ObjectRef, KubeError]) -> tuple[Refusal, ...]:
    return tuple(
        Refusal(ref, type(error).__name__, error.words or str(error))
        for ref, error in sorted(failures.items())
    )


async def _decide(seen: Observed, deps: Deps) -> tuple[Observed, Decision]:
    """The decision, and what it is made from."""
    if seen.job.spec is not None and seen.job.spec.privacy is not None:
        await asyncio.to_thread(load_accountant)
    seen = replace(seen, refused=_known(seen.job, deps).refused)
    return seen, await _made(seen, deps)


async def _made(seen: Observed, deps: Deps) -> Decision:
    key, now = seen.job.key, deps.clock()
    if not _is_long(seen.job):
        return decide(seen, deps.settings, now=now)
    return await deps.beside.run(key.namespace, decide, seen, deps.settings, now=now)


def _is_long(job: JobView) -> bool:
    """Whether others should not wait while it is decided."""
    return job.spec is not None and len(job.spec.devices) + len(job.spec.edge_groups()) > MANY


def _unseen(seen: Observed, decision: Decision) -> tuple[ObjectRef, ...]:
    """The names to look at, all of them before one child is made; nothing where none is."""
    is_complete = all(ref_of(manifest) in seen.children for manifest in decision.apply)
    return () if is_complete else unseen_names(seen)


def _ends(job: JobView, decision: Decision) -> bool:
    return decision.status.phase in FINISHED and job.status.phase not in FINISHED


def _known(job: JobView, deps: Deps) -> Known:
    """What is kept of this job; one of the same name before it is forgotten."""
    known = deps.known.get(job.key)
    if known is None or known.uid != job.uid:
        deps.sources.reports.forget(job.key, but=job.uid)
        known = deps.known[job.key] = Known(job.uid)
    return known


async def _carry_out(
    seen: Observed, decision: Decision, *, known: Known, deps: Deps
) -> dict[ObjectRef, KubeError]:
    """What failed, by object."""
    hands = Hands(deps.kube, deps.sources.cluster, deps.metrics, known.traces)
    return await carry_out(seen, decision, hands=hands, now=deps.monotonic())


async def _delete_job(job: JobView, deps: Deps) -> None:
    """Unless its spec was edited since it was looked at: it may be meant to stay."""
    ref = job_ref(job.key.namespace, job.key.name)
    meta = (await deps.kube.metadata(ref))["metadata"]
    if meta.get("generation", 1) == job.generation:
        await deps.kube.delete(ref, uid=job.uid, version=meta["resourceVersion"])
        logger.info("deleted job %s/%s: its time is over", job.key.namespace, job.key.name)


async def _write_status(
    job: JobView, decision: Decision, *, known: Known, deps: Deps
) -> float | None:
    """Write a status that differs; returns the seconds to wait when it is too early for it.

    A change of phase never waits.
    """
    now = deps.monotonic()
    written = deps.sources.written
    if decision.status == job.status and not job.overwritten:
        written[job.key] = (job.uid, decision.status)
        await _tell(job, decision.events, known=known, deps=deps)
        return None
    wait = 0.0 if known.written_at is None else known.written_at + STATUS_INTERVAL_S - now
    if wait > 0 and decision.status.phase is job.status.phase:
        return wait
    ref = job_ref(job.key.namespace, job.key.name)
    written.pop(job.key, None)  # while it is not known which of the two is there
    await deps.kube.apply_status(ref, job.uid, status=status_body(decision.status))
    written[job.key] = (job.uid, decision.status)
    known.written_at = now
    deps.metrics.status_writes.inc()
    await _tell(job, decision.events, known=known, deps=deps)
    return None


async def _tell(job: JobView, events: Iterable[EventNote], *, known: Known, deps: Deps) -> None:
    """Emit the events that are due; only one that was written counts as told."""
    now, notes = deps.monotonic(), [*events]
    known.told &= {note.once for note in notes}
    for note in await emit(job, [e for e in notes if _is_due(e, known, now=now)], deps=deps):
        known.told_at[note.reason] = now
        if note.once:
            known.told.add(note.once)


def _is_due(note: EventNote, known: Known, *, now: float) -> bool:
    if note.once in known.told:
        return False
    last = known.told_at.get(note.reason)
    return not note.every_s or last is None or now >= last + note.every_s


def status_body(status: FederatedJobStatus) -> Manifest:
    """The status as it is written: server-side apply removes what is left out."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


async def emit(job: JobView, events: Iterable[EventNote], *, deps: Deps) -> list[EventNote]:
    """Events are for people: one that cannot be written is logged and left. Returns the others."""
    written = []
    for index, note in enumerate(events):
        try:
            await deps.kube.create(event_body(job, note, now=deps.clock(), index=index))
        except KubeError as error:
            if isinstance(error, Conflict) and note.once:  # told before, maybe by another operator
                written.append(note)
                continue
            logger.warning("event %s of %s not written: %s", note.reason, job.key.name, error)
        else:
            written.append(note)
    return written


def event_body(job: JobView, note: EventNote, *, now: datetime, index: int = 0) -> Manifest:
    """A core/v1 Event on the job."""
    at = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    stamp = f"{int(now.timestamp() * 1e6) + index:x}"
    if note.once:
        same = f"{job.uid} {note.reason} {note.once}"
        stamp = hashlib.sha256(same.encode()).hexdigest()[:20]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{names.shorten(job.key.name, 200)}.{stamp}",
            "namespace": job.key.namespace,
        },
        "involvedObject": {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "namespace": job.key.namespace,
            "name": job.key.name,
            "uid": job.uid,
        },
        "type": note.type,
        "reason": note.reason,
        "message": printable(note.message)[:1024],
        "source": {"component": names.MANAGER},
        "reportingComponent": names.MANAGER,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }


def finished(outcome: PassResult) -> bool:
    """Whether the job's status says that it has ended."""
    return outcome.phase in FINISHED
