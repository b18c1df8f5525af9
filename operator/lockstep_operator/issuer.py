"""The keys by which the apiserver signs tokens, as it publishes them: for cloud pods, which check.

The planner hands them on (`names.KEYS_ROUTE`). They are read by the operator's own connection:
workers have no rights in the Kubernetes API. Invariant: however often cloud pods ask, and whatever
for, the apiserver is asked once in `AGAIN_S` at most; what is known is told while it is away.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from pydantic import ValidationError

from lockstep_api.identity import PublishedKeys
from lockstep_operator.core.model import Manifest
from lockstep_operator.errors import KubeError, Unavailable
from lockstep_operator.kube import Kube

DISCOVERY = "/.well-known/openid-configuration"
JWKS = "/openid/v1/jwks"
FRESH_S = 3600.0
AGAIN_S = 30.0
"""Sooner nobody's missing a key has them read again."""
_KINDS = frozenset({"RSA", "EC"})

logger = logging.getLogger(__name__)


class Issuer:
    """Who signs the tokens of this cluster."""

    def __init__(self, kube: Kube, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._clock = clock
        self._reading = asyncio.Lock()
        self._known: PublishedKeys | None = None
        self._tried_s = float("-inf")

    async def keys(self, missed: str = "") -> PublishedKeys:
        """The issuer and its keys; `missed` names one that the caller does not know.

        Raises:
            KubeError: the apiserver has not told them yet.
        """
        async with self._reading:
            known = self._known
            if known is None or self._is_due(known, missed):
                self._tried_s = self._clock()
                try:
                    known = self._known = await self._read()
                except KubeError as error:
                    if known is None:
                        raise
                    logger.warning("keys of tokens not read anew: %s", error)
            return known

    def _is_due(self, known: PublishedKeys, missed: str) -> bool:
        after_s = AGAIN_S if missed and not known.jwks.has(missed) else FRESH_S
        return self._clock() >= self._tried_s + after_s

    async def _read(self) -> PublishedKeys:
        discovery, jwks = await self._kube.published(DISCOVERY), await self._kube.published(JWKS)
        try:
            return PublishedKeys.model_validate(
                {"issuer": discovery.get("issuer"), "jwks": {"keys": _public(jwks)}}
            )
        except ValidationError as error:
            raise Unavailable(f"{DISCOVERY} and {JWKS} are not what they should be") from error


def _public(jwks: Manifest) -> list[Manifest]:
    """The keys of kinds that have a public half; of each only that (`lockstep_api.identity`)."""
    keys = jwks.get("keys") or []
    return [key for key in keys if key.get("kty") in _KINDS and key.get("kid")]
