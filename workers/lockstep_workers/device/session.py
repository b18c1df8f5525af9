"""Keeps a device's session open from a thread of its own, and opens it again when it breaks."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from lockstep_api.sessions import Registration
from lockstep_serving.threads import start_thread
from lockstep_workers.credentials import shown
from lockstep_workers.device.connection import LOST, connect, open_session, session_end
from lockstep_workers.errors import WorkerError
from lockstep_workers.jitter import jitter
from lockstep_workers.trust import NOBODY, Trust

_log = structlog.get_logger()
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.1, 5.0
"""Between two tries to open a session, of which each waits half of it at least."""
_STEADY_S = 10.0


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that was open a moment ago."""

    number: int
    """Counts the sessions, so that the training loop can tell a new one from the last."""
    key: str = field(repr=False)
    """What its requests show."""


class SessionKeeper:
    """The session of one client."""

    def __init__(
        self,
        cloud_url: str,
        registration: Registration,
        *,
        trust: Trust = NOBODY,
        token_file: Path | None = None,
    ) -> None:
        """Nothing happens until `start`; the token is read anew for every try."""
        self._cloud_url, self._trust, self._token_file = cloud_url, trust, token_file
        self._registration = registration
        self._state = threading.Condition()
        self._open = False
        self._opened = Opened(0, "")
        self._over = False
        self._error: WorkerError | None = None

    @property
    def registration(self) -> Registration:
        """Who opens it."""
        return self._registration

    def start(self) -> None:
        """Opens the session as soon as the cloud pod answers."""
        start_thread(self._keep, "session")

    def is_open(self) -> bool:
        """Whether the session is open now, or not needed any more because the job is over."""
        return self._open or self._over

    def wait_open(self) -> Opened | None:
        """Waits until the session is open; None when the job is over.

        Raises:
            NotAdmitted: the cloud pod will never take this client, or this pod for it.
            InvalidJob: the cloud pod's URL cannot be used.
        """
        with self._state:
            self._state.wait_for(lambda: self._open or self._over or self._error is not None)
            if self._error is not None:
                raise self._error
            return None if self._over else self._opened

    def _begin(self, key: str) -> None:
        with self._state:
            self._open, self._opened = True, Opened(self._opened.number + 1, key)
            self._state.notify_all()

    def _end(self, *, over: bool = False, error: WorkerError | None = None) -> None:
        with self._state:
            self._open, self._over, self._error = False, over, error
            self._state.notify_all()

    def _keep(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        idle = threading.Event()
        while True:
            began = time.monotonic()
            try:
                if self._hold():
                    self._end(over=True)
                    return
            except WorkerError as error:  # another try would end alike
                self._end(error=error)
                return
            except LOST as error:
                _log.info("no session", cloud=self._cloud_url, why=str(error))
            self._end()
            if time.monotonic() - began > _STEADY_S:
                backoff_s = FIRST_BACKOFF_S
            idle.wait(jitter(0.5, 1.0) * backoff_s)
            backoff_s = min(MAX_BACKOFF_S, 2 * backoff_s)

    def _hold(self) -> bool:
        """Opens the session and returns when it has ended: whether the job is over."""
        connection = connect(self._cloud_url, self._trust)
        try:
            last, proof = self._opened.key, shown(self._token_file)
            with open_session(connection, self._registration, key=last, proof=proof) as session:
                self._begin(session.key)
                _log.info("session open", number=self._opened.number)
                end = session_end(session)
            _log.info("session closed", end=end)
            return "over" in end
        finally:
            connection.close()
