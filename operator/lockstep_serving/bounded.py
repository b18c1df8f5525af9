"""An HTTP server that a peer cannot exhaust: bounds on headers, connections, time and bodies.

Both planes serve with it: `bounded` makes uvicorn's protocol class, `BodyLimit` wraps an app. It
leans on uvicorn's internals; an app may read a large body past them (`receiving`), or take a
connection over (`upgrading`).
"""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lockstep_serving import upgrading
from lockstep_serving.rarely import Rarely
from lockstep_serving.receiving import EXTENSION, KNOWN, SOCKET, TAKING, Incoming
from lockstep_serving.sources import Sources, source_of
from lockstep_serving.taking import Taking

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_REASONS = {
    408: "the request's head took too long",
    400: "one request at a time: wait for the answer",
    413: "the body is too large",
    431: "the request's head is too large",
    503: "too many connections: come again",
}
_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
_LINGER_S = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes."""

    connections: int
    """Open at once; a new one beyond them is answered 503 and closed."""
    head_bytes: int = 16 << 10
    """Request line and headers of a request."""
    head_s: float = 20.0
    """From a connection's start, or a request's first byte, to the end of the headers."""
    handshake_s: float = 10.0
    """Of TLS (`securing`), from a connection's start."""
    strangers_make_room: bool = False
    """Beyond `connections` one whose peer is not known (`receiving.KNOWN`) is closed for the new
    one: of the address that holds most of these, as `Sources` says."""
    settle_s: float = 0.0
    """So long half of an address's connections are left alone, in handshakes and afterwards."""
    of_a_member: int = 6
    """Open at once of one whose peer is known; beyond them its oldest is closed: a member needs two
    or three, and as many of a life before that the kernel still holds."""
    upgrades: frozenset[bytes] = frozenset()
    """Protocols that a request may ask for to leave HTTP (`upgrading.EXTENSION`)."""


class _Seldom(logging.Filter):
    """Of each of uvicorn's warnings one a minute: any peer can provoke them."""

    def __init__(self) -> None:
        super().__init__()
        self._rarely = Rarely(time.monotonic)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        return self._rarely.due(str(record.msg)) is not None


_SELDOM = _Seldom()


def bounded(limits: Limits) -> type[HttpToolsProtocol]:
    """uvicorn's HTTP protocol within these limits, for `uvicorn.Config(http=…)`."""
    logging.getLogger("uvicorn.error").addFilter(_SELDOM)

    class Bounded(_Bounded):
        within, strangers, members = limits, Sources(limits.settle_s), Sources()

    return Bounded


class _Bounded(HttpToolsProtocol):
    within: Limits
    strangers: "Sources[_Bounded]"
    """Of the server, by address."""
    members: "Sources[_Bounded]"
    """Of the server, by who is known there."""
    _offer: upgrading.Offer | None
    _rarely = Rarely(time.monotonic)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_bytes = 0
        self._refused = False
        self._in_head = True
        self._timer: asyncio.TimerHandle | None = None
        self._source = source_of(transport)
        self._member: str | None = None
        self.strangers.add(self._source, self, now_s=self.loop.time())
        self._taking = Taking(transport, self.loop)
        self._latest, self._offer = b"", None
        self._upgraded: upgrading.Upgraded | None = None
        if len(self.connections) > self.within.connections and not self._has_room():
            self._log("more than %d connections: refused", self.within.connections)
            self._refuse(503)
        else:
            self._expect_head()

    def _has_room(self) -> bool:
        """Whether another connection could be closed for this one."""
        if not self.within.strangers_make_room:
            return False
        found = self.strangers.next_to_go(self.loop.time())
        if found is None or found[1] is self:
            return False
        self._log("more than %d connections: one makes room", self.within.connections)
        found[1]._end()
        return True

    def _is_known(self, rest_s: int, who: str) -> None:
        self.timeout_keep_alive = rest_s
        if self._member == who:
            return
        self._leave()
        self._member = who
        self.members.add(who, self)
        if self.members.count(who) > self.within.of_a_member:
            self.members.oldest(who)._end()

    def _end(self) -> None:
        self._leave()
        self.transport.abort()

    def _leave(self) -> None:
        """It counts for nobody any more."""
        self.strangers.discard(self._source, self)
        if self._member is not None:
            self.members.discard(self._member, self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._stop_timer()
        self._taking.end()
        # uvicorn does so only of one that was closed in order: of one that was reset the timer
        # would hold all that the connection had for as long as its peer might have rested, a day.
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._taking.begin()

    def resume_writing(self) -> None:
        self._taking.end()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._offer is not None:
            self._offer.keep(data)
            return
        self._latest = data
        if self._in_head:
            self._expect_head()
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > self.within.head_bytes:
            self._refuse(431)

    def on_message_begin(self) -> None:
        # uvicorn would queue it and pause reading: then nobody notices that the peer is gone.
        if self.cycle is not None and not self.cycle.response_complete:
            self._refuse(400)
            raise ValueError("refused")
        super().on_message_begin()
        self._size = 0

    def on_url(self, url: bytes) -> None:
        self._size += len(url)
        if self._size > self.within.head_bytes:
            self._refuse(431)
            raise ValueError("refused")
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value) + 4
        if self._size > self.within.head_bytes:  # the head, or trailers after a chunked body
            self._refuse(431)
            raise ValueError("refused")  # ends the parsing; the answer is on its way
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._in_head = False
        super().on_headers_complete()
        self.scope["extensions"] = {
            EXTENSION: partial(Incoming, self),  # type: ignore[dict-item]
            SOCKET: self.transport.get_extra_info("socket"),
            KNOWN: self._is_known,  # type: ignore[dict-item]
            TAKING: self._taking,  # type: ignore[dict-item]
        }
        self._look_for_upgrade()

    def _look_for_upgrade(self) -> None:
        name = dict(self.headers).get(b"upgrade", b"").lower()
        if not self.parser.should_upgrade() or name not in self.within.upgrades:
            return
        if self.scope["method"] == "GET":
            self._offer = upgrading.Offer(self, name)
            self.cycle.keep_alive = False  # what stands behind the head is no request
            self.scope["extensions"][upgrading.EXTENSION] = self._offer  # type: ignore[assignment]

    def _unsupported_upgrade_warning(self) -> None:
        """uvicorn's parser has met the end of a head that asks for an upgrade."""
        if self._offer is None:
            super()._unsupported_upgrade_warning()
            return
        error = sys.exception()
        assert isinstance(error, httptools.HttpParserUpgrade)
        self._offer.keep(self._latest[error.args[0] :])

    def taken(self, by: upgrading.Upgraded) -> None:
        """The connection is another protocol's, which is told of the server's end; it stays."""
        self._upgraded = by
        self.strangers.discard(self._source, self)
        self._stop_timer()

    def shutdown(self) -> None:
        if self._upgraded is None:
            super().shutdown()
        else:
            self._upgraded.shut_down()

    def body_received(self) -> None:
        """The body came past the parser, which a new one replaces."""
        self.parser = httptools.HttpRequestParser(self)
        self.cycle.more_body = False
        self._in_head = True
        self._head_bytes = 0

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True
        self._head_bytes = 0

    def on_response_complete(self) -> None:
        """An answer before the end of the body ends the connection: nobody reads the rest."""
        super().on_response_complete()
        if not (self._in_head or self._refused or self.transport.is_closing()):
            self._refused = True
            self.transport.write_eof()
            self._timer = self.loop.call_later(_LINGER_S, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        if not self._refused:
            super().send_400_response(msg)

    def _expect_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.within.head_s, self._refuse, 408)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int) -> None:
        """Answers and closes; what still comes is thrown away for a moment.

        Closed at once, with data unread, the connection would be reset, and the answer lost.
        """
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._stop_timer()
        text = _REASONS[status].encode()
        head = f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: text/plain\r\n"
        head += f"content-length: {len(text)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + text)
        if status == 503:
            self.transport.close()
            return
        self.transport.write_eof()
        self._timer = self.loop.call_later(_LINGER_S, self.transport.close)

    def _log(self, message: str, *arguments: object) -> None:
        """A warning, at most once a minute: a flood of connections must not flood the log."""
        if _Bounded._rarely.due("all") is not None:
            logger.warning(message, *arguments)


class BodyLimit:
    """An ASGI app whose requests have bodies of at most so many bytes; others are answered 413."""

    def __init__(self, app: App, max_bytes: int) -> None:
        """`app` never sees more than `max_bytes` of a body."""
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _announced(scope) > self._max_bytes:
            await _too_large(send)
            return
        counted = _Counted(receive, self._max_bytes)

        async def unless_refused(message: Message) -> None:
            if counted.left >= 0:  # else the app answers to an error that is ours
                await send(message)

        try:
            await self._app(scope, counted, unless_refused)
        except Exception:
            if counted.left >= 0:
                raise
        if counted.left < 0:
            await _too_large(send)


class _TooLarge(Exception):
    """The body goes on beyond what is allowed."""


@dataclass(slots=True)
class _Counted:
    receive: Receive
    left: int

    async def __call__(self) -> Message:
        message = await self.receive()
        self.left -= len(message.get("body", b""))
        if self.left < 0:
            raise _TooLarge
        return message


def _announced(scope: MutableMapping[str, Any]) -> int:
    text = dict(scope["headers"]).get(b"content-length", b"0")
    return int(text) if text.isdigit() else 0


async def _too_large(send: Send) -> None:
    text = _REASONS[413].encode()
    headers = [
        (b"content-type", b"text/plain"),
        (b"content-length", str(len(text)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": text})
