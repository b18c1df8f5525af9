"""Who calls the planner: checks that a token is the one of a job's cloud pod, or its trainer's.

The planner calls it, before anything else of a call is read. A positive review is kept a minute
under a hash of the token, so that a round costs no call to the apiserver, but for a pod that nobody
has seen; a negative one for some seconds. Invariant: wrong tokens cost the apiserver so many
reviews and no more, and whoever had a valid one before, or has not tried often, is never turned
away because of them.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from lockstep_api import names
from lockstep_api.names import Role
from lockstep_operator.core.model import JobKey, ObjectRef
from lockstep_operator.errors import Forbidden, NotFound, TooManyCalls, Unauthenticated
from lockstep_operator.kube import Kube
from lockstep_operator.kube_reviews import User
from lockstep_serving.pace import Bucket, Buckets, Rate
from lockstep_serving.recent import remember

CACHE_S = 60.0
REFUSED_S = 10.0
NEW_S = 2.0
"""For so long a review tells of a pod that nobody has seen that it is there."""
_MAX_CACHED = 10_000
_MAX_TOKEN = 8192
"""Characters; a service account's has some 1,200."""
OF_ONE = Rate(burst=20, per_s=5)
"""Reviews of tokens that are not known yet, for one source; many callers may share an address."""
FIRST_OF_ALL, FURTHER_OF_ALL = Rate(burst=100, per_s=20), Rate(burst=100, per_s=20)
"""The same for all sources: the first of each have permits of their own."""
_FIRST = 3


@dataclass(frozen=True, slots=True)
class Caller:
    """What is known of a caller from the head of its call."""

    authorization: str | None
    source: str = ""
    """Its address."""


class _Reviews:
    """Who may have a token reviewed that is not known yet."""

    def __init__(self) -> None:
        self._of_one = Buckets(OF_ONE)
        self._first, self._further = Bucket(FIRST_OF_ALL), Bucket(FURTHER_OF_ALL)

    def take(self, source: str, now_s: float) -> bool:
        mine = self._of_one.of(source)
        used = OF_ONE.burst - mine.left(now_s)
        everyone = self._first if used < _FIRST else self._further
        return mine.take(now_s) and everyone.take(now_s)


class Authenticator:
    """Checks bearer tokens by TokenReview."""

    def __init__(self, kube: Kube, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._clock = clock
        self._users: dict[str, tuple[User, float]] = {}
        """Hash of a token that was valid → its user and when to ask again."""
        self._refused: dict[str, float] = {}
        """Hash of one that was not → when to ask again."""
        self._reviews = _Reviews()
        self._owners: dict[str, str] = {}
        """ServiceAccount's uid → uid of the job that owns it; neither ever changes."""

    async def check(self, key: JobKey, caller: Caller, *, role: Role = Role.CLOUD) -> User:
        """Let pods of this role of a job of this name pass, and tell who it is.

        Raises:
            Unauthenticated: no valid token.
            Forbidden: the token is not the one of such a pod.
            TooManyCalls: too many wrong tokens came from there.
            KubeError: the token could not be checked.
        """
        user = await self._user(_token(caller), caller.source)
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

    async def check_pod(
        self, key: JobKey, caller: Caller, *, user: User, role: Role, seen: str | None
    ) -> None:
        """Keep out a pod that is gone: what was found of its token is remembered for a while.

        `seen` is the uid that the pod of its name has now. None: no such pod was seen, since it is
        new, or gone; then it is asked anew, for the apiserver takes no token of a pod that is gone.

        Raises:
            Unauthenticated, Forbidden: it is not one of the job's pods as they are now.
            KubeError: the token could not be checked.
        """
        if not user.pod or (role is Role.CLOUD and user.pod != names.cloud_pod(key.name)):
            raise Forbidden(f"the token is not that of the {role} pod of job {key.name}")
        if seen is None:
            await self._review_anew(_token(caller), caller.source)
        elif seen != user.pod_uid:
            raise Forbidden(f"another pod is {user.pod} now: this one is gone")

    async def _review_anew(self, token: str, source: str) -> None:
        digest, now_s = _hash(token), self._clock()
        known = self._users.get(digest)
        if known is not None and now_s >= known[1] - CACHE_S + NEW_S:
            self._users[digest] = known[0], now_s
        await self._user(token, source)

    async def _learn_owner(self, key: JobKey, role: Role) -> None:
        account = names.service_account_name(key.name, role)
        try:
            found = await self._kube.metadata(
                ObjectRef("v1", "ServiceAccount", key.namespace, account)
            )
        except NotFound:
            return
        owners = [o for o in found["metadata"].get("ownerReferences", []) if o.get("controller")]
        if len(self._owners) >= _MAX_CACHED:
            self._owners.clear()
        if owners:
            self._owners[found["metadata"]["uid"]] = owners[0]["uid"]

    async def _user(self, token: str, source: str) -> User:
        digest = _hash(token)
        known, now_s = self._users.get(digest), self._clock()
        if known is not None and now_s < known[1]:
            return known[0]
        if len(token) > _MAX_TOKEN or now_s < self._refused.get(digest, now_s):
            raise _not_valid()
        if known is None and not self._reviews.take(source, now_s):
            raise TooManyCalls("too many tokens that are not valid: try again later")
        reviewed = await self._kube.review_token(token, names.PLANNER_AUDIENCE)
        self._users.pop(digest, None)
        if reviewed is None:
            remember(self._refused, digest, value=now_s + REFUSED_S, most=_MAX_CACHED)
            raise _not_valid()
        remember(self._users, digest, value=(reviewed, now_s + CACHE_S), most=_MAX_CACHED)
        return reviewed


def _token(caller: Caller) -> str:
    scheme, _, token = (caller.authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("send the pod's token: Authorization: Bearer …")
    return token.strip()


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _not_valid() -> Unauthenticated:
    return Unauthenticated(f"the token is not valid for audience {names.PLANNER_AUDIENCE}")
