"""Answers in plain ASGI, and what routes wait for.

Used by `hosting.bulk` and its like. Invariant: nothing here knows what an answer is about.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from lockstep_workers.hosting.reading import Message, Receive

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Route = tuple[
    str, re.Pattern[str], Callable[[re.Match[str], Scope, Receive, Send], Awaitable[None]]
]
"""Method, path, and who answers."""


async def dispatched(
    scope: Scope, receive: Receive, send: Send, *, routes: Iterable[Route], rest: App
) -> None:
    """Lets the route answer whose method and path these are; `rest` answers all others."""
    if scope["type"] == "http":
        for method, pattern, handle in routes:
            match = pattern.fullmatch(scope["path"])
            if match and scope["method"] == method:
                await handle(match, scope, receive, send)
                return
    await rest(scope, receive, send)


async def no_such_route(scope: Scope, receive: Receive, send: Send) -> None:
    """Where routes end that are nobody's."""
    del scope, receive
    await send_json(send, 404, content={"message": "no such route"}, close=True)


def address_of(scope: Scope) -> str:
    """The address of who asks; empty: nobody knows it."""
    client = scope.get("client")
    return "" if client is None else str(client[0])


async def small_body(receive: Receive, *, most_bytes: int, within_s: float) -> bytes | int:
    """A whole body; or the status that refuses one that is too long or takes too long."""
    body = bytearray()
    try:
        async with asyncio.timeout(within_s):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > most_bytes:
                    return 413
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        return 408


async def first(awaited: asyncio.Future[Any], receive: Receive) -> bool:
    """Waits for a result or for the client to go; whether there is a result."""
    gone = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({awaited, gone}, return_when=asyncio.FIRST_COMPLETED)
        return awaited.done()
    finally:
        for task in (awaited, gone):
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def no_content(send: Send) -> None:
    """Answers with nothing."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send_body(send, b"", more=False)


async def start(
    send: Send,
    status: int,
    *,
    content_type: bytes,
    length: int | None,
    extra: list[tuple[bytes, bytes]] | None = None,
) -> None:
    """Begins an answer; without a length its pieces have lengths of their own."""
    headers = [(b"content-type", content_type), *(extra or [])]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def send_body(send: Send, piece: bytes | memoryview, *, more: bool) -> None:
    """A piece of an answer, the last one unless there is more."""
    await send({"type": "http.response.body", "body": piece, "more_body": more})


async def send_json(
    send: Send,
    status: int,
    *,
    content: dict[str, Any],
    close: bool = False,
    retry_s: int | None = None,
) -> None:
    """Answers with JSON, and with when to come again."""
    body = json.dumps(content).encode()
    extra = [(b"connection", b"close")] if close else []
    if retry_s is not None:
        extra.append((b"retry-after", str(retry_s).encode()))
    await start(send, status, content_type=b"application/json", length=len(body), extra=extra)
    await send_body(send, body, more=False)
