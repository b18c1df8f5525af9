"""The route that opens a session: of devices at whoever receives them, of edges at the cloud pod.

Plain ASGI. A session is a response that stays open: its first line has the key, its last one says
how it ended. Invariant: a key stands in the answer that opens its session, and nowhere; a session
is closed when its response ends, whoever ended it; nothing of a body is read before its sender has
proved who he is (`hosting.identity`), and none opens sessions faster than `PACE`.
"""

import asyncio
import json
import time
from collections.abc import Callable
from functools import partial
from re import Match
from typing import Generic, Protocol

import structlog
from pydantic import ValidationError

from lockstep_api.base import problems_of
from lockstep_api.names import PROTOCOL, PROTOCOL_HEADER
from lockstep_api.sessions import SessionOpened
from lockstep_serving.pace import Buckets, Rate
from lockstep_serving.rarely import Rarely
from lockstep_serving.receiving import KNOWN, SOCKET
from lockstep_workers.errors import NotYou, SessionTaken
from lockstep_workers.hosting.asgi import (
    Scope,
    Send,
    address_of,
    first,
    send_body,
    send_json,
    small_body,
    start,
)
from lockstep_workers.hosting.identity import Identity, PodIdentity
from lockstep_workers.hosting.reading import Receive
from lockstep_workers.hosting.sessions import R, Session, never, shown_key
from lockstep_workers.sockets import Options, is_silent

_log = structlog.get_logger()
_MAX_REGISTRATION = 1 << 16
_REGISTRATION_S = 10.0
PACE = Rate(burst=20, per_s=1)
"""Sessions of one pod: each ends the one before, and with it what its client does in a round. A pod
whose sessions end at once comes ten times in ten seconds, and then once in 2.5 s at most."""
_RETRY_S = 5
_LATER = (429, 503)
_REST_S = 24 * 3600  # a device computes between two requests on its connection


class Opens(Protocol[R]):
    """Whose sessions they are."""

    def knows(self, client: str) -> bool:
        """Whether there is such a client."""

    async def open_session(
        self, registration: R, *, key: bytes, proved: bool, is_silent: Callable[[], bool]
    ) -> Session[R]:
        """A client is there; raises SessionTaken while another connection holds its session.

        If it has `proved` that it is the client, that one makes room.
        """

    def close_session(self, session: Session[R]) -> None:
        """Its connection is closed."""


class _No(Exception):
    """Why there will be no session."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class SessionRoute(Generic[R]):
    """Opens sessions and keeps them until one of both sides ends them."""

    def __init__(
        self, host: Opens[R], registration: type[R], *, who: str, identity: Identity
    ) -> None:
        """Takes such registrations, of a `device` or an `edge`."""
        self._pace = Buckets(PACE)
        self._host: Opens[R] = host
        self._identity = identity
        self._rarely = Rarely(time.monotonic)
        self._model: type[R] = registration
        self._who = who

    async def __call__(self, match: Match[str], scope: Scope, receive: Receive, send: Send) -> None:
        """A route whose path names the client as its first group."""
        try:
            registration, proved = await self._registration(match[1], scope, receive=receive)
        except (_No, NotYou) as no:
            self._say(no)
            retry_s = _RETRY_S if no.status in _LATER else None
            await send_json(
                send, no.status, content={"message": str(no)}, close=True, retry_s=retry_s
            )
            return
        opening = self._host.open_session(
            registration,
            key=shown_key(scope["headers"]),
            proved=proved,
            is_silent=_silence(scope),
        )
        opened = asyncio.ensure_future(opening)
        if not await first(opened, receive):
            return
        try:
            session = opened.result()
        except SessionTaken as error:
            await send_json(send, 409, content={"message": str(error)}, close=True)
            return
        is_known(scope, f"{self._who} {session.client}")
        await self._hold(session, receive, send=send)

    async def _registration(self, client: str, scope: Scope, *, receive: Receive) -> tuple[R, bool]:
        """What opens the session, and whether its sender has proved to be the client."""
        spoken = dict(scope["headers"]).get(PROTOCOL_HEADER.encode(), b"1")
        if spoken != PROTOCOL.encode():
            raise _No(422, self._other_version(spoken))
        if not self._host.knows(client):
            raise _No(404, self._unknown(client))
        pod = self._identity.verify(scope, client=client)
        self._keep_pace(pod, scope, client=client)
        if pod is not None:
            is_known(scope, f"{self._who} {client}")
        body = await small_body(receive, most_bytes=_MAX_REGISTRATION, within_s=_REGISTRATION_S)
        if isinstance(body, int):
            message = f"a registration has at most {_MAX_REGISTRATION} bytes, sent within "
            raise _No(body, message + f"{_REGISTRATION_S:g} s")
        try:
            registration: R = self._model.model_validate_json(body)
        except ValidationError as error:
            raise _No(422, f"not a registration: {problems_of(error)}") from error
        if registration.client != client:
            raise _No(404, self._unknown(client))
        # Once more: meanwhile another pod may have come, of which the client is now.
        return registration, self._identity.verify(scope, client=client) is not None

    def _keep_pace(self, pod: PodIdentity | None, scope: Scope, *, client: str) -> None:
        """Of one pod; of who has to prove nothing, of one address for a client: so neither the next
        pod of a client waits for the one before, nor a client for somebody else."""
        whose = f"{address_of(scope)} {client}" if pod is None else pod.uid
        if not self._pace.of(whose).take(time.monotonic()):
            raise NotYou(429, f"too many sessions of {self._who} {client} one after another")

    def _unknown(self, client: str) -> str:
        what = "client" if self._who == "device" else self._who
        return f"this job has no {what} {client}"

    def _say(self, no: _No | NotYou) -> None:
        """Of those who do not prove who they are a line a minute."""
        if isinstance(no, NotYou) and (more := self._rarely.due(str(no.status))) is not None:
            _log.warning("sessions refused", of=self._who, count=more + 1, why=str(no))

    async def _hold(self, session: Session[R], receive: Receive, *, send: Send) -> None:
        try:
            await start(send, 200, content_type=b"application/jsonl", length=None)
            opened = SessionOpened(key=session.key).to_json()
            await send_body(send, opened.encode() + b"\n", more=True)
            over = asyncio.ensure_future(session.over.wait())
            if await first(over, receive):
                await send_body(send, json.dumps(session.ended()).encode() + b"\n", more=False)
        finally:
            self._host.close_session(session)

    def _other_version(self, spoken: bytes) -> str:
        version = spoken[:9].decode("ascii", "replace")
        return (
            f"this {self._who} speaks version {version} of the protocol, the cloud pod version "
            f"{PROTOCOL}: give both the same image, or images of one version"
        )


def is_known(scope: Scope, who: str) -> None:
    """A connection with a session's key on it: it rests while its device computes."""
    known: Callable[[int, str], None] | None = scope.get("extensions", {}).get(KNOWN)
    if known is not None:
        known(_REST_S, who)


def _silence(scope: Scope) -> Callable[[], bool]:
    """Tells whether the peer of a request's connection is silent, where the server knows that."""
    sock: Options | None = scope.get("extensions", {}).get(SOCKET)
    return never if sock is None else partial(is_silent, sock)
