"""Errors of the workers.

WorkerError              the job cannot go on; its message is for the user
├── InvalidJob           the settings ask for what cannot be done
└── RefusedUpdate        one update is not taken; has a reason (`lockstep_api.wire.Refusal`)
"""

from lockstep_api.wire import Refusal


class WorkerError(Exception):
    """The job cannot go on."""


class InvalidJob(WorkerError):
    """The settings ask for what cannot be done; says what to change."""


class RefusedUpdate(WorkerError):
    """An update that is not taken."""

    def __init__(self, reason: Refusal, message: str) -> None:
        """`reason` labels the metric, `message` tells the sender what was wrong."""
        super().__init__(message)
        self.reason = reason
