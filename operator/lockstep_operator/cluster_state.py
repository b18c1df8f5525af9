"""What the operator knows of the cluster: pods and children of jobs, nodes, and who uses them.

`app` runs it and `observe` reads it: a pass lists nothing. Pods and children of jobs and the nodes
are followed by watches, and so are warnings about them. What all other pods hold of the nodes is
read only when a job needs a place, and one reading serves all jobs for a while.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import and_
from typing import Any, Protocol

from lockstep_api import names
from lockstep_api.status import FederatedJobStatus
from lockstep_operator.complaints import KINDS, Complaints
from lockstep_operator.core import occupancy
from lockstep_operator.core.amount import UNBOUNDED, Amount
from lockstep_operator.core.model import (
    Bounds,
    Complaint,
    JobKey,
    JobView,
    Manifest,
    NodeView,
    ObjectRef,
    PodView,
)
from lockstep_operator.core.occupancy import Holding, Share
from lockstep_operator.core.targets import SetPod, Target, targets
from lockstep_operator.errors import Refused
from lockstep_operator.follow import follow
from lockstep_operator.job_feed import JobFeed
from lockstep_operator.kept import Change, Kept, Source, job_of
from lockstep_operator.kube import (
    CHILD_KINDS,
    CLAIM,
    JOB,
    LIMIT_RANGE,
    NODE,
    POD,
    QUOTA,
    SET,
    Kube,
    ref_of,
)
from lockstep_operator.kube_lists import items_of
from lockstep_operator.views import (
    KeptChild,
    KeptJob,
    KeptPod,
    holding,
    kept_child,
    kept_job,
    kept_pod,
    limit_range_bounds,
    node_view,
    quota_bounds,
)

HOLDING = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
"""Which pods hold something of a node: of others, which may be as many and as large as they like,
nobody is to wait for the reading."""
FRESH_S = 2.0
"""Least time for which a reading of the other pods serves."""
FRESH_FACTOR = 20.0
"""A reading serves for so many times the time that it took: never more than a twentieth of it."""


def watches(namespaces: tuple[str, ...]) -> int:
    """How many connections stay open."""
    return 1 + (5 + len(CHILD_KINDS)) * max(1, len(namespaces))


class Listener(Protocol):
    """Whom changes are told to."""

    def wake(self, key: JobKey) -> None:
        """Something of a job, named as its label names it, has changed."""

    def room_freed(self) -> None:
        """There may be room for a job that found none."""


@dataclass(slots=True)
class _Others:
    """What is held by pods that are not followed, and by jobs of other namespaces."""

    used: dict[str, Amount] = field(default_factory=dict)
    """By node, by pods of no job."""
    pods: list[Holding] = field(default_factory=list)
    """Of jobs."""
    placed: list[Share] = field(default_factory=list)

    def add(self, held: Holding, *, of_job: bool) -> None:
        if of_job:
            self.pods.append(held)
        else:
            self.used[held.node] = self.used.get(held.node, Amount()) + held.need


class ClusterState:
    """What is known; `namespaces` are those whose jobs are looked after, all when empty."""

    def __init__(
        self,
        kube: Kube,
        namespaces: tuple[str, ...] = (),
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._namespaces = namespaces
        self._monotonic = monotonic
        self._listener: Listener | None = None
        self._reading = asyncio.Lock()
        self._others = _Others()
        self._others_until = float("-inf")
        spaces: tuple[str | None, ...] = namespaces or (None,)
        self._nodes = Kept(Source(NODE), node_view, self._node_changed)
        self._pods = {
            space: Kept(Source(POD, space, names.JOB_LABEL), kept_pod, self._pod_changed)
            for space in spaces
        }
        self._jobs = {
            space: Kept(Source(JOB, space), kept_job, self._job_changed) for space in spaces
        }
        self.feed = JobFeed(self._all_jobs)
        self._decided: dict[JobKey, tuple[str, tuple[Share, ...]]] = {}
        self._children = {
            (kind, space): Kept(
                Source(kind, space, names.JOB_LABEL, metadata_only=kind not in {SET, CLAIM}),
                kept_child,
                self._child_changed,
            )
            for kind in CHILD_KINDS
            for space in spaces
        }
        self._bounds = {
            (kind, space): Kept(Source(kind, space), view, self._bounds_changed)
            for kind, view in ((LIMIT_RANGE, limit_range_bounds), (QUOTA, quota_bounds))
            for space in spaces
        }
        self._complaints = {space: Complaints(space, changed=self._wake) for space in spaces}

    def pods(self, job: JobKey) -> tuple[PodView, ...]:
        """The pods of a job."""
        found = self._pods[self._space(job.namespace)].of(_labelled(job))
        return tuple(pod.view for pod in found.values() if pod.is_of_set)

    def pod_uid(self, job: JobKey, name: str) -> str | None:
        """The uid that a job's pod of this name has; None: no such pod was seen."""
        found = self._pods[self._space(job.namespace)].of(_labelled(job))
        pod = found.get((job.namespace, name))
        return None if pod is None else pod.uid

    def children(self, job: JobKey) -> dict[ObjectRef, Manifest]:
        """The objects that a job consists of, less what decisions do not read."""
        space = self._space(job.namespace)
        kept = (self._children[kind, space].of(_labelled(job)) for kind in CHILD_KINDS)
        return {one.ref: one.manifest for of_kind in kept for one in of_kind.values()}

    def complaints(self, job: JobKey) -> Mapping[ObjectRef, Complaint]:
        """What was warned of last about objects of a job that are not well."""
        return self._complaints[self._space(job.namespace)].of(_labelled(job))

    def bounds(self, namespace: str) -> Bounds:
        """What its LimitRanges and ResourceQuotas say."""
        space, everybody = self._space(namespace), JobKey(namespace, "")
        kept = (self._bounds[kind, space].of(everybody) for kind in (LIMIT_RANGE, QUOTA))
        return reduce(and_, (one for of_kind in kept for one in of_kind.values()), Bounds())

    def nodes(self) -> tuple[NodeView, ...]:
        """The nodes as if nothing was used."""
        return tuple(node for _, node in self._nodes)

    async def free_nodes(self, job: JobView) -> tuple[NodeView, ...]:
        """The nodes with what is free on them for this job: its own pods are not counted.

        Raises:
            KubeError: the other pods could not be read.
        """
        others = await self._read_others()
        is_own = occupancy.own_pods(job.key, job.spec) if job.spec else None
        held = (pod.holding for _, pod in self._all_pods())
        pods = [pod for pod in held if pod is not None and not (is_own and is_own(pod))]
        placed = [one for key, found in self._placed() if key != job.key for one in found]
        return occupancy.free(
            self.nodes(),
            used=others.used,
            pods=[*pods, *others.pods],
            placed=[*placed, *others.placed],
            allowed=self._allowed,
        )

    def _allowed(self, namespace: str) -> Amount:
        """What its quotas let all pods of a namespace have, as far as it is known."""
        return self.bounds(namespace).allowed if self._is_followed(namespace) else UNBOUNDED

    def decided(self, job: JobView, status: FederatedJobStatus) -> None:
        """What becomes of a job as it was just decided: known before its status is written."""
        now = (job.uid, occupancy.shares(job.key, job.spec, status=status))
        before = self._decided.get(job.key, now)
        self._decided[job.key] = now
        if len(now[1]) < len(before[1]):
            self._room_freed()

    def gone(self, job: JobKey) -> None:
        """A job is not there: what was decided of it, maybe since it went, holds nothing."""
        if self._decided.pop(job, ("", ()))[1]:
            self._room_freed()

    def wrote(self, manifest: Manifest) -> None:
        """An object of a job as it was just written."""
        ref = ref_of(manifest)
        kept = self._children.get(((ref.api_version, ref.kind), self._space(ref.namespace)))
        if kept is not None:
            kept.wrote(manifest)
            self._know(job_of(manifest), new=kept_child(manifest))

    def all_complaints(self) -> list[Complaints]:
        """Followed once everything else is known, so that it is known whom they are about."""
        return [*self._complaints.values()]

    def all_kept(self) -> list[Kept[Any]]:
        """Everything else that is followed."""
        return [
            self._nodes,
            *self._jobs.values(),
            *self._pods.values(),
            *self._children.values(),
            *self._bounds.values(),
        ]

    @property
    def is_known(self) -> bool:
        """Whether everything was listed once."""
        return all(kept.synced.is_set() for kept in self.all_kept())

    def targets(self) -> list[Target]:
        """The pods of jobs that are there to be read by Prometheus."""
        jobs = {job.uid: job.key for job in self._all_jobs()}
        kept_sets = (kept for (kind, _), kept in self._children.items() if kind == SET)
        sets = ((one.uid, one.manifest) for kept in kept_sets for _, one in kept)
        ready = (pod for _, pod in self._all_pods() if pod.is_of_set and pod.view.ready)
        pods = (SetPod(pod.ref.namespace, pod.ref.name, pod.controller, pod.ip) for pod in ready)
        return targets(jobs, sets, pods=pods)

    async def synced(self) -> None:
        """Returns when everything was listed once."""
        for kept in self.all_kept():
            await kept.synced.wait()

    def listen(self, listener: Listener) -> None:
        """Tell it of changes from now on."""
        self._listener = listener

    async def run(self) -> None:
        """Follow the cluster, until cancelled."""
        tasks = [
            asyncio.create_task(follow(self._kube, kept), name=f"follow {kept.source.kind[1]}")
            for kept in self.all_kept()
        ]
        tasks += [
            asyncio.create_task(self._follow_complaints(one), name="follow warnings")
            for one in self.all_complaints()
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow_complaints(self, complaints: Complaints) -> None:
        await self.synced()
        await follow(self._kube, complaints)

    def _space(self, namespace: str) -> str | None:
        return namespace if self._namespaces else None

    def _all_pods(self) -> Iterator[tuple[JobKey, KeptPod]]:
        return (one for kept in self._pods.values() for one in kept)

    def _all_jobs(self) -> Iterator[KeptJob]:
        return (job for kept in self._jobs.values() for _, job in kept)

    def _placed(self) -> Iterator[tuple[JobKey, Iterable[Share]]]:
        """What each job holds: as it was decided, else as it was read."""
        for job in self._all_jobs():
            if job.key not in self._decided:
                yield job.key, job.shares
        yield from ((key, found) for key, (_, found) in self._decided.items())

    def _know(
        self,
        job: JobKey,
        *,
        new: KeptPod | KeptChild | None,
        old: KeptPod | KeptChild | None = None,
    ) -> None:
        """Who complaints are about."""
        complaints = self._complaints[self._space(job.namespace)]
        if old is not None and (new is None or new.uid != old.uid):
            complaints.forget(old.uid, old.ref)
        if new is not None and new.ref.kind in KINDS:
            complaints.know(new.uid, new.ref, job=job, well=new.well)

    def _pod_changed(self, change: Change[KeptPod]) -> None:
        self._know(change.job, new=change.new, old=change.old)
        self._wake(change.job)
        held = change.old is not None and change.old.holding is not None
        if change.new is None or (held and change.new.holding is None):
            self._room_freed()

    def _child_changed(self, change: Change[KeptChild]) -> None:
        self._know(change.job, new=change.new, old=change.old)
        self._wake(change.job)

    def _job_changed(self, change: Change[KeptJob]) -> None:
        """Kopf hears it, and wakes the job's loop."""
        gone = change.old
        self.feed.changed(gone, change.new)
        if change.new is None and gone is not None:
            if self._decided.get(gone.key, ("",))[0] == gone.uid:
                del self._decided[gone.key]
            self._room_freed()

    def _bounds_changed(self, change: Change[Bounds]) -> None:
        """Jobs whose pods were refused may have them now."""
        namespace = change.job.namespace
        for _, job in self._jobs[self._space(namespace)]:
            if job.key.namespace == namespace:
                self._wake(_labelled(job.key))

    def _node_changed(self, change: Change[NodeView]) -> None:
        self._room_freed()

    def _wake(self, job: JobKey) -> None:
        if self._listener is not None:
            self._listener.wake(job)

    def _room_freed(self) -> None:
        if self._listener is not None:
            self._listener.room_freed()

    async def _read_others(self) -> _Others:
        async with self._reading:
            began = self._monotonic()
            if began >= self._others_until:
                self._others = await self._list_others()
                ended = self._monotonic()
                self._others_until = ended + max(FRESH_S, FRESH_FACTOR * (ended - began))
            return self._others

    async def _list_others(self) -> _Others:
        """All pods, and the jobs, that are not followed.

        Where no more is allowed, the pods of the namespaces that are looked after.
        """
        found = _Others()
        try:
            await self._add_pods(found, None)
        except Refused:
            if not self._namespaces:
                raise
            found = _Others()
            for namespace in self._namespaces:
                await self._add_pods(found, namespace)
        if self._namespaces:
            await self._add_foreign_jobs(found)
        return found

    async def _add_pods(self, found: _Others, namespace: str | None) -> None:
        """Page by page: a cluster's pods as manifests are hundreds of megabytes."""
        labels = "" if self._namespaces else f"!{names.JOB_LABEL}"
        async for pod in items_of(self._kube.pages(POD, namespace, labels=labels, fields=HOLDING)):
            held, of_job = holding(pod), bool(job_of(pod).name)
            if held is not None and not (of_job and self._is_followed(held.namespace)):
                found.add(held, of_job=of_job)

    async def _add_foreign_jobs(self, found: _Others) -> None:
        """Where they may not be read, their pods hold what they request."""
        try:
            async for one in items_of(self._kube.pages(JOB)):
                job = kept_job(one)
                if not self._is_followed(job.key.namespace):
                    found.placed += job.shares
        except Refused:
            return

    def _is_followed(self, namespace: str) -> bool:
        return not self._namespaces or namespace in self._namespaces


def _labelled(job: JobKey) -> JobKey:
    """A job as the label of its objects names it."""
    return JobKey(job.namespace, names.label_value(job.name))
