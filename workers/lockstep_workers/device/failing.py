"""Tells the cloud pod that the user's code failed on this device before it could open a session.

Called by `device.main`. Invariant: nobody starts again before the cloud pod, which counts, has
heard of it; so a device whose code cannot work ends after a few tries, and not never.
"""

import threading
from pathlib import Path

import structlog

from lockstep_api.sessions import ClientFailure
from lockstep_workers.credentials import shown
from lockstep_workers.device.connection import LOST, connect, report_failure
from lockstep_workers.jitter import jitter
from lockstep_workers.trust import NOBODY, Trust

_log = structlog.get_logger()
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 5.0


def tell(
    cloud_url: str,
    failure: ClientFailure,
    *,
    trust: Trust = NOBODY,
    token_file: Path | None = None,
) -> bool:
    """Insists until the cloud pod has answered: whether this device may try again."""
    backoff_s, idle = _FIRST_BACKOFF_S, threading.Event()
    while True:
        try:
            connection = connect(cloud_url, trust)
            try:
                return report_failure(connection, failure, proof=shown(token_file))
            finally:
                connection.close()
        except LOST as error:
            _log.info("failure not told yet", cloud=cloud_url, why=str(error))
        idle.wait(jitter(0.5, 1.0) * backoff_s)
        backoff_s = min(_MAX_BACKOFF_S, 2 * backoff_s)
