"""Every HTTP API in this process, with somebody in a session whose key is known.

The schema tests ask; a case is handed to an app as an ASGI server does. Sessions that a case has
ended are opened anew before the next one, so that cases meet a job that runs.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import unquote, urlencode

from schemathesis.core import NotSet

from lockstep_api import names
from lockstep_api.certificates import Certificate, CertificateRequest
from lockstep_operator.core.certificates import Authority
from lockstep_operator.errors import UnfitRequest
from lockstep_operator.issuer import DISCOVERY, JWKS
from lockstep_operator.routes import planner_app
from lockstep_serving.tls import NoCertificate
from lockstep_workers.cloud.edge_routes import EdgeRoutes
from lockstep_workers.data import load_dataset
from lockstep_workers.edge.members import Members
from lockstep_workers.edge.metrics import EdgeMetrics
from lockstep_workers.edge.reception import EdgeReception
from lockstep_workers.hosting import sessions
from lockstep_workers.hosting.asgi import App
from lockstep_workers.hosting.bulk import BulkRoutes
from lockstep_workers.hosting.sessions import Sessions
from tests.support.patience import PATIENCE_S
from tests.support.planner import online, planner_of_a_job
from tests.support.split_clusters import order_of, start_of
from tests.support.tokens import ISSUER
from tests.support.tokens import Signer as TokenSigner
from tests.wire.cloud import Cloud, cloud
from tests.wire.jobs import FakePlanner
from tests.wire.signing import Signer
from tests.wire.split import a_job, edge_of

JSON = "application/json"
KEY = "the-key-of-whoever-is-there"
GONE = 0
"""Instead of a status: who asks has gone before there was an answer."""
HOLD_S = 0.02
"""How long who asks waits for a route that has nothing to say yet."""


@dataclass
class Member:
    """A device or an edge in a session."""

    api: str
    route: str
    registration: dict[str, Any]
    held: "asyncio.Task[None] | None" = None

    async def enter(self, app: App) -> None:
        """Opens the session, unless it is open."""
        if self.held is not None and not self.held.done():
            return
        begun, body = asyncio.Event(), [json.dumps(self.registration).encode()]

        async def receive() -> dict[str, Any]:
            if body:
                return {"type": "http.request", "body": body.pop(), "more_body": False}
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Any) -> None:
            begun.set()
            assert message.get("status", 200) == 200

        shown = {names.PROTOCOL_HEADER: names.PROTOCOL, names.SESSION_HEADER: KEY}
        scope = _scope("POST", self.route, shown)
        self.held = asyncio.ensure_future(_held(app(scope, receive, send)))
        await asyncio.wait_for(begun.wait(), PATIENCE_S)


async def _held(session: Any) -> None:
    await session


@dataclass
class Asked:
    """A case made by hand."""

    method: str
    formatted_path: str
    headers: dict[str, str]
    query: dict[str, Any]
    body: bytes = b""


@dataclass
class Served:
    """The APIs, and who is there."""

    apps: dict[str, App] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)

    async def enter(self, api: str) -> None:
        """Whoever is to be there is there."""
        for member in self.members:
            if member.api == api:
                await member.enter(self.apps[api])

    async def ask(self, api: str, case: Any, *, content: str) -> tuple[int, str]:
        """Status and content type of the answer to a case."""
        await self.enter(api)
        return await asyncio.wait_for(answer(self.apps[api], case, content=content), PATIENCE_S)

    async def begin(self, api: str, route: str) -> None:
        """Waits until somebody has something to do."""
        await self.enter(api)
        case = Asked("GET", route, {names.SESSION_HEADER: KEY}, {"after": 0})
        status, _ = await answer(self.apps[api], case, hold_s=PATIENCE_S)
        assert status == 200

    def add(self, api: str, who: str, name: str) -> None:
        """Somebody is in a session there."""
        route = names.EDGE_SESSION_ROUTE if who == "edge" else names.SESSION_ROUTE
        told = {who: name, "incarnation": "1"} | ({} if who == "edge" else {"examples": 10})
        self.members.append(Member(api, route.format(**{who: name}), told))


@asynccontextmanager
async def all_apis(folder: Path) -> AsyncIterator[Served]:
    """The planner of a job, cloud pods with and without edges, and edges of both modes."""
    found = Served()
    handover = patch.object(sessions, "HANDOVER_S", HOLD_S / 2)
    async with (
        planner_of_a_job(authority=Authority(bytes(32))) as setup,
        cloud(folder / "flat", FakePlanner(), replicas=1) as flat,
        cloud(folder / "tiers", FakePlanner(), replicas=1, edge_urls={"e-0": "http://e"}) as tiers,
    ):
        setup.kube.public = {
            DISCOVERY: {"issuer": ISSUER},
            JWKS: json.loads(TokenSigner().published().jwks.to_json()),
        }
        found.apps["planner"] = planner_app(setup.planner)
        found.apps["cloud"] = _devices(flat)
        found.apps["tiers"] = _edges(tiers)
        found.apps["edge"] = _edge(flat)
        found.apps["split"] = _split(folder)
        found.add("cloud", "client", "d-0")
        found.add("tiers", "edge", "e-0")
        found.add("tiers", "client", "d-0")
        found.add("edge", "client", "d-0")
        await found.begin("cloud", names.WORK_ROUTE.format(client="d-0"))
        await found.begin("tiers", names.EDGE_WORK_ROUTE.format(edge="e-0"))
        await online(setup)
        try:
            with handover:
                yield found
        finally:
            held = [one.held for one in found.members if one.held is not None]
            for task in held:
                task.cancel()
            await asyncio.gather(*held, return_exceptions=True)


def _devices(server: Cloud) -> App:
    server.reception._sessions = Sessions(lambda: KEY)
    return BulkRoutes(server.reception)


def _edges(server: Cloud) -> App:
    tiers, signer = server.rounds.tiers, Signer()
    assert tiers is not None
    tiers._sessions = Sessions(lambda: KEY)

    async def certify(asked: CertificateRequest) -> Certificate:
        try:
            return signer.sign(asked)
        except UnfitRequest as error:
            raise NoCertificate(str(error)) from error

    return EdgeRoutes(tiers, _devices(server), certify=certify)


def _edge(server: Cloud) -> App:
    """An edge that averages; d-0 is a member of its cluster."""
    members = Members(hold_s=HOLD_S / 2)
    members.know({"d-0": KEY})
    reception = EdgeReception(server.job.clients(), members, metrics=EdgeMetrics("j", "e-0"))
    reception._sessions = Sessions(lambda: KEY)
    return BulkRoutes(reception)


def _split(folder: Path) -> App:
    """An edge that trains back halves, with an order of round 1."""
    job = a_job(folder, replicas=1)
    dataset = load_dataset(job.data, folder / "datasets")
    edge = edge_of(job, hold_s=HOLD_S / 2)
    edge.runner(order_of(job, dataset, steps=1), start_of(job))
    edge.members.know({"d-0": KEY})
    return edge.routes


async def answer(
    app: App, case: Any, *, content: str = JSON, hold_s: float = HOLD_S
) -> tuple[int, str]:
    """What an app answers to a case; who asks goes once the answer has begun, or after a while."""
    begun = asyncio.Event()
    said: dict[str, Any] = {"status": GONE, "headers": []}
    body = [content_of(case)]

    async def receive() -> dict[str, Any]:
        if body:
            return {"type": "http.request", "body": body.pop(), "more_body": False}
        with suppress(TimeoutError):
            await asyncio.wait_for(begun.wait(), hold_s)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            said.update(message)
            begun.set()

    await app(scope_of(case, len(body[0]), content=content), receive, send)
    content_type = dict(said["headers"]).get(b"content-type", b"").decode()
    return said["status"], content_type


def content_of(case: Any) -> bytes:
    """The body of a case, in bytes."""
    if isinstance(case.body, bytes):
        return case.body
    if isinstance(case.body, NotSet):
        return b""
    return json.dumps(case.body, default=str).encode(errors="replace")


def scope_of(case: Any, size: int, *, content: str) -> dict[str, Any]:
    """A case as an ASGI server hands it on."""
    sent = {"authorization": "Bearer cloud", "content-length": str(size), "content-type": content}
    scope = _scope(case.method.upper(), case.formatted_path, sent | dict(case.headers or {}))
    return scope | {"query_string": urlencode(case.query or {}, doseq=True).encode()}


def _scope(method: str, path: str, sent: dict[str, Any]) -> dict[str, Any]:
    headers = [
        (name.lower().encode("latin-1", "replace"), str(value).encode("latin-1", "replace"))
        for name, value in {"host": "x", **sent}.items()
    ]
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http",
        "method": method, "path": unquote(path), "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "headers": headers, "client": ("10.0.0.1", 1), "server": ("x", 80),
        "extensions": {},
    }  # fmt: skip
