"""Who calls the planner: checks that a token is the one of a job's cloud pod.

The planner calls it. A positive review is kept a minute under a hash of the token, so that a round
costs no call to the apiserver; a negative one is never kept.
"""

import hashlib
import time
from collections.abc import Callable

from lockstep_api import names
from lockstep_operator.core.model import JobKey
from lockstep_operator.kube import Kube

CACHE_S = 60.0
_MAX_CACHED = 10_000


class Unauthenticated(Exception):
    """No token, or one that is not valid for the planner."""


class Forbidden(Exception):
    """A valid token of somebody else."""


class Authenticator:
    """Checks bearer tokens by TokenReview."""

    def __init__(self, kube: Kube, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._clock = clock
        self._users: dict[str, tuple[str, float]] = {}
        """Hash of a job's uid and a token → its user and when to ask again."""

    async def check(self, key: JobKey, authorization: str | None, *, uid: str = "") -> None:
        """Let the job's cloud pod pass; with a job's uid, one that was reviewed for this very job.

        Raises:
            Unauthenticated: no valid token.
            Forbidden: the token is not the one of this job's cloud pod.
            KubeError: the token could not be checked.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated("send the pod's token: Authorization: Bearer …")
        user = await self._user(token.strip(), uid)
        account = names.service_account_name(key.name, "cloud")
        if user != f"system:serviceaccount:{key.namespace}:{account}":
            raise Forbidden(f"{user} is not the cloud pod of job {key.namespace}/{key.name}")

    async def _user(self, token: str, uid: str) -> str:
        digest = hashlib.sha256(f"{uid} {token}".encode()).hexdigest()
        user, until = self._users.get(digest, ("", 0.0))
        if user and self._clock() < until:
            return user
        self._users.pop(digest, None)
        reviewed = await self._kube.review_token(token, names.PLANNER_AUDIENCE)
        if reviewed is None:
            raise Unauthenticated(f"the token is not valid for audience {names.PLANNER_AUDIENCE}")
        if len(self._users) >= _MAX_CACHED:
            self._users.clear()
        self._users[digest] = (reviewed, self._clock() + CACHE_S)
        return reviewed
