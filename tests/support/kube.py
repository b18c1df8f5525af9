"""The in-memory Kubernetes of the operator's unit tests; tests/unit/test_operator_fake.py tests it.

It keeps what an apiserver keeps (objects, resource versions, uids, label selectors, watches) and
records every write. A kubelet is played by `kubelet`: it puts a resized limit in force.
"""

import asyncio
import copy
import itertools
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry

from lockstep_api import names
from lockstep_operator.core.model import JobKey, Manifest, ObjectRef, Settings
from lockstep_operator.errors import Conflict, KubeError, NotFound
from lockstep_operator.kube import POD, Kube, Listing, User, job_ref, ref_of
from lockstep_operator.metrics import Metrics
from lockstep_operator.observe import Sources
from lockstep_operator.reconcile import Deps
from lockstep_operator.reports import Reports

KEY = JobKey("lab", "digits")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS = Settings(worker_image="worker:1", planner_url="http://planner:8080")


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


def node_body(name: str = "node", cpu: str = "8") -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {}},
        "status": {
            "allocatable": {"cpu": cpu, "memory": "16Gi"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def device_pod(name: str, cpu: str = "1") -> Manifest:
    """A running device pod whose CPU limit is in force."""
    resources = {"limits": {"cpu": cpu}, "requests": {"cpu": "50m"}}
    labels = {names.JOB_LABEL: KEY.name, names.ROLE_LABEL: "device", names.GROUP_LABEL: "fast"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": KEY.namespace, "labels": labels},
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
    fail: Callable[[str, str], KubeError | None] = lambda verb, name: None
    """Verb and name → what goes wrong."""
    kubelet: bool = True
    """Whether a resize is put in force."""
    watched: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when somebody watches pods."""
    _watches: list[asyncio.Queue[Manifest]] = field(default_factory=list)
    _version: Any = field(default_factory=lambda: itertools.count(1))

    def put(self, manifest: Manifest) -> None:
        """Store an object as if somebody else had written it."""
        ref, stored = ref_of(manifest), copy.deepcopy(manifest)
        version = str(next(self._version))
        stored["metadata"].setdefault("uid", f"uid-{version}")
        stored["metadata"]["resourceVersion"] = version
        kind = "MODIFIED" if ref in self.objects else "ADDED"
        self.objects[ref] = stored
        self._tell(kind, stored)

    def remove(self, ref: ObjectRef) -> None:
        self._tell("DELETED", self.objects.pop(ref))

    async def get(self, ref: ObjectRef) -> Manifest:
        self._check("get", ref.name)
        return copy.deepcopy(self._stored(ref))

    async def version(self, ref: ObjectRef) -> str:
        self._check("version", ref.name)
        return str(self._stored(ref)["metadata"]["resourceVersion"])

    async def list(
        self, kind: tuple[str, str], namespace: str | None = None, *, labels: str = ""
    ) -> Listing:
        self._check("list", kind[1])
        found = [
            copy.deepcopy(manifest)
            for ref, manifest in self.objects.items()
            if (ref.api_version, ref.kind) == kind
            and namespace in (None, ref.namespace)
            and _selected(manifest, labels)
        ]
        return Listing(found, str(next(self._version)))

    async def apply(self, manifest: Manifest) -> Manifest:
        ref = ref_of(manifest)
        self._write("apply", ref.kind, ref.name)
        old = self.objects.get(ref, {}).get("metadata", {})
        kept = {"uid": old["uid"]} if "uid" in old else {}
        self.put({**manifest, "metadata": kept | manifest["metadata"]})
        return self.objects[ref]

    async def apply_status(self, ref: ObjectRef, uid: str, *, status: Manifest) -> None:
        self._write("status", ref.kind, ref.name)
        stored = self._stored(ref)
        assert stored["metadata"]["uid"] == uid
        self.put({**stored, "status": status})

    async def delete(self, ref: ObjectRef, *, uid: str = "") -> None:
        self._write("delete", ref.kind, ref.name)
        if uid and ref in self.objects and self.objects[ref]["metadata"]["uid"] != uid:
            raise Conflict(f"{ref.name} is another")
        self.objects.pop(ref, None)

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

    async def watch_pods(
        self, namespace: str, labels: str, *, resource_version: str, timeout_s: float
    ) -> AsyncGenerator[Manifest, None]:
        self._check("watch", "pods")
        since = int(resource_version)
        queue: asyncio.Queue[Manifest] = asyncio.Queue()
        self._watches.append(queue)
        self.watched.set()
        for stored in [*self.objects.values()]:
            if stored["kind"] == "Pod" and int(stored["metadata"]["resourceVersion"]) > since:
                queue.put_nowait({"type": "MODIFIED", "object": copy.deepcopy(stored)})
        try:
            while True:
                event = await queue.get()
                if _selected(event["object"], labels):
                    yield event
        finally:
            self._watches.remove(queue)

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

    def account(self, token: str, name: str) -> None:
        """A token of a ServiceAccount as it is now."""
        found = self._stored(ObjectRef("v1", "ServiceAccount", KEY.namespace, name))
        user = f"system:serviceaccount:{KEY.namespace}:{name}"
        self.users[token] = User(user, found["metadata"]["uid"])

    def _stored(self, ref: ObjectRef) -> Manifest:
        if ref not in self.objects:
            raise NotFound(f"{ref.kind} {ref.name} not found")
        return self.objects[ref]

    def _write(self, verb: str, kind: str, name: str) -> None:
        self._check(verb, name)
        self.writes.append((verb, f"{kind}/{name}"))

    def _check(self, verb: str, name: str) -> None:
        if error := self.fail(verb, name):
            raise error

    def _tell(self, kind: str, manifest: Manifest) -> None:
        if manifest["kind"] == "Pod":
            for queue in self._watches:
                queue.put_nowait({"type": kind, "object": copy.deepcopy(manifest)})


def _selected(manifest: Manifest, labels: str) -> bool:
    labelled: dict[str, str] = manifest["metadata"].get("labels", {})
    wanted = [pair.partition("=") for pair in labels.split(",") if pair]
    return all(labelled.get(key) == value if eq else key in labelled for key, eq, value in wanted)


def failing(verb: str, error: KubeError, name: str = "") -> Callable[[str, str], KubeError | None]:
    """Fails every call of a verb whose name contains `name`."""
    return lambda done, on: error if done == verb and name in on else None


def make_deps(kube: Kube, **changes: Any) -> Deps:
    return Deps(
        kube=kube,
        sources=Sources(kube, Reports()),
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
