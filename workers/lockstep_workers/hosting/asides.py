"""Two small routes of devices beside their rounds: the model's constants, and errors of user code.

Plain ASGI like the other routes, among which `hosting.bulk` has them. Invariant: whoever has a
session shows its key here, too; only a device that could not even open one says so without, and
proves who it is as if it opened one. All that before a byte of what it says is read.
"""

import re
from typing import Protocol

from pydantic import ValidationError

from lockstep_api.base import problems_of
from lockstep_api.names import TENSORS
from lockstep_api.sessions import ClientFailure, FailureAnswer
from lockstep_workers.errors import NoSession, NotYou
from lockstep_workers.hosting.asgi import Scope, Send, send_body, send_json, small_body, start
from lockstep_workers.hosting.identity import Identity
from lockstep_workers.hosting.opening import is_known
from lockstep_workers.hosting.reading import Receive
from lockstep_workers.hosting.sessions import DeviceSession, shown_key

_CLIENT = r"/v1/clients/(?P<client>[a-z0-9-]{1,63})"
_MOST_BYTES = 1 << 16
_WITHIN_S = 10.0


class Host(Protocol):
    """Whom the routes serve."""

    @property
    def constants(self) -> bytes:
        """What a device takes over of the model once."""

    def knows(self, client: str) -> bool:
        """Whether there is such a client."""

    def session_of(self, client: str, key: bytes) -> DeviceSession:
        """The session of whoever shows its key; raises NoSession when there is none."""

    def client_failed(self, failure: ClientFailure, key: bytes) -> bool:
        """The user's code failed on a client; whether it may go on. Raises NoSession."""


class Asides:
    """Answers both routes."""

    def __init__(self, host: Host, identity: Identity) -> None:
        """`host` decides; `identity` tells devices from others."""
        self._host, self._identity = host, identity
        self.routes = (
            ("GET", re.compile(_CLIENT + "/constants"), self._constants),
            ("POST", re.compile(_CLIENT + "/failure"), self._failure),
        )

    async def _constants(
        self, match: re.Match[str], scope: Scope, _receive: Receive, send: Send
    ) -> None:
        """Once in a session."""
        try:
            self._host.session_of(match["client"], shown_key(scope["headers"]))
        except NoSession as error:
            await send_json(send, 409, content={"message": str(error)}, close=True)
            return
        is_known(scope, f"device {match['client']}")
        body = self._host.constants
        await start(send, 200, content_type=TENSORS.encode(), length=len(body))
        await send_body(send, memoryview(body), more=False)

    async def _failure(
        self, match: re.Match[str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        client = match["client"]
        if not self._host.knows(client):
            message = f"this job has no client {client}"
            await send_json(send, 404, content={"message": message}, close=True)
            return
        try:
            self._check(client, scope)
        except NotYou as no:
            await send_json(send, no.status, content={"message": str(no)}, close=True)
            return
        except NoSession as error:
            await send_json(send, 409, content={"message": str(error)}, close=True)
            return
        if shown_key(scope["headers"]):
            is_known(scope, f"device {client}")
        body = await small_body(receive, most_bytes=_MOST_BYTES, within_s=_WITHIN_S)
        if isinstance(body, int):
            await send_json(send, body, content={"message": "too long, or too slow"}, close=True)
            return
        try:
            failure = ClientFailure.model_validate_json(body)
        except ValidationError as error:
            message = f"not a failure: {problems_of(error)}"
            await send_json(send, 422, content={"message": message}, close=True)
            return
        await self._take(failure, client, key=shown_key(scope["headers"]), send=send)

    def _check(self, client: str, scope: Scope) -> None:
        """Raises NoSession for a wrong key, NotYou for who shows none and proves nothing."""
        if key := shown_key(scope["headers"]):
            self._host.session_of(client, key)
        else:
            self._identity.verify(scope, client=client)

    async def _take(self, failure: ClientFailure, client: str, *, key: bytes, send: Send) -> None:
        if failure.client != client:
            message = f"the failure is not one of {client}"
            await send_json(send, 404, content={"message": message}, close=True)
            return
        try:
            answer = FailureAnswer(again=self._host.client_failed(failure, key))
        except NoSession as error:
            await send_json(send, 409, content={"message": str(error)}, close=True)
        else:
            await send_json(send, 200, content=answer.model_dump())
