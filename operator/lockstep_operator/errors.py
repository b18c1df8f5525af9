"""The operator's errors; `kube` raises the KubeError ones and the shell handles them by class.

LockstepError
├── InvalidSpec                 a job that cannot be read; not retried before it changes
├── CallRefused                 a call of the planner that it does not serve
│   ├── NotLeader               another operator plans; asked again, the leader answers
│   ├── Unauthenticated         no token, or one that is not valid for the planner
│   ├── Forbidden               a valid token of somebody else
│   ├── JobEnded                the job takes no more rounds
│   ├── NotPlaced               the job has no place, and so no pods that could call
│   ├── Superseded              the job has called again before this call's turn came
│   ├── PlanTookTooLong         there is no plan in the time that its caller waits
│   ├── TooManyCalls            more than one caller may make
│   ├── NotSigned               what would sign a certificate cannot now; who asks goes on with his
│   ├── BodyTooLarge            more bytes than a call of this job can have
│   ├── BodyTooSlow             its bytes did not come in time
│   └── UnfitRequest            what the caller sends does not fit the job
├── BadAuthority                what certificates are signed with cannot be used; ends the process
├── TelemetryError              Prometheus did not answer; reports of rounds stand in
├── PolicyUnavailable           a policy that cannot be used; the equaliser stands in
└── KubeError                   a call to the Kubernetes API failed; retried with backoff
    ├── NotFound                404
    │   └── NotServed           404 of the whole route: this Kubernetes has no such resource
    ├── Conflict                409
    │   └── NameTaken           not written: the object belongs to somebody else
    ├── NotOffered              not copied: the ConfigMap does not say that jobs may have of it
    ├── Throttled               429, with the seconds to wait
    ├── Unavailable             5xx, connection lost, time-out
    │   └── TooLarge            an answer with more bytes than are read
    └── Refused                 any other 4xx, with the apiserver's message
"""

from lockstep_operator.core.policy_source import PolicyProblem


class LockstepError(Exception):
    """Base of all errors of the operator."""


class InvalidSpec(LockstepError):
    """A FederatedJob whose spec cannot be read."""


class CallRefused(LockstepError):
    """A call of the planner that it does not serve; the message is for the caller."""


class NotLeader(CallRefused):
    """Another operator plans; the caller's next try reaches it."""


class Unauthenticated(CallRefused):
    """No token, or one that is not valid for the planner."""


class Forbidden(CallRefused):
    """A valid token of somebody else."""


class JobEnded(CallRefused):
    """A job that takes no more rounds."""


class NotPlaced(CallRefused):
    """A job without a place has no pods, whoever calls in its name."""


class Superseded(CallRefused):
    """A newer call of the same job came before this one was served."""


class PlanTookTooLong(CallRefused):
    """There was no plan in the time that its caller waits."""


class TooManyCalls(CallRefused):
    """More calls than one caller may make: some are served later."""


class NotSigned(CallRefused):
    """There is nothing to sign a certificate with now; a server goes on with the one it has."""


class BodyTooLarge(CallRefused):
    """A body of more bytes than a call of this job can have."""


class BodyTooSlow(CallRefused):
    """A body whose bytes did not come in time."""


class UnfitRequest(CallRefused):
    """What the caller sends does not fit the job: sent again, it fits no better."""


class BadAuthority(LockstepError):
    """What certificates are signed with cannot be used; the message is for people."""


class TelemetryError(LockstepError):
    """Prometheus did not answer, or not what it should; the message is for people."""


class PolicyUnavailable(LockstepError):
    """A policy that cannot be used; the message is for people."""

    def __init__(self, message: str, problem: PolicyProblem) -> None:
        super().__init__(message)
        self.problem = problem
        """What is wrong with it."""


class KubeError(LockstepError):
    """A call to the Kubernetes API failed."""

    words: str = ""
    """The apiserver's own message; empty when it did not answer."""


class NotFound(KubeError):
    """The object does not exist."""


class NotServed(NotFound):
    """The apiserver has no such resource at all."""


class Conflict(KubeError):
    """The object was changed by someone else, or exists already."""


class NameTaken(Conflict):
    """An object that does not belong to the job has the name: nothing was written."""


class NotOffered(KubeError):
    """A ConfigMap whose author has not said that jobs may have what is in it: nothing was read."""


class Throttled(KubeError):
    """The apiserver asks to slow down."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds to wait."""


class Unavailable(KubeError):
    """The apiserver cannot be reached or failed."""


class TooLarge(Unavailable):
    """An answer with more bytes than are read of it."""


class Refused(KubeError):
    """The apiserver does not accept the call."""
