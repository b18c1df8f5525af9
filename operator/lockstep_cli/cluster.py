"""The cluster as an ordinary kubeconfig reaches it: the one door to the apiserver.

Commands call it; `channels` opens websockets by its credentials. These (contexts, exec plugins,
service accounts) are the `kubernetes` package's business, imported when a cluster is first asked
for: it takes half a second. Requests go out raw, since its generated classes take another two.
Invariant: whatever fails leaves as a CliError that says what to do.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lockstep_api import names
from lockstep_api.nesting import read_whatever_is_kept
from lockstep_cli.errors import Unreachable
from lockstep_cli.lines import lines_of
from lockstep_cli.refusals import Asked, error_of

Json = dict[str, Any]

TIMEOUT_S = 30.0
SILENCE_S = 100.0
"""A watch that brings nothing for so long is dead: bookmarks come every minute."""
PAGE = 500
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
_DEFAULT_FILE = "~/.kube/config"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_POOL = 128
"""Connections at a time: one a pod whose log is followed."""


@dataclass(frozen=True, slots=True)
class Where:
    """What names a cluster and a namespace; empty: as kubectl would choose."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: Path | None = None


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object, as its path has it."""

    api_version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """The API group; empty for the core's."""
        group, slash, _ = self.api_version.partition("/")
        return group if slash else ""


JOBS = Resource(names.API_VERSION, names.PLURAL, names.KIND)
PODS = Resource("v1", "pods", "Pod")
CLAIMS = Resource("v1", "persistentvolumeclaims", "PersistentVolumeClaim")
EVENTS = Resource("v1", "events", "Event")
SERVICES = Resource("v1", "services", "Service")
NODES = Resource("v1", "nodes", "Node", namespaced=False)
NAMESPACES = Resource("v1", "namespaces", "Namespace", namespaced=False)


def path_of(
    resource: Resource, namespace: str | None = None, *, name: str = "", part: str = ""
) -> str:
    """The path of a resource, one object of it, or a part of that (`log`)."""
    root = "/apis/" if "/" in resource.api_version else "/api/"
    steps = [root + resource.api_version]
    if resource.namespaced and namespace:
        steps += ["namespaces", namespace]
    steps += [step for step in (resource.plural, name, part) if step]
    return "/".join(steps)


@dataclass(frozen=True, slots=True)
class Request:
    """A call as it goes out; what it is of is for errors."""

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    content_type: str = "application/json"
    accept: str = "application/json"
    timeout_s: float = TIMEOUT_S
    resource: Resource | None = None
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """Objects, and from where a watch of them goes on."""

    items: list[Json]
    version: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """An apiserver, and whom we are to it."""

    client: Any
    """The `kubernetes.client.ApiClient` with the credentials."""
    namespace: str
    """Where a command looks unless it is told otherwise."""
    pause: Callable[[float], None] = time.sleep
    """Waits before a broken watch is tried again."""
    reading: set[Any] = field(default_factory=set)
    """Answers that are not read to their end."""
    closed: threading.Event = field(default_factory=threading.Event)

    @property
    def host(self) -> str:
        """The apiserver's address."""
        return str(self.client.configuration.host)

    def close(self) -> None:
        """Ends its connections, also those that a thread reads from: it then sees their end."""
        self.closed.set()
        for response in tuple(self.reading):
            with suppress(OSError, ValueError, RuntimeError):  # it ended meanwhile
                response.shutdown()
        self.client.rest_client.close()

    def get(self, resource: Resource, namespace: str | None = None, *, name: str) -> Json:
        """One object."""
        path = path_of(resource, namespace, name=name)
        return self.call(Request("GET", path, resource=resource, namespace=namespace))

    def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        timeout_s: float = TIMEOUT_S,
    ) -> Listing:
        """All objects, page by page; of all namespaces when none is named."""
        query = {"limit": PAGE} | selected(labels, fields)
        items: list[Json] = []
        path = path_of(resource, namespace)
        while True:
            page = self.call(
                Request(
                    "GET", path, query, resource=resource, namespace=namespace, timeout_s=timeout_s
                )
            )
            items += [named(item, resource) for item in page["items"] or ()]
            if not (token := page["metadata"].get("continue")):
                return Listing(items, page["metadata"]["resourceVersion"])
            query = {**query, "continue": token}

    def patch(
        self, resource: Resource, namespace: str, *, name: str, body: Json, content_type: str
    ) -> Json:
        """Change an object as the field manager of this program; what is applied is taken over."""
        forced = {"force": "true"} if content_type == APPLY else {}
        return self.call(
            Request(
                "PATCH",
                path_of(resource, namespace, name=name),
                {"fieldManager": names.CLI_MANAGER} | forced,
                body=body,
                content_type=content_type,
                resource=resource,
                namespace=namespace,
            )
        )

    def create(self, resource: Resource, namespace: str, *, body: Json) -> Json:
        """Make an object."""
        query = {"fieldManager": names.CLI_MANAGER}
        path = path_of(resource, namespace)
        return self.call(
            Request("POST", path, query, body=body, resource=resource, namespace=namespace)
        )

    def delete(
        self, resource: Resource, namespace: str, *, name: str, options: Json | None = None
    ) -> None:
        """Delete an object and what it owns."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        self.call(
            Request(
                "DELETE",
                path_of(resource, namespace, name=name),
                body=body | (options or {}),
                resource=resource,
                namespace=namespace,
            )
        )

    def call(self, request: Request) -> Json:
        """The answer as an object."""
        with self.open(request) as response:
            answer: Json = json.loads(response.read())
            return answer

    def text(self, request: Request) -> str:
        """The answer as text."""
        with self.open(request) as response:
            return bytes(response.read()).decode(errors="replace")

    @contextmanager
    def open(self, request: Request, *, silence_s: float | None = None) -> Iterator[Any]:
        """An answer with a good status, to be read; `silence_s`: as long as something comes."""
        import urllib3  # noqa: PLC0415 - comes with the kubernetes package

        if self.closed.is_set():
            raise Unreachable("the program ends")
        timeout = urllib3.Timeout(connect=request.timeout_s, read=silence_s or request.timeout_s)
        try:
            response = self._sent(request, timeout)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(self._no_answer(error)) from error
        self.reading.add(response)
        try:
            if self.closed.is_set():
                raise Unreachable("the program ends")
            if response.status >= 400:
                raise error_of(response.status, response.data, asked=_asked(request))
            yield response
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(self._no_answer(error)) from error
        finally:
            self.reading.discard(response)
            response.close()  # unless it was read to its end, nothing else can come over it

    def _sent(self, request: Request, timeout: Any) -> Any:
        address, headers = self.addressed(request)
        return self.client.rest_client.pool_manager.request(
            request.method,
            address,
            headers=headers,
            body=None if request.body is None else json.dumps(request.body).encode(),
            timeout=timeout,
            retries=False,
            preload_content=False,
        )

    def lines(
        self, request: Request, *, silence_s: float = SILENCE_S, most: int | None = None
    ) -> Iterator[bytes]:
        """The lines of an answer as they come, until it ends; cut at `most` bytes."""
        with self.open(request, silence_s=silence_s) as response:
            yield from lines_of(response.stream(65_536), most=most)

    def addressed(self, request: Request) -> tuple[str, dict[str, str]]:
        """The address with its query, and the headers with what proves who we are."""
        _, address, headers, _, _ = self.client.param_serialize(
            request.method,
            request.path,
            query_params=list(request.query.items()),
            header_params={"Accept": request.accept, "Content-Type": request.content_type},
            auth_settings=["BearerToken"],
        )
        return address, headers

    def _no_answer(self, error: Exception) -> str:
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"no answer from {self.host}: {reason}: is the cluster up, and the kubeconfig its?"


def _asked(request: Request) -> Asked:
    """What an error is about."""
    resource = request.resource
    return Asked(
        verb=f"{request.method} {request.path}",
        plural=resource.plural if resource else "",
        group=resource.group if resource else "",
        namespace=request.namespace,
    )


def selected(labels: str, fields: str) -> dict[str, str]:
    """Which objects are asked for."""
    selectors = {"labelSelector": labels, "fieldSelector": fields}
    return {key: value for key, value in selectors.items() if value}


def named(item: Json, resource: Resource) -> Json:
    """Items of a list do not say what they are of."""
    return {"apiVersion": resource.api_version, "kind": resource.kind, **item}


def connect(where: Where) -> Cluster:
    """The cluster that options, $KUBECONFIG, ~/.kube/config or the pod's account name."""
    from kubernetes.client import ApiClient, Configuration  # noqa: PLC0415 - see the head
    from kubernetes.config import ConfigException  # noqa: PLC0415

    read_whatever_is_kept()
    configuration = Configuration()
    configuration.connection_pool_maxsize = _POOL
    file = _file_of(where)
    try:
        namespace = _configured(configuration, file, context=where.context)
    except (ConfigException, OSError, ValueError) as error:
        raise Unreachable(_unusable(file, error)) from error
    return Cluster(ApiClient(configuration), where.namespace or namespace or "default")


def contexts_of(where: Where) -> list[str]:
    """Names of the kubeconfig's contexts."""
    from kubernetes.config import list_kube_config_contexts  # noqa: PLC0415 - see the head

    found, _ = list_kube_config_contexts(_file_of(where))  # type: ignore[no-untyped-call]
    return [one["name"] for one in found]


def _file_of(where: Where) -> str:
    return str(where.kubeconfig or os.environ.get("KUBECONFIG") or _DEFAULT_FILE)


def _configured(configuration: Any, file: str, *, context: str | None) -> str | None:
    """Fills in the credentials; the namespace that comes with them."""
    from kubernetes import config  # noqa: PLC0415 - see the head

    there = any(Path(one).expanduser().exists() for one in file.split(os.pathsep) if one)
    if not there and "KUBERNETES_SERVICE_HOST" in os.environ and not context:
        config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        return (_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    config.load_kube_config(  # type: ignore[no-untyped-call]
        file, context=context, client_configuration=configuration
    )
    contexts, active = config.list_kube_config_contexts(file)  # type: ignore[no-untyped-call]
    chosen = next((one for one in contexts if one["name"] == context), active)
    found: str | None = chosen["context"].get("namespace")
    return found


def _unusable(file: str, error: Exception) -> str:
    if not any(Path(one).expanduser().exists() for one in file.split(os.pathsep) if one):
        return f"there is no kubeconfig {file}: set KUBECONFIG, or give --kubeconfig FILE"
    return f"the kubeconfig {file} cannot be used: {error}"
