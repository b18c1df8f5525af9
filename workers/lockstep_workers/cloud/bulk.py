"""The three routes that devices use, as plain ASGI: sessions, long-polls for work, updates.

Mounted before the ordinary app. Plain ASGI, because a framework would hold whole bodies in memory
and copy them: a model goes out in pieces, an update is read into one buffer (`cloud.reading`).
Whom they serve is the host's matter (`cloud.reception`).
"""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Protocol

from pydantic import ValidationError

from lockstep_api.names import REPORT_HEADER, TASK_HEADER, TENSORS
from lockstep_api.wire import ClientReport, Refusal, Registration, Task, UpdateReport
from lockstep_serving.receiving import EXTENSION
from lockstep_workers.cloud.reading import Message, Messages, Reader, Receive, Source
from lockstep_workers.cloud.reception import Session
from lockstep_workers.errors import Gone, RefusedUpdate
from lockstep_workers.tensors import Flat, check_values, decode, max_body_bytes

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = dict[bytes, bytes]

_MAX_REGISTRATION = 1 << 16
_REGISTRATION_S = 10.0
_CLIENT = r"/v1/clients/(?P<client>[a-z0-9-]{1,63})"
_SESSION = re.compile(_CLIENT + "/session")
_WORK = re.compile(_CLIENT + "/work")
_UPDATE = re.compile(r"/v1/rounds/(?P<round>[0-9]{1,9})/updates/(?P<client>[a-z0-9-]{1,63})")

_STATUS = {
    Refusal.UNKNOWN_CLIENT: 404,
    Refusal.NOT_IN_ROUND: 409,
    Refusal.WRONG_ROUND: 409,
    Refusal.DUPLICATE: 409,
    Refusal.CONTENT_TYPE: 415,
    Refusal.TOO_LARGE: 413,
    Refusal.TOO_SLOW: 408,
}


class Host(Protocol):
    """Whom the routes serve."""

    @property
    def n_values(self) -> int:
        """Values of an update."""

    def knows(self, client: str) -> bool:
        """Whether there is such a client."""

    def admits(self, client: str) -> bool:
        """Whether a client may ask for work."""

    def open_session(self, registration: Registration) -> Session:
        """A client is there."""

    def close_session(self, session: Session) -> None:
        """Its connection is closed."""

    async def next_task(self, client: str, after: int) -> tuple[Task, bytearray] | None:
        """Waits for a round after `after` with this client; None when there is none any more."""

    def check(self, report: UpdateReport) -> None:
        """Whether an update is welcome; raises RefusedUpdate when it is not."""

    def elapsed_in_round(self) -> float:
        """Seconds since the open round began."""

    def add(self, report: ClientReport, flat: Flat) -> None:
        """Adds a checked update; errors as `check`."""

    def refuse(self, client: str, error: RefusedUpdate) -> None:
        """An update was refused."""

    def failed(self, client: str, error: Exception) -> None:
        """An update could not be taken, by no fault of its sender."""


class BulkRoutes:
    """Answers the devices' routes and leaves all others to `rest`."""

    def __init__(self, host: Host, rest: App) -> None:
        """`rest` is the ordinary app."""
        self._host = host
        self._rest = rest
        self._reader = Reader()
        self._polls: dict[str, asyncio.Future[Any]] = {}
        self._routes = (
            ("POST", _SESSION, self._session),
            ("GET", _WORK, self._work),
            ("PUT", _UPDATE, self._update),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            for method, pattern, handle in self._routes:
                match = pattern.fullmatch(scope["path"])
                if match and scope["method"] == method:
                    await handle(match, scope, receive, send)
                    return
        await self._rest(scope, receive, send)

    # -- sessions --------------------------------------------------------------------------------

    async def _session(
        self, match: re.Match[str], _scope: Scope, receive: Receive, send: Send
    ) -> None:
        """A response that stays open as long as the client is there."""
        body = await _small_body(receive)
        if isinstance(body, int):
            message = f"a registration has at most {_MAX_REGISTRATION} bytes, sent within "
            message += f"{_REGISTRATION_S:g} s"
            await send_json(send, body, content={"message": message}, close=True)
            return
        try:
            registration = Registration.model_validate_json(body)
        except ValidationError as error:
            await send_json(send, 422, content={"message": f"not a registration: {error}"})
            return
        if registration.client != match["client"] or not self._host.knows(match["client"]):
            await send_json(
                send, 404, content={"message": f"this job has no client {match['client']}"}
            )
            return
        await self._hold(registration, receive, send=send)

    async def _hold(self, registration: Registration, receive: Receive, *, send: Send) -> None:
        session = self._host.open_session(registration)
        try:
            await _start(send, 200, content_type=b"application/jsonl", length=None)
            await _body(send, b'{"session":"open"}\n', more=True)
            over = asyncio.ensure_future(session.over.wait())
            if await _first(over, receive):
                await _body(send, json.dumps(session.ended()).encode() + b"\n", more=False)
        finally:
            self._host.close_session(session)

    # -- work ------------------------------------------------------------------------------------

    async def _work(self, match: re.Match[str], scope: Scope, receive: Receive, send: Send) -> None:
        """Waits for a round with this client, then sends task and model."""
        client = match["client"]
        if not self._host.knows(client):
            await send_json(send, 404, content={"message": f"this job has no client {client}"})
            return
        if not self._host.admits(client):
            await send_json(
                send, 409, content={"message": f"{client} has no session: open one first"}
            )
            return
        after = re.fullmatch(rb"after=([0-9]{1,9})", scope["query_string"])
        if after is None:
            await send_json(
                send, 422, content={"message": "say after=ROUND, the last round received"}
            )
            return
        waiting = asyncio.ensure_future(self._host.next_task(client, int(after[1])))
        if older := self._polls.get(client):
            older.cancel()  # one long-poll a client: the newest
        self._polls[client] = waiting
        try:
            if not await _first(waiting, receive):
                return
        finally:
            if self._polls.get(client) is waiting:
                del self._polls[client]
        if waiting.cancelled():
            await send_json(send, 409, content={"message": f"{client} asked again"}, close=True)
            return
        found = waiting.result()
        if found is None:
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await _body(send, b"", more=False)
            return
        task, model = found
        extra = [(TASK_HEADER.encode(), task.to_json().encode())]
        await _start(send, 200, content_type=TENSORS.encode(), length=len(model), extra=extra)
        await _body(send, memoryview(model), more=False)

    # -- updates ---------------------------------------------------------------------------------

    async def _update(
        self, match: re.Match[str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Reads, checks and adds one update, or refuses it with a reason."""
        client = match["client"]
        try:
            await self._take(client, int(match["round"]), scope=scope, receive=receive)
        except Gone:  # the sender comes back with the update, or its session ends too
            return
        except RefusedUpdate as error:
            self._host.refuse(client, error)
            answer = {"reason": error.reason.value, "message": str(error)}
            await send_json(send, _STATUS.get(error.reason, 422), content=answer, close=True)
        except Exception as error:  # noqa: BLE001 - logged by the host; a 500 would lose the client
            self._host.failed(client, error)
            answer = {"message": "the update could not be taken: send it again"}
            await send_json(send, 503, content=answer, close=True)
        else:
            await send_json(send, 200, content={"accepted": True})

    async def _take(self, client: str, number: int, *, scope: Scope, receive: Receive) -> None:
        headers: Headers = dict(scope["headers"])
        report = _report(headers, client, number=number)
        self._host.check(report)
        size = _size(headers, max_body_bytes(self._host.n_values))
        began = time.monotonic()
        async with self._reader.body(_source(scope, receive, size=size), size) as body:
            upload_s = time.monotonic() - began
            self._add(report, body, upload_s=upload_s)

    def _add(self, report: UpdateReport, body: memoryview, *, upload_s: float) -> None:
        """Checks a whole body and adds it, with nothing in between."""
        flat = decode(body, n_values=self._host.n_values)
        check_values(flat)
        arrived = ClientReport(
            update=report,
            arrived_seconds=self._host.elapsed_in_round(),
            upload_seconds=upload_s,
            bytes=len(body),
        )
        self._host.add(arrived, flat)


def _source(scope: Scope, receive: Receive, *, size: int) -> Source:
    """The body of a request, past the server's own buffers where the server can do that."""
    past: Callable[[int], Source] | None = scope.get("extensions", {}).get(EXTENSION)
    return Messages(receive, size) if past is None else past(size)


def _report(headers: Headers, client: str, *, number: int) -> UpdateReport:
    """The report in the headers, which must be about this client and round."""
    if headers.get(b"content-type") != TENSORS.encode():
        raise RefusedUpdate(Refusal.CONTENT_TYPE, f"content-type must be {TENSORS}")
    try:
        report = UpdateReport.model_validate_json(headers.get(REPORT_HEADER.encode(), b""))
    except ValidationError as error:
        why = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
        raise RefusedUpdate(Refusal.BAD_REPORT, f"{REPORT_HEADER}: {why}") from error
    if (report.client, report.round) != (client, number):
        raise RefusedUpdate(Refusal.BAD_REPORT, f"{REPORT_HEADER} and the path do not agree")
    return report


def _size(headers: Headers, limit: int) -> int:
    text = headers.get(b"content-length", b"")
    if not text.isdigit():
        raise RefusedUpdate(Refusal.TOO_LARGE, "content-length is needed")
    if int(text) == 0:
        raise RefusedUpdate(Refusal.MALFORMED, "the body is empty")
    if int(text) > limit:
        raise RefusedUpdate(Refusal.TOO_LARGE, f"{int(text)} bytes, at most {limit} are taken")
    return int(text)


async def _small_body(receive: Receive) -> bytes | int:
    """A whole body; or the status that refuses one that is too long or takes too long."""
    body = bytearray()
    try:
        async with asyncio.timeout(_REGISTRATION_S):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > _MAX_REGISTRATION:
                    return 413
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        return 408


async def _first(awaited: asyncio.Future[Any], receive: Receive) -> bool:
    """Waits for a result or for the client to go; whether there is a result."""
    gone = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({awaited, gone}, return_when=asyncio.FIRST_COMPLETED)
        return awaited.done()
    finally:
        for task in (awaited, gone):
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _start(
    send: Send,
    status: int,
    *,
    content_type: bytes,
    length: int | None,
    extra: list[tuple[bytes, bytes]] | None = None,
) -> None:
    headers = [(b"content-type", content_type), *(extra or [])]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _body(send: Send, piece: bytes | memoryview, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": piece, "more_body": more})


async def send_json(
    send: Send, status: int, *, content: dict[str, Any], close: bool = False
) -> None:
    """Answers with JSON."""
    body = json.dumps(content).encode()
    extra = [(b"connection", b"close")] if close else []
    await _start(send, status, content_type=b"application/json", length=len(body), extra=extra)
    await _body(send, body, more=False)
