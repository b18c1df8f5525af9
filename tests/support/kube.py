"""The in-memory Kubernetes of the operator's unit tests; tests/unit/test_operator_fake.py tests it.

It keeps what an apiserver keeps (objects, resource versions, uids, label selectors, watches) and
records every write. A kubelet is played by `kubelet`: it puts a resized limit in force.
"""

import asyncio
import copy
import itertools
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry

from lockstep_api import names
from lockstep_operator.cluster_state import ClusterState
from lockstep_operator.core.model import JobKey, Manifest, ObjectRef, Settings
from lockstep_operator.errors import Conflict, KubeError, NotFound, Refused, Unavailable
from lockstep_operator.kube import POD, Kind, job_ref, ref_of
from lockstep_operator.kube_lists import Listing, View
from lockstep_operator.kube_reviews import User
from lockstep_operator.metrics import Metrics
from lockstep_operator.observe import Sources
from lockstep_operator.reconcile import Deps
from lockstep_operator.reports import Reports
from lockstep_operator.rights import Called
from tests.support.network import NETWORK

Feed = Callable[[str, Manifest], None]

KEY = JobKey("lab", "digits")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS = Settings(worker_image="worker:1", planner_url="http://planner:8080", network=NETWORK)


def job_body(**spec: Any) -> Manifest:
    """A FederatedJob with two devices, as the apiserver would give it."""
    base: Manifest = {
        "model": {"name": "mlp"},
        "data": {"name": "fashion-mnist"},
        "training": {"rounds": 3},
        "devices": [{"name": "fast", "replicas": 2, "cpuAtMax": "400m"}],
    }
    meta = {"name": KEY.name, "namespace": KEY.namespace, "generation": 1}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {**meta, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": base | spec,
    }


def owner_of(job: Manifest) -> Manifest:
    """The owner reference of what belongs to a job."""
    meta = job["metadata"]
    named = {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": meta["name"]}
    return {**named, "uid": meta["uid"], "controller": True, "blockOwnerDeletion": True}


def warning(about: Manifest, reason: str, message: str) -> Manifest:
    """A Warning event about an object, as Kubernetes' components write it."""
    meta = about["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{reason}", "namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "namespace": meta["namespace"],
            "name": meta["name"],
            "uid": meta["uid"],
        },
        "type": "Warning",
        "reason": reason,
        "message": message,
    }


def node_body(name: str = "node", cpu: str = "8") -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {}},
        "status": {
            "allocatable": {"cpu": cpu, "memory": "16Gi", "pods": "2000"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def device_pod(name: str, cpu: str = "1") -> Manifest:
    """A running device pod whose CPU limit is in force."""
    resources = {"limits": {"cpu": cpu}, "requests": {"cpu": "50m"}}
    labels = {names.JOB_LABEL: KEY.name, names.ROLE_LABEL: "device", names.GROUP_LABEL: "fast"}
    meta: Manifest = {"name": name, "namespace": KEY.namespace, "labels": labels}
    meta["ownerReferences"] = [
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "name": name.rpartition("-")[0],
            "uid": "uid-of-set",
            "controller": True,
        }
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": {"containers": [{"name": "worker", "resources": resources}], "nodeName": "node"},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [
                {"name": "worker", "ready": True, "resources": copy.deepcopy(resources)}
            ],
        },
    }


@dataclass
class FakeKube:
    """`Kube` in memory."""

    objects: dict[ObjectRef, Manifest] = field(default_factory=dict)
    writes: list[tuple[str, str]] = field(default_factory=list)
    """(verb, kind/name) in order."""
    events: list[Manifest] = field(default_factory=list)
    reviews: list[tuple[str, str]] = field(default_factory=list)
    users: dict[str, User] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Of whom was asked what he may, and where."""
    grants: set[tuple[str, str]] = field(default_factory=set)
    """Who may all, and where; `""`: everywhere."""
    fail: Callable[[str, str], KubeError | None] = lambda verb, name: None
    """Verb and name → what goes wrong."""
    public: dict[str, Manifest] = field(default_factory=dict)
    """What is published, by path."""
    kubelet: bool = True
    """Whether a resize is put in force."""
    watched: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when somebody watches."""
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(verb, kind) → requests that reached it."""
    feeds: list[Feed] = field(default_factory=list)
    """Hear type and object of every change, at once."""
    _watches: list[tuple[Kind, asyncio.Queue[Manifest]]] = field(default_factory=list)
    _version: Any = field(default_factory=lambda: itertools.count(1))

    def put(self, manifest: Manifest) -> None:
        """Store an object as if somebody else had written it."""
        ref, stored = ref_of(manifest), copy.deepcopy(manifest)
        version = str(next(self._version))
        known = self.objects.get(ref, {}).get("metadata", {})
        stored["metadata"].setdefault("uid", known.get("uid", f"uid-{version}"))
        stored["metadata"]["resourceVersion"] = version
        kind = "MODIFIED" if ref in self.objects else "ADDED"
        self.objects[ref] = stored
        self._tell(kind, stored)

    def remove(self, ref: ObjectRef) -> None:
        gone = self.objects.pop(ref)
        gone["metadata"]["resourceVersion"] = str(next(self._version))
        self._tell("DELETED", gone)

    def break_watches(self) -> None:
        """What an apiserver does that has forgotten from where the watches go on (410)."""
        for _, queue in self._watches:
            queue.put_nowait({"type": "ERROR", "object": {"message": "too old"}})

    def end_watches(self) -> None:
        """What an apiserver does with watches that are old, or too slow for it."""
        for _, queue in self._watches:
            queue.put_nowait({"type": "END"})

    async def get(self, ref: ObjectRef) -> Manifest:
        self.calls["get", ref.kind] += 1
        self._check("get", ref.name)
        return copy.deepcopy(self._stored(ref))

    async def metadata(self, ref: ObjectRef) -> Manifest:
        self.calls["metadata", ref.kind] += 1
        self._check("metadata", ref.name)
        return copy.deepcopy(_metadata(self._stored(ref)))

    async def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        kept: Callable[[Manifest], View],
        labels: str = "",
    ) -> Listing[View]:
        listing = await self.listed(kind, namespace, labels=labels)
        return Listing([kept(one) for one in listing.items], listing.resource_version)

    async def listed(
        self, kind: Kind, namespace: str | None = None, *, labels: str = ""
    ) -> Listing[Manifest]:
        """The objects themselves."""
        self.calls["list", kind[1]] += 1
        self._check("list", kind[1])
        found = [
            copy.deepcopy(manifest)
            for ref, manifest in self.objects.items()
            if (ref.api_version, ref.kind) == kind
            and namespace in (None, ref.namespace)
            and _selected(manifest, labels)
        ]
        return Listing(found, str(next(self._version)))

    async def pages(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        metadata_only: bool = False,
    ) -> AsyncGenerator[Listing[Manifest], None]:
        listing = await self.listed(kind, namespace, labels=labels)
        items = [one for one in listing.items if _has(one, fields)]
        kept = [_metadata(one) for one in items] if metadata_only else items
        yield Listing(kept, listing.resource_version)

    async def apply(self, manifest: Manifest, *, over: Manifest) -> Manifest:
        ref, read = ref_of(manifest), over["metadata"]
        self._write("apply", ref.kind, ref.name)
        stored = self.objects.get(ref, {}).get("metadata", {})
        if any(read[key] != stored.get(key) for key in ("uid", "resourceVersion")):
            raise Conflict(f"{ref.name} was changed, or is another")
        self.put({**manifest, "metadata": {"uid": read["uid"], **manifest["metadata"]}})
        return copy.deepcopy(self.objects[ref])

    async def apply_status(self, ref: ObjectRef, uid: str, *, status: Manifest) -> None:
        self._write("status", ref.kind, ref.name)
        stored = self._stored(ref)
        assert stored["metadata"]["uid"] == uid
        self.put({**stored, "status": status})

    async def delete(self, ref: ObjectRef, *, uid: str, version: str = "") -> None:
        self._write("delete", ref.kind, ref.name)
        if ref not in self.objects:
            return
        stored = self.objects[ref]["metadata"]
        if uid != stored["uid"] or version not in ("", stored["resourceVersion"]):
            raise Conflict(f"{ref.name} was changed, or is another")
        self.remove(ref)

    async def resize(self, namespace: str, pod: str, *, container: str, cpu: str) -> Manifest:
        self._write("resize", "Pod", pod)
        changed = copy.deepcopy(self._stored(ObjectRef(*POD, namespace, pod)))
        assert changed["spec"]["containers"][0]["name"] == container
        changed["spec"]["containers"][0]["resources"]["limits"]["cpu"] = cpu
        self.put(changed)
        if self.kubelet:
            changed["status"]["containerStatuses"][0]["resources"]["limits"]["cpu"] = cpu
            self.put(changed)
        return changed

    async def label(
        self, namespace: str, pod: str, *, uid: str, labels: Mapping[str, str | None]
    ) -> None:
        self._write("label", "Pod", pod)
        changed = copy.deepcopy(self._stored(ObjectRef(*POD, namespace, pod)))
        if changed["metadata"]["uid"] != uid:
            raise Refused(f'Pod "{pod}" is invalid: metadata.uid: field is immutable')
        known = {**changed["metadata"].get("labels", {}), **labels}
        changed["metadata"]["labels"] = {k: v for k, v in known.items() if v is not None}
        self.put(changed)

    async def watch(
        self,
        kind: Kind,
        namespace: str | None,
        *,
        labels: str,
        resource_version: str,
        timeout_s: float,
        fields: str = "",
        bookmarks: bool = False,
        metadata_only: bool = False,
    ) -> AsyncGenerator[Manifest, None]:
        self.calls["watch", kind[1]] += 1
        self._check("watch", kind[1])
        queue: asyncio.Queue[Manifest] = asyncio.Queue()
        self._watches.append((kind, queue))
        self.watched.set()
        for ref, stored in [*self.objects.items()]:
            since = int(stored["metadata"]["resourceVersion"]) > int(resource_version)
            if (ref.api_version, ref.kind) == kind and since:
                queue.put_nowait({"type": "MODIFIED", "object": copy.deepcopy(stored)})
        try:
            while True:
                event = await queue.get()
                if event["type"] == "END":
                    return
                if event["type"] == "ERROR":
                    raise Unavailable(event["object"]["message"])
                found = event["object"]
                of_namespace = namespace in (None, found["metadata"].get("namespace"))
                if of_namespace and _selected(found, labels) and _has(found, fields):
                    yield {**event, "object": _metadata(found)} if metadata_only else event
        finally:
            self._watches.remove((kind, queue))

    async def create(self, manifest: Manifest) -> Manifest:
        if manifest["kind"] == "Event":
            self._check("event", manifest["reason"])
            self.events.append(manifest)
            return manifest
        ref = ref_of(manifest)
        self._write("create", ref.kind, ref.name)
        if ref in self.objects:
            raise Conflict(f"{ref.name} already exists")
        self.put(manifest)
        return copy.deepcopy(self.objects[ref])

    async def replace(self, manifest: Manifest) -> Manifest:
        ref = ref_of(manifest)
        self._write("replace", ref.kind, ref.name)
        stored = self._stored(ref)["metadata"]["resourceVersion"]
        if manifest["metadata"].get("resourceVersion") != stored:
            raise Conflict(f"{ref.name} has been modified")
        self.put(manifest)
        return copy.deepcopy(self.objects[ref])

    async def review_token(self, token: str, audience: str) -> User | None:
        self._check("review", audience)
        self.reviews.append((token, audience))
        return self.users.get(token)

    async def review_access(self, user: str, call: Called, *, namespace: str) -> bool:
        self.calls["create", "SubjectAccessReview"] += 1
        self._check("access", namespace)
        self.asked.append((user, namespace))
        return bool(self.grants & {(user, namespace), (user, "")})

    async def published(self, path: str) -> Manifest:
        self.calls["get", path] += 1
        self._check("get", path)
        return copy.deepcopy(self.public[path])

    def account(self, token: str, name: str, *, pod: str = "", uid: str = "pod-1") -> None:
        """A token of a ServiceAccount as it is now, bound to a pod of it."""
        found = self._stored(ObjectRef("v1", "ServiceAccount", KEY.namespace, name))
        user = f"system:serviceaccount:{KEY.namespace}:{name}"
        self.users[token] = User(user, found["metadata"]["uid"], pod or f"{name}-0", uid)

    def _stored(self, ref: ObjectRef) -> Manifest:
        if ref not in self.objects:
            raise NotFound(f"{ref.kind} {ref.name} not found")
        return self.objects[ref]

    def _write(self, verb: str, kind: str, name: str) -> None:
        self.calls[verb, kind] += 1
        self._check(verb, name)
        self.writes.append((verb, f"{kind}/{name}"))

    def _check(self, verb: str, name: str) -> None:
        if error := self.fail(verb, name):
            raise error

    def _tell(self, kind: str, manifest: Manifest) -> None:
        of = (manifest["apiVersion"], manifest["kind"])
        for _, queue in [one for one in self._watches if one[0] == of]:
            queue.put_nowait({"type": kind, "object": copy.deepcopy(manifest)})
        for feed in self.feeds:
            feed(kind, copy.deepcopy(manifest))


def _metadata(manifest: Manifest) -> Manifest:
    """The part of an object that was asked for."""
    return {key: manifest[key] for key in ("apiVersion", "kind", "metadata")}


def _has(manifest: Manifest, fields: str) -> bool:
    """Whether an object has what a field selector asks for."""

    def matches(one: str) -> bool:
        path, _, value = one.partition("=")
        found: Any = manifest
        for step in path.removesuffix("!").split("."):
            found = found.get(step) or {}
        return ((found or "") == value) is not path.endswith("!")

    return all(matches(one) for one in fields.split(",") if one)


def _selected(manifest: Manifest, labels: str) -> bool:
    labelled: dict[str, str] = manifest["metadata"].get("labels", {})
    wanted = [pair.partition("=") for pair in labels.split(",") if pair]
    return all(_matches(labelled, key, value if eq else None) for key, eq, value in wanted)


def _matches(labelled: dict[str, str], key: str, value: str | None) -> bool:
    if key.startswith("!"):
        return key[1:] not in labelled
    return key in labelled if value is None else labelled.get(key) == value


def failing(verb: str, error: KubeError, name: str = "") -> Callable[[str, str], KubeError | None]:
    """Fails every call of a verb whose name contains `name`."""
    return lambda done, on: error if done == verb and name in on else None


def cluster_of(kube: FakeKube, **options: Any) -> ClusterState:
    """What is known of the cluster when every watch tells at once."""
    state = ClusterState(kube, **options)

    def feed(kind: str, manifest: Manifest) -> None:
        ref = ref_of(manifest)
        for kept in state.all_kept():
            source = kept.source
            mine = source.kind == (ref.api_version, ref.kind)
            mine = mine and source.namespace in (None, ref.namespace)
            if mine and _selected(manifest, source.labels):
                told = _metadata(manifest) if source.metadata_only else manifest
                (kept.drop if kind == "DELETED" else kept.put)(told)
        for one in state.all_complaints():
            mine = one.source.kind == (ref.api_version, ref.kind)
            if mine and _has(manifest, one.source.fields):
                (one.drop if kind == "DELETED" else one.put)(manifest)

    for manifest in kube.objects.values():
        feed("ADDED", manifest)
    kube.feeds.append(feed)
    return state


def sources_of(kube: FakeKube, **options: Any) -> Sources:
    return Sources(kube, Reports(), cluster_of(kube, **options))


def make_deps(
    kube: FakeKube, *, clock_of_cluster: Callable[[], float] = time.monotonic, **changes: Any
) -> Deps:
    return Deps(
        kube=kube,
        sources=sources_of(kube, monotonic=clock_of_cluster),
        settings=SETTINGS,
        metrics=Metrics(CollectorRegistry()),
        clock=lambda: NOW,
        **changes,
    )


def cluster_with(job: Manifest | None = None, *others: Manifest) -> FakeKube:
    kube = FakeKube()
    for manifest in (job or job_body(), node_body(), *others):
        kube.put(manifest)
    return kube


def status_of(kube: FakeKube) -> Manifest:
    status: Manifest = kube.objects[job_ref(KEY.namespace, KEY.name)].get("status", {})
    return status
