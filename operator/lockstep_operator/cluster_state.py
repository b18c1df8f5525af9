"""What the operator knows of the cluster: pods and children of jobs, nodes, and who uses them.

`app` runs it and `observe` reads it: a pass lists nothing. Pods and children of jobs and the nodes
are followed by watches. What all other pods hold of the nodes is read only when a job needs a
place, and one reading serves all jobs for a while.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from lockstep_api import names
from lockstep_operator.core.model import JobKey, Manifest, NodeView, ObjectRef, PodView
from lockstep_operator.errors import Refused
from lockstep_operator.follow import follow
from lockstep_operator.kept import Change, Kept, Source
from lockstep_operator.kube import CHILD_KINDS, NODE, POD, SET, Kind, Kube, ref_of
from lockstep_operator.views import (
    Amount,
    Claim,
    Holding,
    KeptChild,
    KeptPod,
    SetKey,
    claim,
    holding,
    kept_child,
    kept_pod,
    node_view,
)

FRESH_S = 2.0
"""Least time for which a reading of the other pods serves."""
FRESH_FACTOR = 20.0
"""A reading serves for so many times the time that it took: never more than a twentieth of it."""


def watches(namespaces: tuple[str, ...]) -> int:
    """How many connections stay open."""
    return 1 + (1 + len(CHILD_KINDS)) * max(1, len(namespaces))


class Listener(Protocol):
    """Whom changes are told to."""

    def wake(self, key: JobKey) -> None:
        """Something of a job, named as its label names it, has changed."""

    def room_freed(self) -> None:
        """There may be room for a job that found none."""


@dataclass(slots=True)
class _Others:
    """What pods hold that are not followed, and what such sets will hold."""

    used: dict[str, Amount] = field(default_factory=dict)
    """By node."""
    bound: Counter[SetKey] = field(default_factory=Counter)
    claims: list[Claim] = field(default_factory=list)

    def add(self, held: Holding) -> None:
        self.used[held.node] = self.used.get(held.node, Amount()) + held.need
        self.bound[held.set] += 1

    def copy(self) -> "_Others":
        return _Others(dict(self.used), Counter(self.bound), list(self.claims))


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
        self._children = {
            (kind, space): Kept(
                Source(kind, space, names.JOB_LABEL, metadata_only=kind != SET),
                kept_child,
                self._child_changed,
            )
            for kind in CHILD_KINDS
            for space in spaces
        }

    def pods(self, job: JobKey) -> tuple[PodView, ...]:
        """The pods of a job."""
        found = self._pods[self._space(job.namespace)].of(_labelled(job))
        return tuple(pod.view for pod in found.values())

    def children(self, job: JobKey) -> dict[ObjectRef, Manifest]:
        """The objects that a job consists of, less what decisions do not read."""
        space = self._space(job.namespace)
        kept = (self._children[kind, space].of(_labelled(job)) for kind in CHILD_KINDS)
        return {one.ref: one.manifest for of_kind in kept for one in of_kind.values()}

    def nodes(self) -> tuple[NodeView, ...]:
        """The nodes as if nothing was used."""
        return tuple(node for _, node in self._nodes)

    async def free_nodes(self, job: JobKey) -> tuple[NodeView, ...]:
        """The nodes with what is free on them for this job: its own pods are not counted.

        Raises:
            KubeError: the other pods could not be read.
        """
        taken = (await self._read_others()).copy()
        mine = _labelled(job)
        for held in (pod.holding for owner, pod in self._all_pods() if owner != mine):
            if held is not None:
                taken.add(held)
        sets = ((owner, one.claim) for owner, one in self._all_sets())
        taken.claims += [one for owner, one in sets if one is not None and owner != mine]
        nodes = self.nodes()
        _reserve(taken, {node.name: node for node in nodes})
        return tuple(_less(node, taken.used.get(node.name)) for node in nodes)

    def wrote(self, manifest: Manifest) -> None:
        """An object of a job as it was just written."""
        ref = ref_of(manifest)
        kept = self._children.get(((ref.api_version, ref.kind), self._space(ref.namespace)))
        if kept is not None:
            kept.wrote(manifest)

    def all_kept(self) -> list[Kept[Any]]:
        """Everything that is followed."""
        return [self._nodes, *self._pods.values(), *self._children.values()]

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
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _space(self, namespace: str) -> str | None:
        return namespace if self._namespaces else None

    def _all_pods(self) -> Iterator[tuple[JobKey, KeptPod]]:
        return (one for kept in self._pods.values() for one in kept)

    def _all_sets(self) -> Iterator[tuple[JobKey, KeptChild]]:
        return (one for (kind, _), kept in self._children.items() if kind == SET for one in kept)

    def _pod_changed(self, change: Change[KeptPod]) -> None:
        self._wake(change.job)
        held = change.old is not None and change.old.holding is not None
        if change.new is None or (held and change.new.holding is None):
            self._room_freed()

    def _child_changed(self, change: Change[KeptChild]) -> None:
        self._wake(change.job)
        if change.new is None and change.old is not None and change.old.claim is not None:
            self._room_freed()

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
        """All pods, and the sets of jobs, that are not followed.

        Where no more is allowed, those of the namespaces that are looked after.
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
            await self._add_foreign_sets(found)
        return found

    async def _add_pods(self, found: _Others, namespace: str | None) -> None:
        """Page by page: a cluster's pods as manifests are hundreds of megabytes."""
        labels = "" if self._namespaces else f"!{names.JOB_LABEL}"
        async for pod in _items(self._kube, POD, namespace=namespace, labels=labels):
            held = holding(pod)
            if held is not None and not self._is_followed(held.set):
                found.add(held)

    async def _add_foreign_sets(self, found: _Others) -> None:
        try:
            async for one in _items(self._kube, SET, namespace=None, labels=names.JOB_LABEL):
                wanted = claim(one)
                if wanted is not None and not self._is_followed(wanted.set):
                    found.claims.append(wanted)
        except Refused:
            return

    def _is_followed(self, key: SetKey) -> bool:
        namespace, job, *_ = key
        return bool(job) and (not self._namespaces or namespace in self._namespaces)


def _labelled(job: JobKey) -> JobKey:
    """A job as the label of its objects names it."""
    return JobKey(job.namespace, names.label_value(job.name))


async def _items(
    kube: Kube, kind: Kind, *, namespace: str | None, labels: str
) -> AsyncIterator[Manifest]:
    async with aclosing(kube.pages(kind, namespace, labels=labels)) as pages:
        async for page in pages:
            for item in page.items:
                yield item


def _reserve(taken: _Others, rooms: dict[str, NodeView]) -> None:
    """Count what placed jobs will hold once their missing pods are there."""
    used = taken.used
    for one in taken.claims:
        chosen = [node for node in one.nodes if node in rooms]
        for _ in range(one.replicas - taken.bound[one.set] if chosen else 0):
            fitting = (n for n in chosen if _room(rooms[n]).fits(one.need, used.get(n, Amount())))
            node = next(fitting, chosen[0])
            used[node] = used.get(node, Amount()) + one.need


def _room(node: NodeView) -> Amount:
    return Amount(node.free_cpu, node.free_memory)


def _less(node: NodeView, used: Amount | None) -> NodeView:
    if used is None:
        return node
    free = (node.free_cpu - used.cpu, node.free_memory - used.memory)
    return replace(node, free_cpu=free[0], free_memory=free[1])
