"""The keys by which the apiserver signs tokens, as the planner told them last.

Run beside the job by `cloud.main`; `cloud.pod_tokens` checks with them. Fetched when the pod
starts, every hour, and when a token names a key that is not known: a cluster changes its keys.
Invariant: the keys that are known are kept until there are others, so a planner that is away keeps
nobody out; and made-up names of keys cost a fetch in a while, however many come.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import jwt
import structlog

from lockstep_api.identity import PublicKey, PublishedKeys

Fetch = Callable[[str], Awaitable[PublishedKeys]]
"""Asks for the keys, of which one is missed, until there is an answer."""

_KINDS = frozenset({"RSA", "EC"})
ALGORITHMS = frozenset({"RS256", "ES256", "ES384", "ES512"})
"""With which an apiserver signs; nothing that is made with a secret, and nothing without a key."""
FRESH_S = 3600.0
PAUSE_S = 30.0
"""Between two fetches."""
_log = structlog.get_logger()


class SigningKeys:
    """The keys by name."""

    def __init__(self, *, fresh_s: float = FRESH_S, pause_s: float = PAUSE_S) -> None:
        """None, until `keep` has fetched them."""
        self.issuer: str | None = None
        """Who signs; None: no keys have come yet."""
        self._keys: dict[str, jwt.PyJWK] = {}
        self._missed = ""
        self._missing = asyncio.Event()
        self._fresh_s, self._pause_s = fresh_s, pause_s

    def of(self, kid: str) -> jwt.PyJWK | None:
        """The key of this name; one that is not known is asked for soon."""
        key = self._keys.get(kid)
        if key is None:
            self._missed = kid
            self._missing.set()
        return key

    def know(self, published: PublishedKeys) -> None:
        """These are the keys from now on."""
        made = {key.kid: found for key in published.jwks.keys if (found := _made(key))}
        if not made:
            _log.error("no key among those that the planner tells can check a token")
            return
        self.issuer, self._keys = published.issuer, made

    async def keep(self, fetch: Fetch) -> None:
        """Fetches them again and again, until cancelled."""
        while True:
            self._missing.clear()
            self.know(await fetch(self._missed))
            _log.info("keys of tokens known", issuer=self.issuer, count=len(self._keys))
            await asyncio.sleep(self._pause_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._fresh_s):
                    await self._missing.wait()


def _made(key: PublicKey) -> jwt.PyJWK | None:
    """A key that can check signatures; None: it is of a kind that signs no tokens of pods."""
    signs = key.alg in (None, *ALGORITHMS) and key.use in (None, "sig")
    if key.kty not in _KINDS or not signs:
        return None
    try:
        made = jwt.PyJWK(key.model_dump(exclude_none=True))
    except jwt.PyJWTError:
        return None
    return made if made.algorithm_name in ALGORITHMS else None
