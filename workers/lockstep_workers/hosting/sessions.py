"""Who is there: the sessions of a reception, and the one check that whatever comes later passes.

A session begins with a random key that only its opener is told, and every later request of the
client carries it (`names.SESSION_HEADER`): no model and no update without a session of one's own.
Who has proved to be the client (`hosting.identity`) is it: the session that it has makes room at
once. Where nobody has to prove it, the first one is the client: its session makes room for another
only when that one shows its key, when its connection closes, or when its peer has been silent for
longer than the kernel's probes take. A device that restarts has closed its connection.
Invariant: a client has at most one session, and a key is good for as long as its session is open.
"""

import asyncio
import hmac
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from lockstep_api.names import SESSION_HEADER
from lockstep_api.sessions import Registration
from lockstep_api.tiers import EdgeRegistration
from lockstep_serving.taking import Taking
from lockstep_workers.errors import NoSession, SessionTaken

_KEY_BYTES = 32
HANDOVER_S = 5.0
"""How long a client waits for the end of a session that it had, before it has to come again."""

R = TypeVar("R", Registration, EdgeRegistration)
"""What opens a session."""


def new_key() -> str:
    """A key that nobody guesses."""
    return secrets.token_urlsafe(_KEY_BYTES)


def shown_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """What a request shows as the key of its session; empty: nothing."""
    return dict(headers).get(SESSION_HEADER.encode(), b"")


def never() -> bool:
    """Of a connection that cannot be asked whether its peer is silent."""
    return False


@dataclass(eq=False, slots=True)
class Session(Generic[R]):
    """A client's open connection."""

    registration: R
    key: str = field(repr=False)
    is_silent: Callable[[], bool] = never
    """Whether nothing at all, not even the kernel of the other side, answers any more."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Its last line may be sent."""
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """It is its client's session no longer."""
    result: str | None = None
    _poll: asyncio.Future[Any] | None = None
    _taking: Taking | None = None
    _bringing: Taking | None = None

    @property
    def client(self) -> str:
        """Whose it is."""
        return self.registration.client

    def fits(self, key: bytes) -> bool:
        """Whether this is its key; takes as long whatever of it is wrong."""
        return hmac.compare_digest(self.key.encode(), key)

    def wait_with(self, poll: asyncio.Future[Any]) -> None:
        """From now on this is the session's long-poll: it has one, the newest."""
        self.stop_waiting()
        self._poll = poll

    def answers_on(self, taking: Taking | None) -> None:
        """Its tasks go to this connection; one that lets an answer wait is not waited for any more.

        So a client that does not read holds one model at the most.
        """
        if self._taking not in {None, taking} and self._taking.holds_back():
            self._taking.abort()
        self._taking = taking

    @contextmanager
    def brings_on(self, connection: Taking | None) -> Iterator[None]:
        """An update comes on this connection; one that still comes on another ends.

        So a client has one body in memory or on disk, and a device whose connection broke none.
        """
        if self._bringing is not None:
            self._bringing.abort()
        self._bringing = connection
        try:
            yield
        finally:
            if self._bringing is connection:
                self._bringing = None

    def stop_waiting(self) -> None:
        """Its long-poll ends without a task."""
        if self._poll is not None:
            self._poll.cancel()

    def is_waiting(self) -> bool:
        """Whether its client waits for a task."""
        return self._poll is not None and not self._poll.done()

    def ended(self) -> dict[str, str]:
        """The last line of the session: the result of it all, or that a newer one took over."""
        return {"over": self.result} if self.result else {"replaced": self.client}

    def end(self, result: str) -> None:
        """There will be no more rounds."""
        self.result = result
        self.over.set()


DeviceSession = Session[Registration]


class Sessions(Generic[R]):
    """The open sessions of one reception; of edges the edge is the client."""

    def __init__(self, make_key: Callable[[], str] = new_key) -> None:
        """Nobody is there."""
        self._make_key = make_key
        self.by_client: dict[str, Session[R]] = {}

    def check(self, client: str, key: bytes) -> Session[R]:
        """The open session of a client, for whoever shows its key.

        Raises:
            NoSession: there is none, or this is not its key.
        """
        session = self.by_client.get(client)
        if session is None:
            raise NoSession(f"{client} has no session: open one first")
        if not session.fits(key):
            what = "another key than that" if key else f"no key ({SESSION_HEADER})"
            raise NoSession(f"the request has {what} of {client}'s session: open one first")
        return session

    def is_open(self, session: Session[R]) -> bool:
        """Whether it is still its client's session."""
        return self.by_client.get(session.client) is session

    def in_the_way(self, client: str, key: bytes) -> Session[R] | None:
        """The session that has to end before this client may open one; `key` is what it shows."""
        session = self.by_client.get(client)
        if session is None or session.fits(key) or session.is_silent():
            return None
        return session

    async def room_for(self, client: str, key: bytes, *, proved: bool, who: str) -> None:
        """Waits a moment for the end of a session that is in the way; `who` names the client.

        None is in the way of who has `proved` to be the client.

        Raises:
            SessionTaken: it has one that somebody else holds.
        """
        if proved:
            return
        try:
            async with asyncio.timeout(HANDOVER_S):
                while older := self.in_the_way(client, key):
                    await older.closed.wait()
        except TimeoutError:
            raise SessionTaken(
                f"{who} has a session already, on a connection that is alive: another one is "
                f"opened once that is closed, or with its key"
            ) from None

    def open(self, registration: R, is_silent: Callable[[], bool]) -> Session[R]:
        """A new session of a client, in the place of the one that it has."""
        session = Session(registration, self._make_key(), is_silent)
        if older := self.by_client.get(session.client):
            self.close(older)
            older.over.set()
        self.by_client[session.client] = session
        return session

    def close(self, session: Session[R]) -> bool:
        """A session's end, and with it that of its long-poll; False when it had ended before."""
        if not self.is_open(session):
            return False
        del self.by_client[session.client]
        session.closed.set()
        if session.result is None:  # else the long-poll is being told
            session.stop_waiting()
        return True
