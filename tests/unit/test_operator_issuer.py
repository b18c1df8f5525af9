"""The planner tells cloud pods with which keys the apiserver signs tokens."""

from typing import Any

import pytest

from lockstep_api import names
from lockstep_api.identity import PublishedKeys
from lockstep_operator.core.model import Manifest
from lockstep_operator.errors import Unavailable
from lockstep_operator.issuer import AGAIN_S, DISCOVERY, FRESH_S, JWKS, Issuer
from tests.support.kube import FakeKube
from tests.support.planner import Setup, client

KEYS = names.KEYS_ROUTE.format(namespace="lab", job="digits")
RSA: Manifest = {"use": "sig", "kty": "RSA", "kid": "k1", "alg": "RS256", "n": "AQAB", "e": "AQAB"}
EC: Manifest = {"kty": "EC", "kid": "k2", "crv": "P-256", "x": "AAAA", "y": "BBBB"}


def published(*keys: Manifest) -> dict[str, Manifest]:
    """What an apiserver with these keys publishes."""
    about = {"issuer": "https://here", "jwks_uri": "https://elsewhere/jwks"}
    return {DISCOVERY: about, JWKS: {"keys": list(keys)}}


def reads(kube: FakeKube) -> int:
    """How often the keys were read."""
    return kube.calls["get", JWKS]


async def test_a_cloud_pod_is_told_the_issuer_and_its_keys(setup: Setup) -> None:
    setup.kube.public = published(RSA, EC)
    answer = await setup.http.get(KEYS)
    assert answer.status_code == 200
    assert answer.json() == {"issuer": "https://here", "jwks": {"keys": [RSA, EC]}}


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("made-up", 401), ("device", 403)])
async def test_nobody_else_is(setup: Setup, token: str | None, status: int) -> None:
    setup.kube.public = published(RSA)
    async with client(setup.planner, token=token) as http:
        assert (await http.get(KEYS)).status_code == status
    assert reads(setup.kube) == 0


async def test_nothing_that_is_secret_is_handed_on(setup: Setup) -> None:
    """However it came to be published: neither private halves nor keys without a public one."""
    private = {"d": "secret", "p": "secret", "q": "secret", "k": "secret"}
    shared: Manifest = {"kty": "oct", "kid": "k3", "k": "secret"}
    setup.kube.public = published(RSA | private, EC | private, shared)
    answer = await setup.http.get(KEYS)
    assert "secret" not in answer.text
    assert [key["kid"] for key in answer.json()["jwks"]["keys"]] == ["k1", "k2"]


class Reader:
    """An issuer whose time is the test's."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.kube = FakeKube(public=published(RSA))
        self.issuer = Issuer(self.kube, clock=lambda: self.now_s)

    async def kids(self, missed: str = "") -> list[str]:
        """The names of the keys that are told."""
        told: PublishedKeys = await self.issuer.keys(missed)
        return [key.kid for key in told.jwks.keys]


async def test_keys_are_read_once_an_hour() -> None:
    reader = Reader()
    for now_s, count in ((0.0, 1), (FRESH_S - 1, 1), (FRESH_S, 2)):
        reader.now_s = now_s
        assert await reader.kids("k1") == ["k1"]
        assert reads(reader.kube) == count


async def test_a_key_that_is_missed_is_looked_for_but_not_at_every_call() -> None:
    reader = Reader()
    assert await reader.kids() == ["k1"]
    reader.kube.public = published(RSA, EC)
    reader.now_s = AGAIN_S - 1
    for number in range(100):
        assert await reader.kids(f"made-up-{number}") == ["k1"]
    assert reads(reader.kube) == 1
    reader.now_s = AGAIN_S
    assert await reader.kids("k2") == ["k1", "k2"]
    assert await reader.kids("made-up") == ["k1", "k2"]
    assert reads(reader.kube) == 2


async def test_keys_outlive_an_apiserver_that_is_away() -> None:
    reader = Reader()
    await reader.kids()
    away: Any = Unavailable("connection lost")
    reader.kube.fail = lambda verb, name: away if name == JWKS else None
    reader.now_s = 2 * FRESH_S
    assert await reader.kids("k2") == ["k1"]


@pytest.mark.parametrize(
    "public",
    [
        {DISCOVERY: {}, JWKS: {"keys": [RSA]}},
        {DISCOVERY: {"issuer": "https://here"}, JWKS: {"keys": [RSA | {"n": 7}]}},
    ],
)
async def test_what_is_no_issuer_is_said(setup: Setup, public: dict[str, Manifest]) -> None:
    setup.kube.public = public
    answer = await setup.http.get(KEYS)
    assert answer.status_code == 503
    assert "are not what they should be" in answer.json()["message"]
