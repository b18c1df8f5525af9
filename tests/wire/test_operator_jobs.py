"""Jobs that somebody made as large as he could: what is held of them, over real sockets."""

import asyncio
import json
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration
from prometheus_client import CollectorRegistry

from lockstep_api import names
from lockstep_operator import kube as kube_door
from lockstep_operator.app import make_deps
from lockstep_operator.config import OperatorConfig
from lockstep_operator.core.model import JobKey, Manifest
from lockstep_operator.kube import ApiKube, job_ref
from lockstep_operator.kube_transport import Request, Transport
from lockstep_operator.lead import Flags, Leader, lead
from lockstep_operator.metrics import Metrics
from lockstep_operator.reconcile import PassResult
from lockstep_operator.runtime import Runtime
from tests.support.patience import PATIENCE_S

JOBS = 120
LABELS = json.dumps({f"example.org/label-{number}": "x" for number in range(2000)})
"""Of each job: 60 KB, of which Python makes half a megabyte."""
MOST_HELD = 6 << 20
PATH = f"/apis/{names.API_VERSION}/{names.PLURAL}"
RESOURCES = {
    f"/apis/{names.API_VERSION}": (names.PLURAL, names.KIND),
    "/api/v1": ("namespaces", "Namespace"),
}
"""What a framework that looks for kinds itself would find."""


def body(number: int, version: int) -> str:
    meta = (
        f'"name": "j{number}", "namespace": "attic", "uid": "uid-{number}", '
        f'"resourceVersion": "{version}", "labels": {LABELS}'
    )
    return f'{{"metadata": {{{meta}}}, "spec": {{}}}}'


@dataclass
class Jobs:
    """An apiserver that has large jobs, and of everything else nothing."""

    loop: asyncio.AbstractEventLoop = field(init=False)
    streams: list[asyncio.Queue[str]] = field(default_factory=list)
    """What each watch is told; nothing: its end."""
    watches: list[asyncio.Queue[str]] = field(default_factory=list)
    """Those of jobs."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return await self.watched(request)
        if request.path.endswith("/j0"):
            return web.Response(text=body(0, 10), content_type="application/json")
        if request.path != PATH:
            return web.json_response(others(request.path))
        begin, limit = int(request.query.get("continue", 0)), int(request.query["limit"])
        end = min(JOBS, begin + limit)
        meta = {"resourceVersion": "100", "continue": str(end) if end < JOBS else ""}
        items = ",".join(body(number, 10) for number in range(begin, end))
        text = f'{{"metadata": {json.dumps(meta)}, "items": [{items}]}}'
        return web.Response(text=text, content_type="application/json")

    async def watched(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        lines = asyncio.Queue[str]()
        if request.path == PATH:
            self.watches.append(lines)
        self.streams.append(lines)
        while line := await lines.get():
            await response.write(line.encode() + b"\n")
        return response

    def change(self, kind: str, number: int, *, version: int) -> None:
        line = f'{{"type": "{kind}", "object": {body(number, version)}}}'
        for lines in self.watches:
            self.loop.call_soon_threadsafe(lines.put_nowait, line)


def others(path: str) -> dict[str, Any]:
    if path in {"/api", "/apis"}:
        version = {"groupVersion": names.API_VERSION, "version": names.VERSION}
        group = {"name": names.GROUP, "versions": [version], "preferredVersion": version}
        return {"versions": ["v1"], "groups": [group]}
    if path in RESOURCES:
        name, kind = RESOURCES[path]
        found = {"name": name, "kind": kind, "singularName": "", "verbs": ["list", "watch"]}
        return {"resources": [found | {"namespaced": True}]}
    return {"metadata": {"resourceVersion": "100"}, "items": []}


@dataclass
class Following:
    """A leader that follows these jobs."""

    jobs: Jobs
    passes: list[JobKey] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    async def one_pass(self, key: JobKey) -> PassResult:
        self.passes.append(key)
        self.heard.set()
        return PassResult()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self.heard.clear()
                await self.heard.wait()


@contextmanager
def served(jobs: Jobs) -> Iterator[int]:
    """On a port, in a thread: Kopf ends all tasks of its own loop."""
    made, listening, over = asyncio.new_event_loop(), Future[int](), asyncio.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", jobs.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        jobs.loop = made
        listening.set_result(site._server.sockets[0].getsockname()[1])  # type: ignore[attr-defined]
        await over.wait()
        for lines in jobs.streams:
            lines.put_nowait("")
        await runner.cleanup()

    thread = threading.Thread(target=made.run_until_complete, args=(serve(),))
    thread.start()
    try:
        yield listening.result(PATIENCE_S)
    finally:
        made.call_soon_threadsafe(over.set)
        thread.join()
        made.close()


@asynccontextmanager
async def following() -> AsyncIterator[Following]:
    made = Following(Jobs())
    configuration = type.__call__(Configuration)
    with served(made.jobs) as port:
        configuration.host = f"http://127.0.0.1:{port}"
        async with leading(made, configuration):
            yield made


@asynccontextmanager
async def leading(made: Following, configuration: Configuration) -> AsyncIterator[None]:
    kube, flags = ApiKube(configuration), Flags()
    deps = make_deps(OperatorConfig(), kube, metrics=Metrics(CollectorRegistry()))
    runtime = Runtime(made.one_pass, deps.metrics, resync_s=1000.0)
    leader = Leader(runtime, deps, flags)
    running = asyncio.create_task(lead(leader, None))
    try:
        yield
    finally:
        flags.stop.set()
        await runtime.shutdown()
        await asyncio.wait_for(running, PATIENCE_S)
        await kube.close()


async def test_of_jobs_with_thousands_of_labels_little_is_held_at_once() -> None:
    """At a start with many of them, and while all of them are changed."""
    everyone = {JobKey("attic", f"j{number}") for number in range(JOBS)}
    tracemalloc.start()
    try:
        async with following() as seen:
            await seen.until(lambda: set(seen.passes) >= everyone)
            at_start = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            seen.passes.clear()
            for number in range(JOBS):
                seen.jobs.change("MODIFIED", number, version=200 + number)
            await seen.until(lambda: set(seen.passes) >= everyone)
            changed = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert at_start < MOST_HELD
    assert changed < MOST_HELD + JOBS * 2 * len(LABELS), "that the server has to tell is here, too"


async def test_jobs_that_are_large_are_read_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_door, "SMALL_BYTES", len(LABELS))
    call, under_way, most = Transport.call, 0, 0

    async def counted(self: Transport, request: Request) -> Manifest:
        nonlocal under_way, most
        is_large = request.most_bytes > len(LABELS)
        under_way += is_large
        most = max(most, under_way)
        try:
            return await call(self, request)
        finally:
            under_way -= is_large

    monkeypatch.setattr(Transport, "call", counted)
    configuration = type.__call__(Configuration)
    with served(Jobs()) as port:
        configuration.host = f"http://127.0.0.1:{port}"
        kube = ApiKube(configuration)
        reads = (kube.get(job_ref(f"n{number}", "j0")) for number in range(20))
        found = await asyncio.gather(*reads)
        await kube.close()
    assert {len(one["metadata"]["labels"]) for one in found} == {2000}
    assert most == 1
