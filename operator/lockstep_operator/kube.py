"""The only door to the Kubernetes API: the Protocol `Kube` and its implementation `ApiKube`.

Every part of the shell calls it. Requests go by fixed paths of the few kinds that
Lockstep knows: no discovery, and no generated API classes (importing CoreV1Api alone takes 130 MB).
Every failure leaves as a KubeError; no error of aiohttp or of the Kubernetes client does.
"""

import copy
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from lockstep_api import names
from lockstep_operator.core.model import Manifest, ObjectRef
from lockstep_operator.errors import KubeError, NotFound, Refused, TooLarge
from lockstep_operator.fair import FairLock
from lockstep_operator.kube_fields import as_applied
from lockstep_operator.kube_lists import Listing, View, all_of, named, pages
from lockstep_operator.kube_reviews import (
    ACCESS_REVIEW,
    TOKEN_REVIEW,
    User,
    allowed_in,
    of_access,
    of_token,
    user_in,
)
from lockstep_operator.kube_transport import JSON, OBJECT_BYTES, Request, Transport, events
from lockstep_operator.rights import Called

APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"
PUBLISHED = f"{JSON}, application/jwk-set+json"
METADATA = f"{JSON};as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
METADATA_LIST = f"{JSON};as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"

SMALL_BYTES = 128 << 10
"""An object that has no more is read at once with any number of others."""

Kind = tuple[str, str]
"""apiVersion and kind."""
Labels = Mapping[str, str | None]
JOB: Kind = (names.API_VERSION, names.KIND)
POD: Kind = ("v1", "Pod")
NODE: Kind = ("v1", "Node")
SET: Kind = ("apps/v1", "StatefulSet")
CLAIM: Kind = ("v1", "PersistentVolumeClaim")
LIMIT_RANGE: Kind = ("v1", "LimitRange")
QUOTA: Kind = ("v1", "ResourceQuota")
EVENT: Kind = ("v1", "Event")
SECRET: Kind = ("v1", "Secret")
"""One: the seed of certificates, in the operator's own namespace (`authority`)."""
NETWORK_POLICY: Kind = ("networking.k8s.io/v1", "NetworkPolicy")
CHILD_KINDS: tuple[Kind, ...] = (
    SET,
    ("v1", "Service"),
    ("v1", "ConfigMap"),
    ("v1", "ServiceAccount"),
    CLAIM,
    ("policy/v1", "PodDisruptionBudget"),
    NETWORK_POLICY,
    ("batch/v1", "Job"),
)
_NOT_IN_SCHEMA = "field not declared in schema"
_OLD_CRD = (
    "the CRD in this cluster is older than this operator: apply the one that came with it, "
    "crds/lockstep.dev_federatedjobs.yaml, with kubectl apply --server-side --force-conflicts"
)
_PLURALS = {
    JOB: names.PLURAL,
    POD: "pods",
    NODE: "nodes",
    EVENT: "events",
    SECRET: "secrets",
    LIMIT_RANGE: "limitranges",
    QUOTA: "resourcequotas",
    ("coordination.k8s.io/v1", "Lease"): "leases",
    ("policy/v1", "PodDisruptionBudget"): "poddisruptionbudgets",
    NETWORK_POLICY: "networkpolicies",
    TOKEN_REVIEW: "tokenreviews",
    ACCESS_REVIEW: "subjectaccessreviews",
    SET: "statefulsets",
    ("v1", "Service"): "services",
    ("v1", "ConfigMap"): "configmaps",
    ("v1", "ServiceAccount"): "serviceaccounts",
    CLAIM: "persistentvolumeclaims",
    ("batch/v1", "Job"): "jobs",
}
KINDS = tuple(_PLURALS)
"""All that are asked for."""


class Kube(Protocol):
    """What the operator needs of Kubernetes."""

    async def get(self, ref: ObjectRef) -> Manifest: ...

    async def metadata(self, ref: ObjectRef) -> Manifest: ...

    async def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        kept: Callable[[Manifest], View],
        labels: str = "",
    ) -> Listing[View]: ...

    def pages(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        metadata_only: bool = False,
    ) -> AsyncGenerator[Listing[Manifest], None]: ...

    async def apply(self, manifest: Manifest, *, over: Manifest) -> Manifest: ...

    async def create(self, manifest: Manifest) -> Manifest: ...

    async def replace(self, manifest: Manifest) -> Manifest: ...

    async def apply_status(self, ref: ObjectRef, uid: str, *, status: Manifest) -> None: ...

    async def delete(self, ref: ObjectRef, *, uid: str, version: str = "") -> None: ...

    async def resize(self, namespace: str, pod: str, *, container: str, cpu: str) -> Manifest: ...

    async def label(self, namespace: str, pod: str, *, uid: str, labels: Labels) -> None: ...

    def watch(
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
    ) -> AsyncGenerator[Manifest, None]: ...

    async def review_token(self, token: str, audience: str) -> User | None: ...

    async def review_access(self, user: str, call: Called, *, namespace: str) -> bool: ...

    async def published(self, path: str) -> Manifest: ...


def path_of(kind: Kind, namespace: str | None = None, *, name: str = "") -> str:
    """The REST path of a kind's collection or of one object."""
    api_version = kind[0]
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{scope}/{_PLURALS[kind]}" + (f"/{name}" if name else "")


def ref_of(manifest: Manifest) -> ObjectRef:
    """The reference of an object."""
    meta = manifest["metadata"]
    return ObjectRef(
        manifest["apiVersion"], manifest["kind"], meta.get("namespace", ""), meta["name"]
    )


def job_ref(namespace: str, name: str) -> ObjectRef:
    """The reference of a FederatedJob."""
    return ObjectRef(*JOB, namespace, name)


class ApiKube:
    """`Kube` over HTTP."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        count: Callable[[str, str], None] = lambda verb, kind: None,
    ) -> None:
        configuration.retries = None  # the loops retry with their own backoff
        self._http = Transport(ApiClient(configuration), count)
        self._large = FairLock()

    def while_leading(self, left_s: Callable[[], float]) -> "ApiKube":
        """The same door, for writes within a lease that lasts `left_s()` more seconds.

        No write begins after that, and none that has begun is waited for longer.
        """
        bounded = copy.copy(self)
        bounded._http = replace(self._http, left_s=left_s)
        return bounded

    async def close(self) -> None:
        await self._http.client.close()  # type: ignore[no-untyped-call]

    async def get(self, ref: ObjectRef) -> Manifest:
        return await self._read(ref, JSON)

    async def metadata(self, ref: ObjectRef) -> Manifest:
        """An object without its content."""
        return named(await self._read(ref, METADATA), _kind(ref))

    async def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        kept: Callable[[Manifest], View],
        labels: str = "",
    ) -> Listing[View]:
        """What is `kept` of each object, whatever else it has."""
        return await all_of(self.pages(kind, namespace, labels=labels), kept)

    def pages(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        metadata_only: bool = False,
    ) -> AsyncGenerator[Listing[Manifest], None]:
        """A list piece by piece, so that nobody need hold all of it (`kube_lists`)."""
        query, path = _selected(labels, fields), path_of(kind, namespace)
        accept = METADATA_LIST if metadata_only else JSON
        return pages(self._http, Request("list", kind, path, query=query, accept=accept))

    async def apply(self, manifest: Manifest, *, over: Manifest) -> Manifest:
        """Bring an object to this form, if it still is the one that was read, and unchanged.

        Args:
            manifest: what Lockstep wants of it.
            over: its metadata as they were read.

        Raises:
            Conflict: it was changed, or deleted, meanwhile.
        """
        ref = ref_of(manifest)
        meta = over["metadata"]
        if (patch := as_applied(meta)) is not None:
            query = {"fieldManager": names.MANAGER}
            request = Request("patch", _kind(ref), _path(ref), query, patch, JSON_PATCH)
            meta = (await self._http.call(request))["metadata"]
        same = {key: meta[key] for key in ("uid", "resourceVersion")}
        return await self._apply(
            _path(ref), {**manifest, "metadata": {**manifest["metadata"], **same}}
        )

    async def apply_status(self, ref: ObjectRef, uid: str, *, status: Manifest) -> None:
        """Write the whole status; the uid keeps it off a new job of the same name.

        Raises:
            Refused: among others when the CRD in the cluster is older than this operator.
        """
        body = {
            "apiVersion": ref.api_version,
            "kind": ref.kind,
            "metadata": {"name": ref.name, "namespace": ref.namespace, "uid": uid},
            "status": status,
        }
        try:
            await self._http.send(_applied(_path(ref) + "/status", body))
        except KubeError as error:
            if _NOT_IN_SCHEMA not in str(error):
                raise
            raise Refused(f"{_OLD_CRD} ({error})") from error

    async def create(self, manifest: Manifest) -> Manifest:
        """Make an object that does not exist.

        Raises:
            Conflict: it does.
        """
        ref = ref_of(manifest)
        path, query = path_of(_kind(ref), ref.namespace), {"fieldManager": names.MANAGER}
        request = Request("create", _kind(ref), path, query=query, body=manifest)
        return await self._http.call(request)

    async def replace(self, manifest: Manifest) -> Manifest:
        """Write a whole object over the one with its resource version.

        Raises:
            Conflict: it was changed meanwhile.
        """
        ref = ref_of(manifest)
        return await self._http.call(Request("update", _kind(ref), _path(ref), body=manifest))

    async def delete(self, ref: ObjectRef, *, uid: str, version: str = "") -> None:
        """Delete an object and what it owns: the one with this uid, and at this version if given.

        Raises:
            Conflict: the name is another's, or the object was changed.
        """
        preconditions = {"uid": uid} | ({"resourceVersion": version} if version else {})
        body: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions"}
        body |= {"propagationPolicy": "Background", "preconditions": preconditions}
        try:
            await self._http.call(Request("delete", _kind(ref), _path(ref), body=body))
        except NotFound:
            return

    async def resize(self, namespace: str, pod: str, *, container: str, cpu: str) -> Manifest:
        """Set only a container's CPU limit, in place."""
        limits = {"name": container, "resources": {"limits": {"cpu": cpu}}}
        path = path_of(POD, namespace, name=pod) + "/resize"
        body = {"spec": {"containers": [limits]}}
        return await self._http.call(Request("patch", POD, path, body=body, content_type=STRATEGIC))

    async def label(self, namespace: str, pod: str, *, uid: str, labels: Labels) -> None:
        """Set labels of the pod with this uid (Refused: it is another), or take those away that
        are None; the others stay."""
        path, body = path_of(POD, namespace, name=pod), {"metadata": {"uid": uid, "labels": labels}}
        request = Request("patch", POD, path, body=body, content_type=MERGE, accept=METADATA)
        await self._http.send(request)

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
        """Events (`type`, `object`) since a resource version, for at most `timeout_s`."""
        query = {
            "watch": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": max(1, round(timeout_s + 0.5)),
        }
        query |= _selected(labels, fields)
        query |= {"allowWatchBookmarks": "true"} if bookmarks else {}
        accept = METADATA if metadata_only else JSON
        path = path_of(kind, namespace)
        request = Request("watch", kind, path, query=query, accept=accept, streams=True)
        async with self._http.open(request) as response:
            async for event in events(response):
                event["object"] = named(event["object"], kind)
                yield event
                del event  # nobody holds one while the next is waited for

    async def review_token(self, token: str, audience: str) -> User | None:
        """The user that a token stands for; None when it is not valid for the audience."""
        return user_in(await self._reviewed(TOKEN_REVIEW, of_token(token, audience)), audience)

    async def review_access(self, user: str, call: Called, *, namespace: str) -> bool:
        """Whether a ServiceAccount, as the apiserver calls it, may do this in a namespace; `""`:
        in all of them."""
        asked = of_access(user, call, namespace=namespace)
        return allowed_in(await self._reviewed(ACCESS_REVIEW, asked))

    async def published(self, path: str) -> Manifest:
        """What the apiserver publishes at a path of its own, which is no object."""
        return await self._http.call(Request("get", ("", "Published"), path, accept=PUBLISHED))

    async def _read(self, ref: ObjectRef, accept: str) -> Manifest:
        """An object; of those that are large one at a time, and namespaces take turns."""
        request = Request("get", _kind(ref), _path(ref), accept=accept, most_bytes=SMALL_BYTES)
        try:
            return await self._http.call(request)
        except TooLarge:
            async with self._large.of(ref.namespace):
                return await self._http.call(replace(request, most_bytes=OBJECT_BYTES))

    async def _reviewed(self, kind: Kind, review: Manifest) -> Manifest:
        return await self._http.call(Request("create", kind, path_of(kind), body=review))

    async def _apply(self, path: str, manifest: Manifest) -> Manifest:
        return await self._http.call(_applied(path, manifest))


def _applied(path: str, manifest: Manifest) -> Request:
    kind = (manifest["apiVersion"], manifest["kind"])
    query = {"fieldManager": names.MANAGER, "force": "true"}
    return Request("apply", kind, path, query=query, body=manifest, content_type=APPLY)


def _selected(labels: str, fields: str) -> dict[str, Any]:
    """Which objects are asked for."""
    selectors = {"labelSelector": labels, "fieldSelector": fields}
    return {key: value for key, value in selectors.items() if value}


def _kind(ref: ObjectRef) -> Kind:
    return ref.api_version, ref.kind


def _path(ref: ObjectRef) -> str:
    return path_of(_kind(ref), ref.namespace, name=ref.name)
