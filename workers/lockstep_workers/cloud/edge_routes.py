"""The cloud pod's routes for edges, as plain ASGI: sessions, long-polls for work, results.

Mounted before those of devices. Invariant: as there, whatever moves after a session was opened
carries its key, which is checked before anything else is looked at; and a result is read only while
its round waits for it.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable

import structlog
from pydantic import ValidationError

from lockstep_api.base import problems_of
from lockstep_api.certificates import MOST_REQUEST_BYTES, Certificate, CertificateRequest
from lockstep_api.names import TENSORS
from lockstep_api.orders import ClusterProgress, ClusterResult
from lockstep_api.sessions import Refusal
from lockstep_api.tiers import EdgeRegistration
from lockstep_serving.tls import NoCertificate
from lockstep_workers.cloud.tiers import EdgeSession, ResultOffer, Tiers
from lockstep_workers.errors import Gone, NoSession, RefusedUpdate
from lockstep_workers.hosting.asgi import (
    App,
    Scope,
    Send,
    dispatched,
    first,
    no_content,
    send_body,
    send_json,
    small_body,
    start,
)
from lockstep_workers.hosting.bodies import size_of_body, source_of, status_of
from lockstep_workers.hosting.identity import ANYBODY, Identity
from lockstep_workers.hosting.opening import SessionRoute, is_known
from lockstep_workers.hosting.reading import Reader, Receive
from lockstep_workers.hosting.sessions import shown_key
from lockstep_workers.parcels import most_bytes as most_parcel_bytes
from lockstep_workers.parcels import size_of, unwrap

_log = structlog.get_logger()
_EDGE = r"/v1/edges/(?P<edge>[a-z0-9-]{1,63})"
_RESULT = (
    r"/v1/rounds/(?P<round>[0-9]{1,9})/clusters/(?P<cluster>c[0-9]{1,5})"
    r"/result/(?P<edge>[a-z0-9-]{1,63})"
)
_MOST_PROGRESS, _WITHIN_S = 1 << 12, 10.0
_TURN = re.compile(rb"turn=([0-9]{1,9})")
_AFTER = re.compile(rb"after=([0-9]{1,9})")


Certify = Callable[[CertificateRequest], Awaitable[Certificate]]
"""Raises NoCertificate."""


async def _nobody_signs(_request: CertificateRequest) -> Certificate:
    raise NoCertificate("the servers of this job speak plain HTTP")


class EdgeRoutes:
    """Answers the edges' routes and leaves all others to `rest`."""

    def __init__(
        self,
        tiers: Tiers,
        rest: App,
        *,
        identity: Identity = ANYBODY,
        certify: Certify = _nobody_signs,
    ) -> None:
        """`rest` has the devices' routes; `identity` tells edges from others, `certify` gets them
        their certificates."""
        self._tiers, self._rest, self._certify = tiers, rest, certify
        self._reader = Reader()
        opening = SessionRoute(tiers, EdgeRegistration, who="edge", identity=identity)
        self._routes = (
            ("POST", re.compile(_EDGE + "/session"), opening),
            ("GET", re.compile(_EDGE + "/work"), self._work),
            ("GET", re.compile(_EDGE + "/constants"), self._constants),
            ("POST", re.compile(_EDGE + "/progress"), self._progress),
            ("POST", re.compile(_EDGE + "/certificate"), self._certificate),
            ("PUT", re.compile(_RESULT), self._result),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await dispatched(scope, receive, send, routes=self._routes, rest=self._rest)

    async def _session(self, edge: str, scope: Scope, *, send: Send) -> EdgeSession | None:
        """The session of whoever shows its key; None: anybody else, who is told so."""
        try:
            session = self._tiers.session_of(edge, shown_key(scope["headers"]))
        except NoSession as error:
            answer = {"reason": Refusal.NO_SESSION.value, "message": str(error)}
            await send_json(send, 409, content=answer, close=True)
            return None
        is_known(scope, f"edge {edge}")
        return session

    async def _work(self, match: re.Match[str], scope: Scope, receive: Receive, send: Send) -> None:
        """Waits for an order or news."""
        if self._tiers.is_over():
            await no_content(send)
            return
        session = await self._session(match["edge"], scope, send=send)
        if session is None:
            return
        after = _AFTER.fullmatch(scope["query_string"])
        if after is None:
            message = "say after=NUMBER, that of the last answer received"
            await send_json(send, 422, content={"message": message})
            return
        waiting = asyncio.ensure_future(self._tiers.next_work(session, int(after[1])))
        session.wait_with(waiting)
        if await first(waiting, receive):
            await self._hand_out(waiting, session, send=send)

    async def _hand_out(
        self,
        found: "asyncio.Future[list[bytes | memoryview] | None]",
        session: EdgeSession,
        *,
        send: Send,
    ) -> None:
        if found.cancelled() or isinstance(found.exception(), NoSession):
            why = f"{session.client} asked again, or its session has ended"
            await send_json(send, 409, content={"message": why}, close=True)
            return
        pieces = found.result()
        if pieces is None:
            await no_content(send)
            return
        await start(send, 200, content_type=TENSORS.encode(), length=size_of(pieces))
        for piece in pieces:
            await send_body(send, memoryview(piece), more=True)
        await send_body(send, b"", more=False)

    async def _constants(
        self, match: re.Match[str], scope: Scope, _receive: Receive, send: Send
    ) -> None:
        if await self._session(match["edge"], scope, send=send) is not None:
            body = self._tiers.constants
            await start(send, 200, content_type=TENSORS.encode(), length=len(body))
            await send_body(send, memoryview(body), more=False)

    async def _progress(
        self, match: re.Match[str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        session = await self._session(match["edge"], scope, send=send)
        if session is None:
            return
        body = await small_body(receive, most_bytes=_MOST_PROGRESS, within_s=_WITHIN_S)
        try:
            told = ClusterProgress.model_validate_json(b"" if isinstance(body, int) else body)
        except ValidationError as error:
            message = f"no progress: {problems_of(error)}"
            await send_json(send, 422, content={"message": message}, close=True)
            return
        self._tiers.progress(session, told)
        await no_content(send)

    async def _certificate(
        self, match: re.Match[str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Gets an edge a certificate for itself, whatever the request says."""
        session = await self._session(match["edge"], scope, send=send)
        if session is None:
            return
        body = await small_body(receive, most_bytes=2 * MOST_REQUEST_BYTES, within_s=_WITHIN_S)
        try:
            asked = CertificateRequest.model_validate_json(b"" if isinstance(body, int) else body)
            made = await self._certify(asked.model_copy(update={"server": session.client}))
        except ValidationError as error:
            message = f"no request for a certificate: {problems_of(error)}"
            await send_json(send, 422, content={"message": message}, close=True)
        except NoCertificate as error:
            await send_json(send, 503, content={"message": str(error)})
        else:
            text = made.to_json().encode()
            await start(send, 200, content_type=b"application/json", length=len(text))
            await send_body(send, text, more=False)

    async def _result(
        self, match: re.Match[str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Reads, checks and takes one result, or refuses it with a reason."""
        session = await self._session(match["edge"], scope, send=send)
        if session is None:
            return
        try:
            offer = self._offer(match, scope, session=session)
            await self._take(offer, scope, receive=receive)
        except Gone:
            return
        except RefusedUpdate as error:
            self._tiers.refuse(error, session)
            answer = {"reason": error.reason.value, "message": str(error)}
            await send_json(send, status_of(error), content=answer, close=True)
        except Exception as error:  # noqa: BLE001 - the edge sends it again
            _log.error("result not taken", edge=session.client, exc_info=error)
            answer = {"message": "the result could not be taken: send it again"}
            await send_json(send, 503, content=answer, close=True)
        else:
            await send_json(send, 200, content={"accepted": True})

    def _offer(self, match: re.Match[str], scope: Scope, *, session: EdgeSession) -> ResultOffer:
        if dict(scope["headers"]).get(b"content-type") != TENSORS.encode():
            raise RefusedUpdate(Refusal.CONTENT_TYPE, f"content-type must be {TENSORS}")
        turn = _TURN.fullmatch(scope["query_string"])
        if turn is None:
            raise RefusedUpdate(Refusal.BAD_REPORT, "say turn=TURN, that of the order")
        return self._tiers.expect(
            session,
            round_number=int(match["round"]),
            cluster=match["cluster"],
            turn=int(turn[1]),
        )

    async def _take(self, offer: ResultOffer, scope: Scope, *, receive: Receive) -> None:
        members = len(offer.run.members)
        text = most_text(members)
        limit = most_parcel_bytes(text=text, values=self._tiers.most_bytes(offer))
        size = size_of_body(dict(scope["headers"]), limit)
        async with self._reader.body(source_of(scope, receive, size=size), size) as body:
            parcel = unwrap(body, text=text)
            try:
                result = ClusterResult.model_validate_json(parcel.text)
            except ValidationError as error:
                why = f"not a result: {problems_of(error)}"
                raise RefusedUpdate(Refusal.BAD_REPORT, why) from error
            self._tiers.take(offer, result, tensors=parcel.tensors)


def most_text(members: int) -> int:
    """Characters of a result of so many members: a report or a sentence for each."""
    return (1 << 14) + 4096 * members
