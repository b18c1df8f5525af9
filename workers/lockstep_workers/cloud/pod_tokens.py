"""Which pod asks, by the token that Kubernetes gave it: checked with the apiserver's keys, offline.

The routes of the cloud pod ask it (`hosting.identity`), one for devices and one for edges. A token
says of which pod of which service account it is, and for which job; `cloud.signing_keys` has the
keys. Everything that can be told without a signature is looked at first.
Invariants: wrong tokens cost so many signatures and no more; whoever has shown no wrong one, and a
pod that has shown a right one, is never turned away because of those of others. A pod whose name
another one has taken does not come back. What a token says is repeated to nobody.
"""

import base64
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import jwt
from pydantic import BaseModel, ConfigDict, Field

from lockstep_api import names
from lockstep_api.names import Role
from lockstep_api.settings import JobSettings
from lockstep_serving.pace import Bucket, Buckets, Rate
from lockstep_workers.cloud.signing_keys import SigningKeys
from lockstep_workers.errors import NotYou
from lockstep_workers.hosting.asgi import address_of
from lockstep_workers.hosting.identity import PodIdentity

MOST_TOKEN_BYTES = 8192
"""A pod's has some 1,200."""
LEEWAY_S = 30
"""By so much clocks may differ."""
OF_ONE, OF_ALL = Rate(burst=20, per_s=1), Rate(burst=200, per_s=20)
"""Signatures that were wrong, of one source and of all that have shown such before."""
_WHERE = f"{names.TOKEN_DIR}/{names.TOKEN_FILE}"
_POD_OF = {Role.DEVICE: names.client_pod, Role.EDGE: names.edge_pod}


class _Part(BaseModel):
    """What a token says, as far as it is read."""

    model_config = ConfigDict(strict=True, frozen=True)


class _Head(_Part):
    alg: str = Field(max_length=16)
    kid: str = Field(min_length=1, max_length=256)


class _Object(_Part):
    name: str
    uid: str = Field(min_length=1)


class _Kubernetes(_Part):
    namespace: str
    serviceaccount: _Object
    pod: _Object


class _Claims(_Part):
    iss: str
    aud: tuple[str, ...] | str
    exp: int
    iat: int
    nbf: int
    kubernetes: _Kubernetes = Field(alias="kubernetes.io")

    def is_for(self, audience: str) -> bool:
        """Whether it is meant for this audience."""
        return audience == self.aud if isinstance(self.aud, str) else audience in self.aud


@dataclass(slots=True)
class _Doubts:
    """Who has shown tokens that somebody else had made."""

    of_one: Buckets
    of_all: Bucket
    of_known: Buckets
    """Of pods that have shown a right one, beyond what their address may do."""

    def cost(self, source: str, now_s: float, *, known_pod: str | None) -> tuple[Bucket, ...]:
        """Who pays for a signature if it is wrong; nobody: it is not worth looking at."""
        mine = self.of_one.of(source)
        left = mine.left(now_s)
        if left >= OF_ONE.burst or (left >= 1 and self.of_all.left(now_s) >= 1):
            return mine, self.of_all
        if known_pod is not None and (its := self.of_known.of(known_pod)).left(now_s) >= 1:
            return (its,)
        return ()


class PodTokens:
    """Checks the tokens of one role's pods of a job."""

    def __init__(
        self,
        job: JobSettings,
        role: Role,
        *,
        keys: SigningKeys,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now` gives Unix seconds, `clock` those that permits come back with."""
        self._job, self._role, self._keys = job, role, keys
        self._account = names.service_account_name(job.job, role)
        self._audience = names.job_audience(job.uid)
        self._now, self._clock = now, clock
        self._doubts = _Doubts(Buckets(OF_ONE), Bucket(OF_ALL), Buckets(OF_ONE))
        self._newest: dict[str, PodIdentity] = {}
        """By client."""

    def verify(self, scope: MutableMapping[str, Any], *, client: str) -> PodIdentity:
        """The pod of a client of the job, if it shows its token.

        Raises:
            NotYou: it does not; says what to do.
        """
        token = _shown(scope)
        if self._keys.issuer is None:
            raise NotYou(503, "the keys to check tokens with are not here yet: come again")
        head, claims = _read(token)
        self._look_at(claims, client)
        pod, newest = claims.kubernetes.pod, self._newest.get(client)
        is_known = newest is not None and newest.uid == pod.uid
        self._check_signature(
            token, head, source=address_of(scope), known_pod=pod.uid if is_known else None
        )
        return self._known(client, PodIdentity(pod.name, pod.uid, claims.iat))

    def _look_at(self, claims: _Claims, client: str) -> None:
        """What can be told without a signature."""
        now_s, of = self._now(), claims.kubernetes
        if claims.iss != self._keys.issuer or not claims.is_for(self._audience):
            raise NotYou(401, f"the token is not one for {self._audience} of this cluster")
        if now_s >= claims.exp + LEEWAY_S:
            raise NotYou(401, "the token has expired: read it anew for every try")
        if now_s < claims.nbf - LEEWAY_S:
            raise NotYou(401, "the token is not valid yet: the clocks of the nodes differ")
        pod = _POD_OF[self._role](self._job.job, client)
        wanted = (self._job.namespace, self._account, pod)
        if (of.namespace, of.serviceaccount.name, of.pod.name) != wanted:
            message = f"the token is not that of pod {pod} (account {self._account}): who "
            raise NotYou(403, f"{message}has another one is not {client}")

    def _check_signature(
        self, token: bytes, head: _Head, *, source: str, known_pod: str | None
    ) -> None:
        key = self._keys.of(head.kid)
        if key is None:
            raise NotYou(401, "the token is signed with a key that is not known here: come again")
        now_s = self._clock()
        if not (cost := self._doubts.cost(source, now_s, known_pod=known_pod)):
            raise NotYou(429, "too many tokens with wrong signatures came from there")
        try:
            jwt.PyJWS().decode(token, key, algorithms=[key.algorithm_name])
        except jwt.PyJWTError:
            for each in cost:
                each.take(now_s)
            raise NotYou(401, "the token's signature is wrong") from None

    def _known(self, client: str, pod: PodIdentity) -> PodIdentity:
        """Takes it for the client's pod, unless another one has its name by now."""
        newest = self._newest.get(client)
        if newest is not None and newest.issued_s > self._now() + LEEWAY_S:
            newest = None  # the clock was set back since: such a token would not be valid yet
        if newest is not None and newest.uid != pod.uid and pod.issued_s <= newest.issued_s:
            raise NotYou(403, f"another pod is {client} now: this one has been replaced")
        if newest is None or pod.issued_s >= newest.issued_s:
            self._newest[client] = pod
        return pod


def _shown(scope: MutableMapping[str, Any]) -> bytes:
    """The token of a request."""
    shown: bytes = dict(scope["headers"]).get(b"authorization", b"")
    scheme, _, token = shown.partition(b" ")
    if scheme.lower() != b"bearer" or not token.strip():
        raise NotYou(
            401,
            f"show the pod's token (authorization: Bearer …), which is in {_WHERE}. A pod without "
            "one was made by an operator that knew of none: delete it, and it is made anew",
        )
    if len(token) > MOST_TOKEN_BYTES:
        raise NotYou(401, f"a token has at most {MOST_TOKEN_BYTES} bytes")
    return token.strip()


def _read(token: bytes) -> tuple[_Head, _Claims]:
    """What a token says, which its signature has yet to prove."""
    try:
        head, claims, _ = token.split(b".")
        return _Head.model_validate_json(_text(head)), _Claims.model_validate_json(_text(claims))
    except ValueError:
        raise NotYou(401, "this is not the token of a pod") from None


def _text(part: bytes) -> bytes:
    return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
