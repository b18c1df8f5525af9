"""Lists of objects, of which little is held at once however large they are; `kube` reads them.

Whoever may write objects of a kind may make each a megabyte, and a page of a hundred of these what
no process of ours could hold. Invariant: an answer that is longer than a page may be is not read to
its end, but asked for again in fewer objects, at the least in one.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from lockstep_api import names
from lockstep_operator.core.model import Manifest
from lockstep_operator.errors import TooLarge
from lockstep_operator.kube_transport import OBJECT_BYTES, Request, Transport

PAGE, PAGE_OF_JOBS = 100, 4
"""Objects that are asked for at once. A job may become 30 MB when it is read."""
PAGE_BYTES = 3 << 20
"""What a page of several objects may have, as JSON: Python makes up to 24 times as much of it."""
_FEWER = 8
View = TypeVar("View")


@dataclass(frozen=True, slots=True)
class Listing(Generic[View]):
    """A list as of a resource version, from which a watch goes on."""

    items: list[View]
    resource_version: str


def page_of(kind: tuple[str, str]) -> int:
    """How many objects of a kind come at once."""
    return PAGE_OF_JOBS if kind == (names.API_VERSION, names.KIND) else PAGE


async def pages(http: Transport, request: Request) -> AsyncGenerator[Listing[Manifest], None]:
    """A list piece by piece; a piece is empty once the next one is asked for.

    Raises:
        KubeError: it could not be read; TooLarge: nor could one of its objects.
    """
    most = size = page_of(request.kind)
    token = ""
    while True:
        query = {**request.query, "limit": size} | ({"continue": token} if token else {})
        most_bytes = PAGE_BYTES if size > 1 else OBJECT_BYTES
        try:
            page = await http.call(replace(request, query=query, most_bytes=most_bytes))
        except TooLarge:
            if size == 1:
                raise
            size = max(1, size // _FEWER)
            continue
        items = [named(item, request.kind) for item in page["items"] or ()]  # null: none
        meta = page["metadata"]
        token, size = meta.get("continue", ""), min(most, 2 * size)
        del page
        yield Listing(items, meta["resourceVersion"])
        items.clear()
        if not token:
            return


async def all_of(
    pieces: AsyncGenerator[Listing[Manifest], None], kept: Callable[[Manifest], View]
) -> Listing[View]:
    """What is kept of each object of a list."""
    found, version = list[View](), ""
    async for page in pieces:
        found += map(kept, page.items)
        version = page.resource_version
    return Listing(found, version)


async def items_of(pieces: AsyncGenerator[Listing[Manifest], None]) -> AsyncIterator[Manifest]:
    """The objects of a list, one after another."""
    async with aclosing(pieces):
        async for page in pieces:
            for item in page.items:
                yield item


def named(item: Manifest, kind: tuple[str, str]) -> Manifest:
    """Items of a list, and metadata, do not say what they are of."""
    return {**item, "apiVersion": kind[0], "kind": kind[1]}
