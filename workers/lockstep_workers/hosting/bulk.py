"""The three routes that devices use, as plain ASGI: sessions, long-polls for work, updates.

Plain ASGI, because a framework would hold whole bodies in memory
and copy them: a model goes out in pieces, an update is read into one buffer (`hosting.reading`).
Whom they serve is the host's matter (`hosting.reception`).
Invariant: whatever moves after a session was opened carries its key, and the host has checked it
before anything else is looked at; a key stands in the answer that opens its session, and nowhere.
"""

import asyncio
import re
import time
from typing import Protocol

from pydantic import ValidationError

from lockstep_api.base import problems_of
from lockstep_api.names import (
    REPORT_HEADER,
    TASK_HEADER,
    TENSORS,
)
from lockstep_api.sessions import Refusal, Registration
from lockstep_api.wire import ClientReport, Task, UpdateReport
from lockstep_serving.receiving import TAKING
from lockstep_workers.errors import Gone, NoSession, RefusedUpdate
from lockstep_workers.hosting import asides
from lockstep_workers.hosting.asgi import (
    App,
    Scope,
    Send,
    dispatched,
    first,
    no_content,
    no_such_route,
    send_body,
    send_json,
    start,
)
from lockstep_workers.hosting.bodies import Headers, size_of_body, source_of, status_of
from lockstep_workers.hosting.identity import ANYBODY, Identity
from lockstep_workers.hosting.opening import Opens, SessionRoute, is_known
from lockstep_workers.hosting.reading import Reader, Receive
from lockstep_workers.hosting.reception import Offer
from lockstep_workers.hosting.sessions import DeviceSession, shown_key
from lockstep_workers.tensors import Flat, check_values, decode, max_body_bytes

_CLIENT = r"/v1/clients/(?P<client>[a-z0-9-]{1,63})"
_SESSION = re.compile(_CLIENT + "/session")
_WORK = re.compile(_CLIENT + "/work")
_UPDATE = re.compile(r"/v1/rounds/(?P<round>[0-9]{1,9})/updates/(?P<client>[a-z0-9-]{1,63})")


class Host(asides.Host, Opens[Registration], Protocol):
    """Whom the routes serve."""

    def is_over(self) -> bool:
        """Whether there will be no more rounds."""

    async def next_task(self, session: DeviceSession, after: int) -> tuple[Task, bytearray] | None:
        """Waits for a turn after `after` with this client; None when there is none any more.

        Raises NoSession when it has nothing to wait for here.
        """

    def expect(self, client: str, key: bytes, *, round_number: int) -> Offer:
        """An update is announced; raises RefusedUpdate without its client's session."""

    def check(self, offer: Offer, report: UpdateReport) -> None:
        """Whether an update is welcome; raises RefusedUpdate when it is not."""

    def n_values(self, offer: Offer) -> int:
        """Values of an update that is welcome."""

    def elapsed_s(self, offer: Offer) -> float:
        """Seconds since its round began."""

    def add(self, offer: Offer, report: ClientReport, *, flat: Flat) -> None:
        """Adds a checked update; errors as `check`."""

    def refuse(self, error: RefusedUpdate, offer: Offer | None) -> None:
        """An update was refused; None: nobody's."""

    def failed(self, error: Exception, offer: Offer | None) -> None:
        """An update could not be taken, by no fault of its sender."""


class BulkRoutes:
    """Answers the devices' routes and leaves all others to `rest`."""

    def __init__(
        self, host: Host, rest: App = no_such_route, *, identity: Identity = ANYBODY
    ) -> None:
        """`host` is whom they serve; `identity` tells devices from others."""
        self._host = host
        self._rest = rest
        self._reader = Reader()
        opening = SessionRoute(host, Registration, who="device", identity=identity)
        self._routes = (
            ("POST", _SESSION, opening),
            ("GET", _WORK, self._work),
            ("PUT", _UPDATE, self._update),
            *asides.Asides(host, identity).routes,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await dispatched(scope, receive, send, routes=self._routes, rest=self._rest)

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
        is_known(scope, f"device {client}")
        session.answers_on(scope.get("extensions", {}).get(TAKING))
        await self._hand_out(session, int(after[1]), receive=receive, send=send)

    async def _hand_out(
        self, session: DeviceSession, after: int, *, receive: Receive, send: Send
    ) -> None:
        waiting = asyncio.ensure_future(self._host.next_task(session, after))
        session.wait_with(waiting)
        if not await first(waiting, receive):
            return
        if waiting.cancelled():
            why = f"{session.client} asked again, or its session has ended"
            await send_json(send, 409, content={"message": why}, close=True)
            return
        try:
            found = waiting.result()
        except NoSession as error:
            await send_json(send, 409, content={"message": str(error)}, close=True)
            return
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
            is_known(scope, f"device {offer.client}")
            report = _report(headers, offer.client, number=number)
            await self._take(offer, report, scope=scope, receive=receive)
        except Gone:  # the sender comes back with the update, or its session ends too
            return
        except RefusedUpdate as error:
            self._host.refuse(error, offer)
            answer = {"reason": error.reason.value, "message": str(error)}
            await send_json(send, status_of(error), content=answer, close=True)
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
        size = size_of_body(dict(scope["headers"]), max_body_bytes(self._host.n_values(offer)))
        began, connection = time.monotonic(), scope.get("extensions", {}).get(TAKING)
        with offer.session.brings_on(connection):
            async with self._reader.body(source_of(scope, receive, size=size), size) as body:
                upload_s = time.monotonic() - began
                self._add(offer, report, body=body, upload_s=upload_s)

    def _add(
        self, offer: Offer, report: UpdateReport, *, body: memoryview, upload_s: float
    ) -> None:
        """Checks a whole body and adds it, with nothing in between."""
        flat = decode(body, n_values=self._host.n_values(offer))
        check_values(flat)
        arrived = ClientReport(
            update=report,
            arrived_seconds=self._host.elapsed_s(offer),
            upload_seconds=upload_s,
            bytes=len(body),
        )
        self._host.add(offer, arrived, flat=flat)


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
