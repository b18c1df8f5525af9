"""The operator's errors; `kube` raises the KubeError ones and the shell handles them by class.

LockstepError
├── InvalidSpec                 a job that cannot be read; not retried before it changes
└── KubeError                   a call to the Kubernetes API failed; retried with backoff
    ├── NotFound                404
    │   └── NotServed           404 of the whole route: this Kubernetes has no such resource
    ├── Conflict                409
    ├── Throttled               429, with the seconds to wait
    ├── Unavailable             5xx, connection lost, time-out
    └── Refused                 any other 4xx, with the apiserver's message
"""


class LockstepError(Exception):
    """Base of all errors of the operator."""


class InvalidSpec(LockstepError):
    """A FederatedJob whose spec cannot be read."""


class KubeError(LockstepError):
    """A call to the Kubernetes API failed."""


class NotFound(KubeError):
    """The object does not exist."""


class NotServed(NotFound):
    """The apiserver has no such resource at all."""


class Conflict(KubeError):
    """The object was changed by someone else, or exists already."""


class Throttled(KubeError):
    """The apiserver asks to slow down."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds to wait."""


class Unavailable(KubeError):
    """The apiserver cannot be reached or failed."""


class Refused(KubeError):
    """The apiserver does not accept the call."""
