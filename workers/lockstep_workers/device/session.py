"""Keeps a device's session open from a thread of its own, and opens it again when it breaks."""

import random
import threading

import structlog

from lockstep_api.wire import Registration
from lockstep_workers.device.connection import LOST, Forbidden, connect, open_session

_log = structlog.get_logger()
_MAX_BACKOFF_S = 5.0


class SessionKeeper:
    """The session of one client.

    `opened` counts sessions, so that the training loop can tell a new one from the last.
    """

    def __init__(self, cloud_url: str, registration: Registration) -> None:
        """Nothing happens until `start`."""
        self._cloud_url = cloud_url
        self._registration = registration
        self._state = threading.Condition()
        self._open = False
        self.opened = 0
        self.error: Forbidden | None = None

    def start(self) -> None:
        """Opens the session as soon as the cloud pod answers."""
        threading.Thread(target=self._keep, name="session", daemon=True).start()

    def is_open(self) -> bool:
        """Whether the session is open now."""
        return self._open

    def wait_open(self) -> int:
        """Waits until the session is open; returns its number.

        Raises:
            Forbidden: the cloud pod will never take this client.
        """
        with self._state:
            self._state.wait_for(lambda: self._open or self.error is not None)
            if self.error is not None:
                raise self.error
            return self.opened

    def _set(self, *, is_open: bool, error: Forbidden | None = None) -> None:
        with self._state:
            self._open = is_open
            self.opened += is_open
            self.error = error
            self._state.notify_all()

    def _keep(self) -> None:
        backoff_s = 0.1
        idle = threading.Event()
        while True:
            try:
                self._hold()
                backoff_s = 0.1
            except Forbidden as error:
                self._set(is_open=False, error=error)
                return
            except LOST as error:
                _log.info("no session yet", cloud=self._cloud_url, why=str(error))
            self._set(is_open=False)
            idle.wait(random.uniform(0.5, 1.0) * backoff_s)
            backoff_s = min(_MAX_BACKOFF_S, 2 * backoff_s)

    def _hold(self) -> None:
        """Opens the session and returns when it has ended."""
        connection = connect(self._cloud_url)
        try:
            response = open_session(connection, self._registration)
            self._set(is_open=True)
            _log.info("session open", number=self.opened)
            while response.readline():
                pass
            _log.info("session closed")
        finally:
            connection.close()
