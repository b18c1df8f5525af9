"""Errors of the workers, all of them: one branch ends the job, the others never can.

WorkerError                  a worker could not do what it was asked to
├── JobFailed                the job ends as Failed; the message is for the user
│   └── InvalidJob           the settings ask for what cannot be done; says what to change
├── RefusedUpdate            one update is not taken; has a reason (`lockstep_api.sessions.Refusal`)
├── Gone                     the sender of an update closed its connection before it was complete
├── CorruptCheckpoint        a file is not a whole checkpoint of this job; an older one may be
├── NoSession                a device has no session (any more): it opens one and goes on
├── SessionTaken             a device's session is held by another connection: it comes again
├── NotYou                   who asks does not prove to be the client that it names; says what to do
├── NotAdmitted              the cloud pod will never take this device: its process ends
└── PlannerUnreachable       the planner could not be asked, or did not answer as it should
    └── PlannerRefused       it refuses: asking again now is of no use

Who may end a job catches JobFailed and no more; what ends a process is a WorkerError (`app`).
"""

from lockstep_api.sessions import Refusal


class WorkerError(Exception):
    """A worker could not do what it was asked to."""


class JobFailed(WorkerError):
    """The job ends; says why, for the user."""


class InvalidJob(JobFailed):
    """The settings ask for what cannot be done; says what to change."""


class RefusedUpdate(WorkerError):
    """An update that is not taken."""

    def __init__(self, reason: Refusal, message: str) -> None:
        """`reason` labels the metric, `message` tells the sender what was wrong."""
        super().__init__(message)
        self.reason = reason


class Gone(WorkerError):
    """The sender closed its connection before the body was complete."""


class CorruptCheckpoint(WorkerError):
    """A file that is not a whole checkpoint of this job; says what is wrong."""


class NoSession(WorkerError):
    """The cloud pod does not know this device's session (any more)."""


class SessionTaken(WorkerError):
    """Another connection holds this device's session, and is alive."""


class NotYou(WorkerError):
    """Who asks does not prove to be the client that it names; says what to do."""

    def __init__(self, status: int, message: str) -> None:
        """401: come again with a token that counts; 403: this pod is another; 429, 503: later."""
        super().__init__(message)
        self.status = status


class NotAdmitted(WorkerError):
    """The cloud pod will never take this device: the job has no such client."""


class PlannerUnreachable(WorkerError):
    """The planner could not be asked, or did not answer as it should; says why."""


class PlannerRefused(PlannerUnreachable):
    """The planner refuses, for the job or the request is not such that it plans.

    Asking again now is of no use.
    """
