"""Keeps a device's session open from a thread of its own, and opens it again when it breaks."""

import random
import threading
import time

import structlog

from lockstep_api.wire import Registration
from lockstep_workers.device.connection import LOST, connect, open_session, session_end
from lockstep_workers.device.threads import start_thread
from lockstep_workers.errors import WorkerError

_log = structlog.get_logger()
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 5.0
_STEADY_S = 10.0


class SessionKeeper:
    """The session of one client.

    Sessions are counted, so that the training loop can tell a new one from the last.
    """

    def __init__(self, cloud_url: str, registration: Registration) -> None:
        """Nothing happens until `start`."""
        self._cloud_url = cloud_url
        self._registration = registration
        self._state = threading.Condition()
        self._open = False
        self._opened = 0
        self._over = False
        self._error: WorkerError | None = None

    def start(self) -> None:
        """Opens the session as soon as the cloud pod answers."""
        start_thread(self._keep, "session")

    def is_open(self) -> bool:
        """Whether the session is open now, or not needed any more because the job is over."""
        return self._open or self._over

    def wait_open(self) -> int | None:
        """Waits until the session is open; returns its number, None when the job is over.

        Raises:
            NotAdmitted: the cloud pod will never take this client.
            InvalidJob: the cloud pod's URL cannot be used.
        """
        with self._state:
            self._state.wait_for(lambda: self._open or self._over or self._error is not None)
            if self._error is not None:
                raise self._error
            return None if self._over else self._opened

    def _set(self, *, is_open: bool, over: bool = False, error: WorkerError | None = None) -> None:
        with self._state:
            self._open = is_open
            self._opened += is_open
            self._over, self._error = over, error
            self._state.notify_all()

    def _keep(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        idle = threading.Event()
        while True:
            began = time.monotonic()
            try:
                if self._hold():
                    self._set(is_open=False, over=True)
                    return
            except WorkerError as error:  # another try would end alike
                self._set(is_open=False, error=error)
                return
            except LOST as error:
                _log.info("no session", cloud=self._cloud_url, why=str(error))
            self._set(is_open=False)
            if time.monotonic() - began > _STEADY_S:
                backoff_s = _FIRST_BACKOFF_S
            idle.wait(random.uniform(0.5, 1.0) * backoff_s)
            backoff_s = min(_MAX_BACKOFF_S, 2 * backoff_s)

    def _hold(self) -> bool:
        """Opens the session and returns when it has ended: whether the job is over."""
        connection = connect(self._cloud_url)
        try:
            with open_session(connection, self._registration) as response:
                self._set(is_open=True)
                _log.info("session open", number=self._opened)
                end = session_end(response)
            _log.info("session closed", end=end)
            return "over" in end
        finally:
            connection.close()
