"""The three routes that devices use, as plain ASGI: sessions, long-polls for work, updates.

Mounted before the ordinary app. Plain ASGI, because a framework would hold whole bodies in memory
and copy them: a model goes out in pieces, an update is read into one buffer (`hosting.reading`).
Whom they serve is the host's matter (`hosting.reception`).
Invariant: whatever moves after a session was opened carries its key, and the host has checked it
before anything else is looked at; a key stands in the answer that opens its session, and nowhere.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from pydantic import ValidationError

from lockstep_api.base import problems_of
from lockstep_api.names import (
    PROTOCOL,
    PROTOCOL_HEADER,
    REPORT_HEADER,
    TASK_HEADER,
    TENSORS,
)
from lockstep_api.sessions import Refusal, Registration, SessionOpened
from lockstep_api.wire import ClientReport, Task, UpdateReport
from lockstep_serving.receiving import EXTENSION, KNOWN, SOCKET
from lockstep_workers.errors import Gone, NoSession, RefusedUpdate, SessionTaken
from lockstep_workers.hosting import asides
from lockstep_workers.hosting.asgi import (
    App,
    Scope,
    Send,
    first,
    no_content,
    send_body,
    send_json,
    small_body,
    start,
)
from lockstep_workers.hosting.reading import Messages, Reader, Receive, Source
from lockstep_workers.hosting.reception import Offer
from lockstep_workers.hosting.sessions import Session, never, shown_key
from lockstep_workers.sockets import Options, is_silent
from lockstep_workers.tensors import Flat, check_values, decode, max_body_bytes

Headers = dict[bytes, bytes]

_MAX_REGISTRATION = 1 << 16
_REGISTRATION_S = 10.0
_REST_S = 24 * 3600  # a device computes between two requests on its connection
_CLIENT = r"/v1/clients/(?P<client>[a-z0-9-]{1,63})"
_SESSION = re.compile(_CLIENT + "/session")
_WORK = re.compile(_CLIENT + "/work")
_UPDATE = re.compile(r"/v1/rounds/(?P<round>[0-9]{1,9})/updates/(?P<client>[a-z0-9-]{1,63})")

_STATUS = {
    Refusal.UNKNOWN_CLIENT: 404,
    Refusal.NO_SESSION: 409,
    Refusal.NOT_IN_ROUND: 409,
    Refusal.WRONG_ROUND: 409,
    Refusal.DUPLICATE: 409,
    Refusal.CONTENT_TYPE: 415,
    Refusal.TOO_LARGE: 413,
    Refusal.TOO_SLOW: 408,
}


class Host(asides.Host, Protocol):
    """Whom the routes serve."""

    @property
    def n_values(self) -> int:
        """Values of an update."""

    def is_over(self) -> bool:
        """Whether there will be no more rounds."""

    async def open_session(
        self, registration: Registration, *, key: bytes, is_silent: Callable[[], bool]
    ) -> Session:
        """A client is there; raises SessionTaken while another connection holds its session."""

    def close_session(self, session: Session) -> None:
        """Its connection is closed."""

    async def next_task(self, session: Session, after: int) -> tuple[Task, bytearray] | None:
        """Waits for a turn after `after` with this client; None when there is none any more."""

    def expect(self, client: str, key: bytes, *, round_number: int) -> Offer:
        """An update is announced; raises RefusedUpdate without its client's session."""

    def check(self, offer: Offer, report: UpdateReport) -> None:
        """Whether an update is welcome; raises RefusedUpdate when it is not."""

    def elapsed_in_round(self) -> float:
        """Seconds since the open round began."""

    def add(self, offer: Offer, report: ClientReport, *, flat: Flat) -> None:
        """Adds a checked update; errors as `check`."""

    def refuse(self, error: RefusedUpdate, offer: Offer | None) -> None:
        """An update was refused; None: nobody's."""

    def failed(self, error: Exception, offer: Offer | None) -> None:
        """An update could not be taken, by no fault of its sender."""


@dataclass(frozen=True, slots=True)
class _No:
    """Why there will be no session."""

    status: int
    message: str


class BulkRoutes:
    """Answers the devices' routes and leaves all others to `rest`."""

    def __init__(self, host: Host, rest: App) -> None:
        """`rest` is the ordinary app."""
        self._host = host
        self._rest = rest
        self._reader = Reader()
        self._routes = (
            ("POST", _SESSION, self._session),
            ("GET", _WORK, self._work),
            ("PUT", _UPDATE, self._update),
            *asides.Asides(host).routes,
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
        self, match: re.Match[str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """A response that stays open as long as the client is there."""
        headers: Headers = dict(scope["headers"])
        registration = await self._registration(match["client"], headers, receive=receive)
        if isinstance(registration, _No):
            content = {"message": registration.message}
            await send_json(send, registration.status, content=content, close=True)
            return
        opening = self._host.open_session(
            registration, key=shown_key(scope["headers"]), is_silent=_silence(scope)
        )
        opened = asyncio.ensure_future(opening)
        if not await first(opened, receive):
            return
        try:
            session = opened.result()
        except SessionTaken as error:
            await send_json(send, 409, content={"message": str(error)}, close=True)
            return
        _is_known(scope)
        await self._hold(session, receive, send=send)

    async def _registration(
        self, client: str, headers: Headers, *, receive: Receive
    ) -> "Registration | _No":
        if (spoken := headers.get(PROTOCOL_HEADER.encode(), b"1")) != PROTOCOL.encode():
            return _No(422, _other_version(spoken))
        body = await small_body(receive, most_bytes=_MAX_REGISTRATION, within_s=_REGISTRATION_S)
        if isinstance(body, int):
            message = f"a registration has at most {_MAX_REGISTRATION} bytes, sent within "
            return _No(body, message + f"{_REGISTRATION_S:g} s")
        try:
            registration = Registration.model_validate_json(body)
        except ValidationError as error:
            return _No(422, f"not a registration: {problems_of(error)}")
        if registration.client != client or not self._host.knows(client):
            return _No(404, f"this job has no client {client}")
        return registration

    async def _hold(self, session: Session, receive: Receive, *, send: Send) -> None:
        """Keeps a session until one of both sides ends it."""
        try:
            await start(send, 200, content_type=b"application/jsonl", length=None)
            opened = SessionOpened(key=session.key).to_json()
            await send_body(send, opened.encode() + b"\n", more=True)
            over = asyncio.ensure_future(session.over.wait())
            if await first(over, receive):
                await send_body(send, json.dumps(session.ended()).encode() + b"\n", more=False)
        finally:
            self._host.close_session(session)

    # -- work ------------------------------------------------------------------------------------

    async def _work(self, match: re.Match[str], scope: Scope, receive: Receive, send: Send) -> None:
        """Waits for a round with this client, then sends task and model."""
        client = match["client"]
        if not self._host.knows(client):
            await send_json(send, 404, content={"message": f"this job has no client {client}"})
            return
        if self._host.is_over():
            await no_content(send)
            return
        try:
            session = self._host.session_of(client, shown_key(scope["headers"]))
        except NoSession as error:
            await send_json(send, 409, content={"message": str(error)}, close=True)
            return
        after = re.fullmatch(rb"after=([0-9]{1,9})", scope["query_string"])
        if after is None:
            await send_json(
                send, 422, content={"message": "say after=TURN, that of the last task received"}
            )
            return
        _is_known(scope)
        await self._hand_out(session, int(after[1]), receive=receive, send=send)

    async def _hand_out(
        self, session: Session, after: int, *, receive: Receive, send: Send
    ) -> None:
        waiting = asyncio.ensure_future(self._host.next_task(session, after))
        session.wait_with(waiting)
        if not await first(waiting, receive):
            return
        if waiting.cancelled():
            why = f"{session.client} asked again, or its session has ended"
            await send_json(send, 409, content={"message": why}, close=True)
            return
        found = waiting.result()
        if found is None:
            await no_content(send)
            return
        task, model = found
        extra = [(TASK_HEADER.encode(), task.to_json().encode())]
        await start(send, 200, content_type=TENSORS.encode(), length=len(model), extra=extra)
        await send_body(send, memoryview(model), more=False)

    # -- updates ---------------------------------------------------------------------------------

    async def _update(
        self, match: re.Match[str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Reads, checks and adds one update, or refuses it with a reason."""
        headers: Headers = dict(scope["headers"])
        offer: Offer | None = None
        try:
            number = int(match["round"])
            key = shown_key(scope["headers"])
            offer = self._host.expect(match["client"], key, round_number=number)
            _is_known(scope)
            report = _report(headers, offer.client, number=number)
            await self._take(offer, report, scope=scope, receive=receive)
        except Gone:  # the sender comes back with the update, or its session ends too
            return
        except RefusedUpdate as error:
            self._host.refuse(error, offer)
            answer = {"reason": error.reason.value, "message": str(error)}
            await send_json(send, _STATUS.get(error.reason, 422), content=answer, close=True)
        except Exception as error:  # noqa: BLE001 - logged by the host; a 500 would lose the client
            self._host.failed(error, offer)
            answer = {"message": "the update could not be taken: send it again"}
            await send_json(send, 503, content=answer, close=True)
        else:
            await send_json(send, 200, content={"accepted": True})

    async def _take(
        self, offer: Offer, report: UpdateReport, *, scope: Scope, receive: Receive
    ) -> None:
        self._host.check(offer, report)
        size = _size(dict(scope["headers"]), max_body_bytes(self._host.n_values))
        began = time.monotonic()
        async with self._reader.body(_source(scope, receive, size=size), size) as body:
            upload_s = time.monotonic() - began
            self._add(offer, report, body=body, upload_s=upload_s)

    def _add(
        self, offer: Offer, report: UpdateReport, *, body: memoryview, upload_s: float
    ) -> None:
        """Checks a whole body and adds it, with nothing in between."""
        flat = decode(body, n_values=self._host.n_values)
        check_values(flat)
        arrived = ClientReport(
            update=report,
            arrived_seconds=self._host.elapsed_in_round(),
            upload_seconds=upload_s,
            bytes=len(body),
        )
        self._host.add(offer, arrived, flat=flat)


def _silence(scope: Scope) -> Callable[[], bool]:
    """Tells whether the peer of a request's connection is silent, where the server knows that."""
    sock: Options | None = scope.get("extensions", {}).get(SOCKET)
    return never if sock is None else partial(is_silent, sock)


def _is_known(scope: Scope) -> None:
    """A connection with a session's key on it: it rests while its device computes."""
    known: Callable[[int], None] | None = scope.get("extensions", {}).get(KNOWN)
    if known is not None:
        known(_REST_S)


def _other_version(spoken: bytes) -> str:
    return (
        f"this device speaks version {spoken[:9].decode('ascii', 'replace')} of the protocol, the "
        f"cloud pod version {PROTOCOL}: give both the same image, or images of one version"
    )


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
        why = f"{REPORT_HEADER}: {problems_of(error)}"
        raise RefusedUpdate(Refusal.BAD_REPORT, why) from error
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
