"""An apiserver for tests of what reads a cluster through a kubeconfig: HTTP, no Kubernetes.

It keeps objects with resource versions, serves lists in pages, watches that end and are too old
when a test says so, logs, merge and apply patches, and Prometheus behind the service proxy and
port-forwards. What people may do is for the test to say. tests/e2e has the real one.
"""

import base64
import contextlib
import copy
import itertools
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support import port_forwards

Json = dict[str, Any]
Answer = tuple[int, Json | str]
Refusal = Callable[[str, str], Answer | None]

SERVED = {
    "/apis/lockstep.dev/v1alpha1": {"federatedjobs": "FederatedJob"},
    "/api/v1": {
        "pods": "Pod",
        "events": "Event",
        "services": "Service",
        "namespaces": "Namespace",
        "nodes": "Node",
        "persistentvolumeclaims": "PersistentVolumeClaim",
    },
    "/apis/authorization.k8s.io/v1": {
        "selfsubjectaccessreviews": "SelfSubjectAccessReview",
        "subjectaccessreviews": "SubjectAccessReview",
    },
}
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Named:
    """What a path names."""

    root: str
    plural: str
    namespace: str | None
    name: str
    part: str


def forbidden(message: str) -> Answer:
    """What an apiserver says to those without the right."""
    return 403, status(403, message, reason="Forbidden")


def status(code: int, message: str, **more: Any) -> Json:
    """A Status."""
    return {"kind": "Status", "apiVersion": "v1", "code": code, "message": message, **more}


@dataclass
class FakeApi:
    """What the server has, for tests to change and to look at."""

    objects: dict[tuple[str, str, str], Json] = field(default_factory=dict)
    """By plural, namespace and name."""
    logs: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Lines by namespace and pod; a log that is followed ends once the pod is in `ended`."""
    ended: set[tuple[str, str]] = field(default_factory=set)
    prometheus: Callable[[str, dict[str, str]], Answer] = lambda path, query: (
        503,
        "no endpoints available",
    )
    """Path and query → the answer, through the proxy of its Service, or a port-forward."""
    unforwarded: str = ""
    """Why the node does not reach the port of a pod that is forwarded."""
    refuse: Refusal = lambda method, path: None
    """What is answered at once; of redirections the text is the place."""
    allows: Callable[[Json], bool] = lambda review: True
    """What access reviews answer, by their spec."""
    served: dict[str, dict[str, str]] = field(default_factory=lambda: copy.deepcopy(SERVED))
    page: int = 500
    """No page has more objects."""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and query, in order."""
    tokens: list[str] = field(default_factory=list)
    """What proved who called, in order."""
    bodies: list[Json] = field(default_factory=list)
    applied: dict[tuple[str, str, str, str], Json] = field(default_factory=dict)
    """By plural, namespace, name and field manager: what that one applied last."""
    oldest: int = 0
    """Watches from before this resource version are too old."""
    address: str = ""
    changed: threading.Condition = field(default_factory=threading.Condition)
    watches: int = 0
    """That were asked for so far."""
    cut: int = 0
    """Watches that began before this was counted up end."""
    _history: list[tuple[int, str, str, Json]] = field(default_factory=list)
    _version: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def put(self, plural: str, manifest: Json) -> Json:
        """Store an object, as if somebody had written it."""
        meta = manifest["metadata"]
        key = (plural, meta.get("namespace", ""), meta["name"])
        with self.changed:
            stored, version = copy.deepcopy(manifest), next(self._version)
            uid = self.objects.get(key, {}).get("metadata", {}).get("uid", f"uid-{version}")
            stored["metadata"] = {"uid": uid, **stored["metadata"], "resourceVersion": str(version)}
            what = "MODIFIED" if key in self.objects else "ADDED"
            self.objects[key] = stored
            self._history.append((version, plural, what, stored))
            self.changed.notify_all()
        return stored

    def remove(self, plural: str, namespace: str, *, name: str) -> None:
        """Delete an object."""
        with self.changed:
            gone = copy.deepcopy(self.objects.pop((plural, namespace, name)))
            version = next(self._version)
            gone["metadata"]["resourceVersion"] = str(version)
            self._history.append((version, plural, "DELETED", gone))
            self.changed.notify_all()

    def tell(self, plural: str, what: str, item: Json, /) -> None:
        """Send watches an event as it is: a bookmark, say."""
        with self.changed:
            self._history.append((int(item["metadata"]["resourceVersion"]), plural, what, item))
            self.changed.notify_all()

    def say(self, namespace: str, pod: str, *, line: str) -> None:
        """A line of a pod's log."""
        with self.changed:
            self.logs.setdefault((namespace, pod), []).append(line)
            self.changed.notify_all()

    def end_log(self, namespace: str, pod: str) -> None:
        """The pod's container ends."""
        with self.changed:
            self.ended.add((namespace, pod))
            self.changed.notify_all()

    def end_watches(self, *, forget: bool = False) -> None:
        """All watches end; `forget`: and whoever goes on from before now is too late."""
        with self.changed:
            self.cut += 1
            self.oldest = next(self._version) if forget else self.oldest
            self.changed.notify_all()

    def version(self) -> int:
        """The newest resource version."""
        return next(self._version)

    def kubeconfig(
        self, folder: Path, *, namespace: str = "lab", token: str = "secret", ca: str = ""
    ) -> Path:
        """A kubeconfig whose context `fake` is this server, of this CA if it has TLS."""
        file = folder / "kubeconfig"
        cluster = {"server": self.address}
        if ca:
            cluster["certificate-authority-data"] = base64.b64encode(ca.encode()).decode()
        context = {"cluster": "fake", "user": "me", "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": cluster}],
            "users": [{"name": "me", "user": {"token": token}}],
            "contexts": [
                {"name": "fake", "context": context},
                {"name": "other", "context": {**context, "namespace": "elsewhere"}},
            ],
        }
        file.write_text(json.dumps(config))
        return file


@contextlib.contextmanager
def running(api: FakeApi, tls: ssl.SSLContext | None = None) -> Iterator[FakeApi]:
    """Serves it on a free port."""
    handler = type("Handler", (_Handler,), {"api": api})
    server = _Server(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme = "http" if tls is None else "https"
    api.address = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        api.end_watches()
        server.server_close()
        thread.join()


def selects(item: Json, labels: str, *, fields: str) -> bool:
    """Whether selectors take an object."""
    has = item["metadata"].get("labels", {})
    for one in filter(None, labels.split(",")):
        key, equals, value = one.partition("=")
        if key not in has or (equals and has[key] != value):
            return False
    for one in filter(None, fields.split(",")):
        path, _, value = one.partition("=")
        found: Any = item
        for step in path.removesuffix("!").split("."):
            found = found.get(step, {}) if isinstance(found, dict) else {}
        if ((found or "") == value) is path.endswith("!"):
            return False
    return True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no matter; what else goes wrong shows as an empty answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: FakeApi

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        if (named := self._begin()) is None:
            return
        if named.part == "log":
            self._log(named)
        elif named.part.startswith("proxy"):
            self._answer(*self.api.prometheus(named.part.removeprefix("proxy"), self.query))
        elif named.part == "portforward":
            self._forward(named)
        elif named.name:
            self._answer(*self._one(named))
        elif self.query.get("watch") == "true":
            with contextlib.suppress(ConnectionError):  # who asked has gone
                self._watch(named)
        else:
            self._answer(200, self._list(named))

    def do_POST(self) -> None:
        if (named := self._begin()) is not None:
            body = self.api.bodies[-1]
            if named.plural.endswith("accessreviews"):
                self._answer(201, {"status": {"allowed": self.api.allows(body["spec"])}})
                return
            meta = body["metadata"]
            meta.setdefault("namespace", named.namespace)
            meta.setdefault("name", f"{meta.get('generateName', '')}{self.api.version()}")
            self._answer(201, self.api.put(named.plural, body))

    def do_PATCH(self) -> None:
        if (named := self._begin()) is None:
            return
        code, stored = self._one(named)
        if code != 200 or not isinstance(stored, dict):
            self._answer(code, stored)
            return
        uid = self.api.bodies[-1].get("metadata", {}).get("uid")
        if uid not in (None, stored["metadata"]["uid"]):
            self._answer(409, status(409, "Precondition failed: UID in precondition"))
            return
        key = (named.plural, named.namespace or "", named.name)
        self._answer(200, self.api.put(named.plural, self._patched(key, stored)))

    def _patched(self, key: tuple[str, str, str], stored: Json) -> Json:
        body = self.api.bodies[-1]
        if "apply-patch" in self.headers["Content-Type"]:
            owned = self.api.applied.get((*key, self.query["fieldManager"]), {})
            stored = _without(stored, owned, kept=body)
            self.api.applied[(*key, self.query["fieldManager"])] = body
        return _merged(stored, body)

    def do_DELETE(self) -> None:
        if (named := self._begin()) is None:
            return
        code, stored = self._one(named)
        if code == 200:
            self.api.remove(named.plural, named.namespace or "", name=named.name)
        self._answer(code, stored)

    def _begin(self) -> Named | None:
        """What is asked for; None when it was answered already."""
        split = urlsplit(self.path)
        self.query = _query_of(split.query)
        length = int(self.headers.get("Content-Length") or 0)
        if length:
            self.api.bodies.append(json.loads(self.rfile.read(length)))
        self.api.tokens.append(self.headers.get("Authorization", ""))
        self.api.requests.append((self.command, split.path, self.query))
        if (refusal := self.api.refuse(self.command, split.path)) is not None:
            self._answer(*refusal)
            return None
        if (named := self._named(split.path)) is None:
            self._answer(404, "404 page not found")
        return named

    def _named(self, path: str) -> Named | None:
        for root, plurals in self.api.served.items():
            if not path.startswith(f"{root}/"):
                continue
            steps = path.removeprefix(f"{root}/").split("/")
            namespace = None
            if steps[0] == "namespaces" and len(steps) > 2:
                namespace, steps = steps[1], steps[2:]
            if steps[0] in plurals:
                name = steps[1] if len(steps) > 1 else ""
                return Named(root, steps[0], namespace, name, "/".join(steps[2:]))
        return None

    def _one(self, named: Named) -> Answer:
        found = self.api.objects.get((named.plural, named.namespace or "", named.name))
        if found is None:
            message = f'{named.plural} "{named.name}" not found'
            details = {"name": named.name, "kind": named.plural}
            return 404, status(404, message, reason="NotFound", details=details)
        return 200, found

    def _list(self, named: Named) -> Json:
        with self.api.changed:
            found = [
                item
                for key, item in sorted(self.api.objects.items())
                if self._fits(named, item, key=key)
            ]
            begin = int(self.query.get("continue") or 0)
            size = min(int(self.query.get("limit") or self.api.page), self.api.page)
            meta: Json = {"resourceVersion": str(self.api.version())}
            if len(found) > begin + size:
                meta["continue"] = str(begin + size)
            items = [
                {key: value for key, value in item.items() if key not in ("apiVersion", "kind")}
                for item in found[begin : begin + size]
            ]
            return {"kind": "List", "apiVersion": "v1", "metadata": meta, "items": items}

    def _fits(self, named: Named, item: Json, *, key: tuple[str, str, str]) -> bool:
        plural, namespace, _ = key
        labels, fields = self.query.get("labelSelector", ""), self.query.get("fieldSelector", "")
        there = named.namespace in (None, namespace)
        return plural == named.plural and there and selects(item, labels, fields=fields)

    def _watch(self, named: Named) -> None:
        with self.api.changed:
            since, cut = int(self.query["resourceVersion"]), self.api.cut
            too_old = since < self.api.oldest
            self.api.watches += 1
            self.api.changed.notify_all()
        self._begin_chunks()
        if too_old:
            self._chunk({"type": "ERROR", "object": status(410, "too old resource version")})
            self._chunk(None)
            return
        while True:
            with self.api.changed:
                ended = self.api.cut != cut
                new = [one for one in self.api._history if one[0] > since]
                if not new and not ended:
                    self.api.changed.wait(_PATIENCE_S)
                    continue
            for version, plural, what, item in new:
                since = version
                meta = item["metadata"]
                key = (plural, meta.get("namespace", ""), meta.get("name", ""))
                if what == "BOOKMARK" or self._fits(named, item, key=key):
                    self._chunk({"type": what, "object": item})
            if ended:
                self._chunk(None)
                return

    def _forward(self, named: Named) -> None:
        """To Prometheus, whatever pod it is."""
        code, body = self._one(named)
        if code != 200:
            self._answer(code, body)
            return
        port_forwards.begin(self, int(self.query["ports"]))
        if self.api.unforwarded:
            port_forwards.send(self, port_forwards.ERROR, content=self.api.unforwarded.encode())
        else:
            target = urlsplit(port_forwards.target_of(self))
            code, body = self.api.prometheus(target.path, _query_of(target.query))
            answer = port_forwards.http(code, _bytes_of(body))
            port_forwards.send(self, port_forwards.DATA, content=answer)
        port_forwards.end(self)

    def _log(self, named: Named) -> None:
        key, sent = (named.namespace or "", named.name), 0
        if key not in self.api.logs:
            self._answer(400, status(400, f"container worker of {named.name} is waiting to start"))
            return
        follow = self.query.get("follow") == "true"
        sent = max(0, len(self.api.logs[key]) - int(self.query.get("tailLines") or 10**9))
        self._begin_chunks()
        while True:
            with self.api.changed:
                lines = self.api.logs[key][sent:]
                ended = not follow or key in self.api.ended
                if not lines and not ended:
                    self.api.changed.wait(_PATIENCE_S)
                    continue
            for line in lines:
                self._chunk(f"{line}\n")
            sent += len(lines)
            if ended:
                self._chunk(None)
                return

    def _begin_chunks(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, content: Json | str | None) -> None:
        text = json.dumps(content) + "\n" if isinstance(content, dict) else content or ""
        body = text.encode()
        self.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n")
        self.wfile.flush()

    def _answer(self, code: int, content: Json | str) -> None:
        body = _bytes_of(content)
        self.send_response(code)
        if 300 <= code < 400:
            self.send_header("Location", str(content))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _query_of(text: str) -> dict[str, str]:
    return {key: values[-1] for key, values in parse_qs(text).items()}


def _bytes_of(content: Json | str) -> bytes:
    return (content if isinstance(content, str) else json.dumps(content)).encode()


def _merged(stored: Json, change: Json) -> Json:
    """A merge patch; an apply patch of what one manager owns is the same here."""
    made = dict(stored)
    for key, value in change.items():
        if isinstance(value, dict):
            made[key] = _merged(made.get(key) or {}, value)
        elif value is None:
            made.pop(key, None)
        else:
            made[key] = value
    return made


def _without(stored: Json, owned: Json, *, kept: Json) -> Json:
    """An object without the fields that an applier has given up."""
    made = dict(stored)
    for key, value in owned.items():
        if key in ("apiVersion", "kind", "metadata"):
            continue
        if isinstance(value, dict):
            made[key] = _without(made.get(key) or {}, value, kept=kept.get(key) or {})
        elif key not in kept:
            made.pop(key, None)
    return made
