"""Labels on a job's pods that say where they are: `lockstep.dev/cluster` and `lockstep.dev/edge`.

The planner calls it after a plan was answered, in modes with edges only: no round waits for it, and
nothing depends on it but what people see (`kubectl get pods -L …`). Invariants: of one job's
assignments the newest wins; one pass over a job at a time, with a bounded number of patches under
way; a patch holds only for the pod that was read (its UID goes along), which is one of a set of the
job; a pod whose labels are as they should be is left alone.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lockstep_api import names
from lockstep_api.names import Role
from lockstep_api.settings import edge_names
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.tiers import ClusterPlan
from lockstep_operator.core.assignments import assignments
from lockstep_operator.core.model import JobKey, JobView, Manifest
from lockstep_operator.core.ownership import is_of_its_set
from lockstep_operator.errors import KubeError, NotFound, Refused
from lockstep_operator.kube import POD, Kube, Labels

CONCURRENT_PATCHES = 8

_UID = "metadata.uid"
_READ = (names.ROLE_LABEL, names.CLUSTER_LABEL, names.EDGE_LABEL)
"""What the apiserver's refusal is about where a name is another pod's."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Labelling:
    """Made by `app`."""

    kube: Kube
    _newest: dict[str, tuple[ClusterPlan, ...]] = field(default_factory=dict)
    """By the job's uid, what no pass has begun with yet."""
    _under_way: set[str] = field(default_factory=set)
    _told: dict[str, str] = field(default_factory=dict)
    """By the job's uid, what went wrong last: said once in the log."""

    async def bring(
        self, job: JobView, spec: FederatedJobSpec, *, clusters: Sequence[ClusterPlan]
    ) -> None:
        """Bring the labels of a job's pods to a plan's clusters, or have whoever is at it do so."""
        self._newest[job.uid] = tuple(clusters)
        if job.uid in self._under_way:
            return
        self._under_way.add(job.uid)
        try:
            while (wanted := self._newest.pop(job.uid, None)) is not None:
                await self._pass(job, wanted_labels(job.key.name, spec, clusters=wanted))
        finally:
            self._under_way.discard(job.uid)

    def forget(self, uid: str) -> None:
        """A job is gone."""
        self._newest.pop(uid, None)
        self._told.pop(uid, None)

    async def _pass(self, job: JobView, wanted: Mapping[str, Labels]) -> None:
        try:
            found = await self._pods(job.key)
            await self._patch(job, changes(found, wanted))
        except KubeError as error:
            if self._told.get(job.uid) != str(error):
                logger.warning("job %s: pods are not labelled: %s", job.key, error)
            self._told[job.uid] = str(error)
        else:
            self._told.pop(job.uid, None)

    async def _pods(self, key: JobKey) -> list[Manifest]:
        pages = self.kube.pages(
            POD, key.namespace, labels=names.job_selector(key.name), metadata_only=True
        )
        return [_shown(pod) async for page in pages for pod in page.items if is_of_its_set(pod)]

    async def _patch(self, job: JobView, todo: Sequence[tuple[Manifest, Labels]]) -> None:
        """All of them, unless newer ones are wanted meanwhile; the first error, if there is one."""
        left = iter(todo)

        async def work() -> None:
            for pod, labels in left:
                if job.uid in self._newest:
                    return
                await self._one(job.key, pod["metadata"], labels=labels)

        done = await asyncio.gather(
            *(work() for _ in range(min(CONCURRENT_PATCHES, len(todo)))), return_exceptions=True
        )
        if error := next((one for one in done if isinstance(one, BaseException)), None):
            raise error

    async def _one(self, key: JobKey, meta: Manifest, *, labels: Labels) -> None:
        try:
            await self.kube.label(key.namespace, meta["name"], uid=meta["uid"], labels=labels)
        except NotFound:  # the next plan's pass labels the one that comes
            return
        except Refused as error:
            if _UID not in str(error):  # else another has come
                raise


def _shown(pod: Manifest) -> Manifest:
    """What of a pod is read here, and no more: there are many, and users write what they like."""
    meta = pod["metadata"]
    labels = meta.get("labels") or {}
    shown = {name: labels[name] for name in _READ if name in labels}
    return {"metadata": {"name": meta["name"], "uid": meta["uid"], "labels": shown}}


def wanted_labels(
    job: str, spec: FederatedJobSpec, *, clusters: Iterable[ClusterPlan]
) -> dict[str, Labels]:
    """Pod → labels, of all edges and of the devices that take part."""
    wanted: dict[str, Labels] = {
        names.edge_pod(job, edge): {names.EDGE_LABEL: edge} for edge in edge_names(spec)
    }
    for client, one in assignments([*clusters]).items():
        labels = {names.CLUSTER_LABEL: one.cluster, names.EDGE_LABEL: one.edge}
        wanted[names.client_pod(job, client)] = labels
    return wanted


def changes(
    pods: Iterable[Manifest], wanted: Mapping[str, Labels]
) -> list[tuple[Manifest, Labels]]:
    """The pods whose labels are others than wanted, with what is to be changed; devices that do not
    take part lose theirs."""
    nowhere: Labels = {names.CLUSTER_LABEL: None, names.EDGE_LABEL: None}
    todo: list[tuple[Manifest, Labels]] = []
    for pod in pods:
        has = pod["metadata"].get("labels") or {}
        default = nowhere if has.get(names.ROLE_LABEL) == Role.DEVICE else {}
        should = wanted.get(pod["metadata"]["name"], default)
        if off := {name: value for name, value in should.items() if has.get(name) != value}:
            todo.append((pod, off))
    return todo
