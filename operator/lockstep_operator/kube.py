"""The only door to the Kubernetes API: the Protocol `Kube` and its implementation `ApiKube`.

Every part of the shell calls it. Requests go by fixed paths of the few kinds that
Lockstep knows: no discovery, and no generated API classes (importing CoreV1Api alone takes 130 MB).
Every failure leaves as a KubeError; no error of aiohttp or of the Kubernetes client does.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
from kubernetes.aio import config as kube_config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from lockstep_api import names
from lockstep_operator.core.model import Manifest, ObjectRef
from lockstep_operator.errors import (
    Conflict,
    KubeError,
    NotFound,
    NotServed,
    Refused,
    Throttled,
    Unavailable,
)

APPLY = "application/apply-patch+yaml"
STRATEGIC = "application/strategic-merge-patch+json"
JSON = "application/json"
METADATA = f"{JSON};as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
REQUEST_TIMEOUT_S = 30.0
PAGE = 500

JOB = (names.API_VERSION, names.KIND)
POD = ("v1", "Pod")
NODE = ("v1", "Node")
SET = ("apps/v1", "StatefulSet")
CHILD_KINDS = (
    ("apps/v1", "StatefulSet"),
    ("v1", "Service"),
    ("v1", "ConfigMap"),
    ("v1", "ServiceAccount"),
    ("v1", "PersistentVolumeClaim"),
    ("policy/v1", "PodDisruptionBudget"),
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
    ("v1", "Event"): "events",
    ("coordination.k8s.io/v1", "Lease"): "leases",
    ("policy/v1", "PodDisruptionBudget"): "poddisruptionbudgets",
    ("authentication.k8s.io/v1", "TokenReview"): "tokenreviews",
    ("apps/v1", "StatefulSet"): "statefulsets",
    ("v1", "Service"): "services",
    ("v1", "ConfigMap"): "configmaps",
    ("v1", "ServiceAccount"): "serviceaccounts",
    ("v1", "PersistentVolumeClaim"): "persistentvolumeclaims",
    ("batch/v1", "Job"): "jobs",
}


@dataclass(frozen=True, slots=True)
class Listing:
    """A list as of a resource version, from which a watch goes on."""

    items: list[Manifest]
    resource_version: str


@dataclass(frozen=True, slots=True)
class User:
    """Whom a token stands for; of a ServiceAccount the uid tells two of one name apart."""

    name: str
    uid: str


class Kube(Protocol):
    """What the operator needs of Kubernetes."""

    async def get(self, ref: ObjectRef) -> Manifest: ...

    async def version(self, ref: ObjectRef) -> str: ...

    async def list(
        self, kind: tuple[str, str], namespace: str | None = None, *, labels: str = ""
    ) -> Listing: ...

    async def apply(self, manifest: Manifest) -> Manifest: ...

    async def create(self, manifest: Manifest) -> Manifest: ...

    async def replace(self, manifest: Manifest) -> Manifest: ...

    async def apply_status(self, ref: ObjectRef, uid: str, *, status: Manifest) -> None: ...

    async def delete(self, ref: ObjectRef, *, uid: str = "") -> None: ...

    async def resize(self, namespace: str, pod: str, *, container: str, cpu: str) -> Manifest: ...

    def watch_pods(
        self, namespace: str, labels: str, *, resource_version: str, timeout_s: float
    ) -> AsyncGenerator[Manifest, None]: ...

    async def review_token(self, token: str, audience: str) -> User | None: ...


def path_of(kind: tuple[str, str], namespace: str | None = None, name: str = "") -> str:
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


async def load_configuration(kubeconfig: str | None, context: str | None) -> Configuration:
    """The configuration from a kubeconfig, or in-cluster when neither file nor context is named."""
    # The class's own call returns a copy of a process-wide default; type.__call__ makes a new one.
    configuration: Configuration = type.__call__(Configuration)
    configuration.disable_strict_ssl_verification = True  # see `login`
    if kubeconfig or context:
        await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=kubeconfig, context=context, client_configuration=configuration
        )
    else:
        try:
            kube_config.load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
        except kube_config.ConfigException:
            await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
    return configuration


class ApiKube:
    """`Kube` over HTTP."""

    def __init__(self, configuration: Configuration) -> None:
        configuration.retries = None  # the loops retry with their own backoff
        self._client = ApiClient(configuration)

    async def close(self) -> None:
        await self._client.close()  # type: ignore[no-untyped-call]

    async def get(self, ref: ObjectRef) -> Manifest:
        return await self._call("GET", _path(ref))

    async def version(self, ref: ObjectRef) -> str:
        """The object's resource version: a few hundred bytes, however large the object is."""
        answer = await self._call("GET", _path(ref), accept=METADATA)
        return str(answer["metadata"]["resourceVersion"])

    async def list(
        self, kind: tuple[str, str], namespace: str | None = None, *, labels: str = ""
    ) -> Listing:
        query: dict[str, Any] = {"limit": PAGE} | ({"labelSelector": labels} if labels else {})
        items: list[Manifest] = []
        while True:
            page = await self._call("GET", path_of(kind, namespace), query=query)
            items += [{**item, "apiVersion": kind[0], "kind": kind[1]} for item in page["items"]]
            if not (token := page["metadata"].get("continue")):
                return Listing(items, page["metadata"]["resourceVersion"])
            query = {**query, "continue": token}

    async def apply(self, manifest: Manifest) -> Manifest:
        return await self._apply(_path(ref_of(manifest)), manifest)

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
            await self._apply(_path(ref) + "/status", body)
        except KubeError as error:
            if _NOT_IN_SCHEMA in str(error):
                raise Refused(f"{_OLD_CRD} ({error})") from error
            raise

    async def create(self, manifest: Manifest) -> Manifest:
        """Make an object that does not exist.

        Raises:
            Conflict: it does.
        """
        ref = ref_of(manifest)
        path = path_of((ref.api_version, ref.kind), ref.namespace)
        return await self._call("POST", path, body=manifest)

    async def replace(self, manifest: Manifest) -> Manifest:
        """Write a whole object over the one with its resource version.

        Raises:
            Conflict: it was changed meanwhile.
        """
        return await self._call("PUT", _path(ref_of(manifest)), body=manifest)

    async def delete(self, ref: ObjectRef, *, uid: str = "") -> None:
        """Delete an object and what it owns; with a uid only the one that has it."""
        body: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions"}
        body["propagationPolicy"] = "Background"
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            await self._call("DELETE", _path(ref), body=body)
        except NotFound:
            return

    async def resize(self, namespace: str, pod: str, *, container: str, cpu: str) -> Manifest:
        """Set only a container's CPU limit, in place."""
        limits = {"name": container, "resources": {"limits": {"cpu": cpu}}}
        path = path_of(POD, namespace, pod) + "/resize"
        body = {"spec": {"containers": [limits]}}
        return await self._call("PATCH", path, body=body, content_type=STRATEGIC)

    async def watch_pods(
        self, namespace: str, labels: str, *, resource_version: str, timeout_s: float
    ) -> AsyncGenerator[Manifest, None]:
        """Events of pods (`type`, `object`) since a resource version, for at most `timeout_s`."""
        query = {
            "watch": "true",
            "labelSelector": labels,
            "resourceVersion": resource_version,
            "timeoutSeconds": max(1, round(timeout_s + 0.5)),
        }
        async with self._open("GET", path_of(POD, namespace), query=query) as response:
            async for event in _events(response):
                yield event

    async def review_token(self, token: str, audience: str) -> User | None:
        """The user that a token stands for; None when it is not valid for the audience."""
        kind = ("authentication.k8s.io/v1", "TokenReview")
        review = {
            "apiVersion": kind[0],
            "kind": kind[1],
            "spec": {"token": token, "audiences": [audience]},
        }
        status = (await self._call("POST", path_of(kind), body=review)).get("status", {})
        valid = status.get("authenticated") and audience in status.get("audiences", [])
        if not valid:
            return None
        return User(status["user"]["username"], status["user"].get("uid", ""))

    async def _apply(self, path: str, manifest: Manifest) -> Manifest:
        query = {"fieldManager": names.MANAGER, "force": "true"}
        return await self._call("PATCH", path, query=query, body=manifest, content_type=APPLY)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Manifest | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Manifest:
        async with self._open(
            method, path, query=query, body=body, content_type=content_type, accept=accept
        ) as response:
            answer: Manifest = await response.json(content_type=None)
            return answer

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Manifest | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer with a good status; anything else is raised as a KubeError."""
        headers = {"Accept": accept, "Content-Type": content_type}
        pairs = list((query or {}).items())
        try:
            _, url, sent, _, _ = await self._client.param_serialize(
                method,
                path,
                query_params=pairs,
                header_params=headers,
                auth_settings=["BearerToken"],
            )
            answer = await self._client.call_api(
                method, url, sent, body=body, _request_timeout=REQUEST_TIMEOUT_S
            )
            response: aiohttp.ClientResponse = answer.response
            async with response:
                await _raise_for(response, f"{method} {path}")
                yield response
        except (aiohttp.ClientError, OSError, ValueError) as error:  # OSError: TimeoutError too
            raise Unavailable(f"{method} {path}: {str(error) or type(error).__name__}") from error


def _path(ref: ObjectRef) -> str:
    return path_of((ref.api_version, ref.kind), ref.namespace, ref.name)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[Manifest]:
    async for line in response.content:
        event: Manifest = json.loads(line)
        if event["type"] == "ERROR":
            raise Unavailable(f"watch: {event['object'].get('message', 'failed')}")
        yield event


async def _raise_for(response: aiohttp.ClientResponse, call: str) -> None:
    if response.status < 400:
        return
    error = error_of(response.status, await response.text(), response.headers.get("Retry-After"))
    error.args = (f"{call}: {error}",)
    raise error


def error_of(status: int, body: str, retry_after: str | None = None) -> KubeError:
    """The error for an HTTP status; its text is the apiserver's message."""
    message = _message(body) or f"HTTP {status}"
    if status == 429:
        return Throttled(message, retry_after=_seconds(retry_after))
    if status >= 500:
        return Unavailable(message)
    if status == 404 and not _names_an_object(body):
        return NotServed(message)
    known: dict[int, type[KubeError]] = {404: NotFound, 409: Conflict, 410: Unavailable}
    return known.get(status, Refused)(message)


def _message(body: str) -> str:
    try:
        answer = json.loads(body)
    except ValueError:
        return body.strip()[:300]
    return str(answer.get("message", "")) if isinstance(answer, dict) else body[:300]


def _names_an_object(body: str) -> bool:
    """Whether an error is about an object, not about the route that was called."""
    try:
        details = json.loads(body)["details"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(details, dict) and bool(details.get("name"))


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after and retry_after.isdigit() else 1.0
