"""Lists and watches of objects that somebody made as large as he could, over real sockets."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from lockstep_operator import kube_lists, kube_transport
from lockstep_operator.errors import TooLarge, Unavailable
from lockstep_operator.kube import SET, ApiKube

MOST, LARGEST = 10_000, 40_000


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that tests reach soon."""
    monkeypatch.setattr(kube_lists, "PAGE_BYTES", MOST)
    for module in (kube_lists, kube_transport):
        monkeypatch.setattr(module, "OBJECT_BYTES", LARGEST)


class Sets:
    """An apiserver that has StatefulSets of these sizes, and remembers how many were asked for."""

    def __init__(self, *sizes: int) -> None:
        self.bodies = [made(number, size) for number, size in enumerate(sizes)]
        self.asked: list[int] = []

    async def answer(self, request: web.Request) -> web.Response:
        if "watch" in request.query:
            lines = (json.dumps({"type": "ADDED", "object": one}) + "\n" for one in self.bodies)
            return web.Response(text="".join(lines))
        begin, limit = int(request.query.get("continue", 0)), int(request.query["limit"])
        self.asked.append(limit)
        end = min(len(self.bodies), begin + limit)
        meta = {"resourceVersion": "7", "continue": str(end) if end < len(self.bodies) else ""}
        return web.json_response({"metadata": meta, "items": self.bodies[begin:end]})


def made(number: int, size: int) -> dict[str, Any]:
    return {"metadata": {"name": f"s{number}"}, "spec": {"is": "x" * size}}


@asynccontextmanager
async def asking(sets: Sets) -> AsyncIterator[ApiKube]:
    app = web.Application()
    app.router.add_get("/apis/apps/v1/statefulsets", sets.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    configuration = Configuration()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    configuration.host = f"http://127.0.0.1:{port}"
    kube = ApiKube(configuration)
    try:
        yield kube
    finally:
        await kube.close()
        await runner.cleanup()


def watch(kube: ApiKube) -> AsyncGenerator[dict[str, Any], None]:
    return kube.watch(SET, None, labels="", resource_version="7", timeout_s=1.0)


def name_of(manifest: dict[str, Any]) -> str:
    return str(manifest["metadata"]["name"])


async def test_large_objects_come_in_smaller_pages_and_small_ones_in_larger_again() -> None:
    sets = Sets(*[10] * 30, *[6000] * 5, *[10] * 300)
    async with asking(sets) as kube:
        listing = await kube.list(SET, kept=name_of)
    assert listing.items == [name_of(one) for one in sets.bodies]
    assert listing.resource_version == "7"
    assert sets.asked[:3] == [100, 12, 24], "what is too much is asked for again in fewer"
    assert 1 in sets.asked, "two of 6,000 are more than a page has"
    assert max(sets.asked[3:]) == 100


async def test_an_object_that_is_larger_than_a_page_comes_alone() -> None:
    sets = Sets(10, LARGEST - 1000, 10)
    async with asking(sets) as kube:
        assert (await kube.list(SET, kept=name_of)).items == ["s0", "s1", "s2"]


async def test_what_no_object_can_have_is_not_read() -> None:
    async with asking(Sets(LARGEST)) as kube:
        with pytest.raises(TooLarge, match="more than 40,000 bytes"):
            await kube.list(SET, kept=name_of)


async def test_a_page_is_let_go_when_the_next_is_asked_for() -> None:
    held = []
    async with asking(Sets(*[9000] * 3)) as kube, aclosing(kube.pages(SET)) as pages:
        async for page in pages:
            held.append(page)
            assert [len(one.items) for one in held[:-1]] == [0] * (len(held) - 1)
    assert len(held) == 3


@pytest.mark.parametrize("size", [1, LARGEST - 1000])
async def test_an_event_may_be_as_long_as_an_object(size: int) -> None:
    async with asking(Sets(size, 10)) as kube, aclosing(watch(kube)) as events:
        heard = [name_of(event["object"]) async for event in events]
    assert heard == ["s0", "s1"]


async def test_an_event_that_is_longer_ends_its_watch() -> None:
    async with asking(Sets(LARGEST)) as kube, aclosing(watch(kube)) as events:
        with pytest.raises(Unavailable, match="an event of more than"):
            await anext(events)
