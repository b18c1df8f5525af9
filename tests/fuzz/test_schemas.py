"""Every HTTP API answers whatever is sent, fitting or not, as its description says: no 5xx but the
one that asks to come again, no hang, known statuses and content types."""

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.core import NotSet

from lockstep_api import names
from lockstep_operator.routes import planner_app
from lockstep_workers.hosting.bulk import BulkRoutes
from tests.fuzz.openapi import DEVICES, JSON, PLANNER, Operation, document
from tests.support.patience import PATIENCE_S
from tests.support.planner import planner_of_a_job
from tests.wire.cloud import cloud
from tests.wire.jobs import FakePlanner

EXAMPLES = int(os.environ.get("LOCKSTEP_SCHEMA_EXAMPLES", "3"))
"""For each operation, of those that fit and of those that do not."""
TYPES = {JSON, "application/jsonl", names.TENSORS, ""}


@dataclass
class Served:
    """An API in this process, and the loop that it lives in."""

    loop: asyncio.AbstractEventLoop
    apps: dict[str, Any] = field(default_factory=dict)

    def ask(self, api: str, case: Any, *, content: str) -> tuple[int, str]:
        """Status and content type of the answer."""
        return self.loop.run_until_complete(
            asyncio.wait_for(answer(self.apps[api], case, content=content), PATIENCE_S)
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with asyncio.Runner() as runner:
        found = Served(runner.get_loop())
        stack = AsyncExitStack()
        runner.run(open_all(stack, found, tmp_path_factory.mktemp("cloud")))
        yield found
        runner.run(stack.aclose())


async def open_all(stack: AsyncExitStack, found: Served, folder: Path) -> None:
    """The planner of a job, and a cloud pod."""
    setup = await stack.enter_async_context(planner_of_a_job())
    found.apps["planner"] = planner_app(setup.planner)
    server = await stack.enter_async_context(cloud(folder, FakePlanner(), replicas=2))
    found.apps["devices"] = BulkRoutes(server.reception)


async def answer(app: Any, case: Any, *, content: str) -> tuple[int, str]:
    """What an app answers to a case; who asks goes once the answer has begun."""
    begun = asyncio.Event()
    said: dict[str, Any] = {"status": 0, "headers": []}
    body = [content_of(case)]

    async def receive() -> dict[str, Any]:
        if body:
            return {"type": "http.request", "body": body.pop(), "more_body": False}
        await begun.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
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
    sent = {"host": "x", "authorization": "Bearer cloud", "content-length": str(size)}
    sent |= {"content-type": content} | dict(case.headers or {})
    headers = [
        (name.lower().encode("latin-1", "replace"), str(value).encode("latin-1", "replace"))
        for name, value in sent.items()
    ]
    path = case.formatted_path
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http",
        "method": case.method.upper(), "path": unquote(path), "raw_path": path.encode(),
        "query_string": urlencode(case.query or {}, doseq=True).encode(), "root_path": "",
        "headers": headers, "client": ("10.0.0.1", 1), "server": ("x", 80), "extensions": {},
    }  # fmt: skip


def cases() -> Iterator[Any]:
    """Each operation, of what fits and of what does not."""
    for api, operations in (("planner", PLANNER), ("devices", DEVICES)):
        for one in operations:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                title = f"{api} {one.method} {one.path.rpartition('/')[2]} {mode.value}"
                yield pytest.param(api, one, mode, id=title)


@pytest.mark.parametrize(("api", "operation", "mode"), list(cases()))
def test_an_api_answers_as_it_is_described(
    served: Served, api: str, operation: Operation, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_dict(document(api, (operation,)))
    strategy = schema[operation.path][operation.method].as_strategy(generation_mode=mode)

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(case=strategy)
    def play(case: Any) -> None:
        status, content_type = served.ask(api, case, content=operation.content or JSON)
        assert status in operation.answers, (status, case)
        assert content_type.partition(";")[0] in TYPES

    play()
