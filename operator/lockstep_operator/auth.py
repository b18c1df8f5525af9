"""Who calls the planner: checks that a token is the one of a job's cloud pod, or its trainer's.

The planner calls it. A positive review is kept a minute under a hash of the token, so that a round
costs no call to the apiserver; a negative one is never kept.
"""

import hashlib
import time
from collections.abc import Callable

from lockstep_api import names
from lockstep_api.names import Role
from lockstep_operator.core.model import JobKey, ObjectRef
from lockstep_operator.errors import Forbidden, NotFound, Unauthenticated
from lockstep_operator.kube import Kube, User

CACHE_S = 60.0
_MAX_CACHED = 10_000


class Authenticator:
    """Checks bearer tokens by TokenReview."""

    def __init__(self, kube: Kube, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._clock = clock
        self._users: dict[str, tuple[User, float]] = {}
        """Hash of a token → its user and when to ask again."""
        self._owners: dict[str, str] = {}
        """ServiceAccount's uid → uid of the job that owns it; neither ever changes."""

    async def check(
        self, key: JobKey, authorization: str | None, *, role: Role = Role.CLOUD
    ) -> User:
        """Let pods of this role of a job of this name pass, and tell who it is.

        Raises:
            Unauthenticated: no valid token.
            Forbidden: the token is not the one of such a pod.
            KubeError: the token could not be checked.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated("send the pod's token: Authorization: Bearer …")
        user = await self._user(token.strip())
        account = names.service_account_name(key.name, role)
        if user.name != f"system:serviceaccount:{key.namespace}:{account}":
            raise Forbidden(f"{user.name} is not the {role} pod of job {key.namespace}/{key.name}")
        return user

    async def check_owner(
        self, key: JobKey, user: User, *, uid: str, role: Role = Role.CLOUD
    ) -> None:
        """Keep out the pod of a deleted job of the same name, which runs on for seconds.

        Its token passes reviews until the apiserver forgets its own, but its account is another.

        Raises:
            Forbidden: the account does not belong to the job with this uid.
            KubeError: the account could not be read.
        """
        if user.uid not in self._owners:
            await self._learn_owner(key, role)
        if self._owners.get(user.uid) != uid:
            raise Forbidden(f"the caller belongs to an earlier job {key.namespace}/{key.name}")

    async def _learn_owner(self, key: JobKey, role: Role) -> None:
        account = names.service_account_name(key.name, role)
        try:
            found = await self._kube.get(ObjectRef("v1", "ServiceAccount", key.namespace, account))
        except NotFound:
            return
        owners = [o for o in found["metadata"].get("ownerReferences", []) if o.get("controller")]
        if len(self._owners) >= _MAX_CACHED:
            self._owners.clear()
        if owners:
            self._owners[found["metadata"]["uid"]] = owners[0]["uid"]

    async def _user(self, token: str) -> User:
        digest = hashlib.sha256(token.encode()).hexdigest()
        known = self._users.pop(digest, None)
        if known is not None and self._clock() < known[1]:
            self._users[digest] = known
            return known[0]
        reviewed = await self._kube.review_token(token, names.PLANNER_AUDIENCE)
        if reviewed is None:
            raise Unauthenticated(f"the token is not valid for audience {names.PLANNER_AUDIENCE}")
        if len(self._users) >= _MAX_CACHED:
            self._users.clear()
        self._users[digest] = (reviewed, self._clock() + CACHE_S)
        return reviewed
