"""Tokens of pods by the clock: how long they count, and what wrong ones may cost."""

from pathlib import Path
from typing import Any

import jwt
import pytest

from lockstep_api.identity import KeySet, PublicKey, PublishedKeys
from lockstep_api.names import Role
from lockstep_api.settings import JobSettings
from lockstep_workers.cloud.pod_tokens import LEEWAY_S, OF_ALL, OF_ONE, PodTokens
from lockstep_workers.cloud.signing_keys import SigningKeys
from lockstep_workers.credentials import shown
from lockstep_workers.errors import NotYou
from tests.support.tokens import ISSUER, NOW_S, Signer, claims_of, ec_key, rsa_key
from tests.wire.jobs import settings

SIGNER = Signer()
LIFE_S = 600


class Setup:
    """Tokens of devices, checked at the test's time."""

    def __init__(self, job: JobSettings) -> None:
        self.job, self.now_s = job, float(NOW_S)
        self.keys = SigningKeys()
        self.keys.know(SIGNER.published())
        self.checked = PodTokens(
            job, Role.DEVICE, keys=self.keys, now=self._now, clock=lambda: self.now_s
        )

    def _now(self) -> float:
        return self.now_s

    def token(self, client: str = "d-0", signer: Signer = SIGNER, **changes: Any) -> str:
        return signer.token(claims_of(self.job, client, now_s=NOW_S, **changes))

    def status(self, token: str, client: str = "d-0", source: str = "10.0.0.1") -> int:
        """What a request with this token is answered; 200: it is let in."""
        headers = [(b"authorization", b"Bearer " + token.encode())]
        try:
            self.checked.verify({"headers": headers, "client": (source, 1)}, client=client)
        except NotYou as no:
            return no.status
        return 200


@pytest.fixture
def setup() -> Setup:
    return Setup(settings(cloud_port=1, planner_port=2, replicas=100))


@pytest.mark.parametrize(
    ("after_s", "status"),
    [
        (-LEEWAY_S - 1, 401),
        (-LEEWAY_S, 200),
        (0, 200),
        (LIFE_S + LEEWAY_S - 1, 200),
        (LIFE_S + LEEWAY_S, 401),
    ],
)
def test_a_token_counts_for_its_time_and_what_clocks_differ(
    setup: Setup, after_s: float, status: int
) -> None:
    setup.now_s = NOW_S + after_s
    assert setup.status(setup.token()) == status


@pytest.mark.parametrize("audience", [["x", "lockstep-job/u1"], "lockstep-job/u1"])
def test_an_audience_is_one_of_several_or_the_only_one(setup: Setup, audience: Any) -> None:
    assert setup.status(setup.token(aud=audience)) == 200
    assert setup.status(setup.token(aud=["lockstep-job/u1/x", "lockstep-job/"])) == 401


def test_of_two_pods_that_claim_a_client_the_later_one_counts(setup: Setup) -> None:
    old, new = (setup.token(uid=uid, issued_s=NOW_S + s) for uid, s in (("a", 0), ("b", 9)))
    assert [setup.status(one) for one in (old, new, old, new)] == [200, 200, 403, 200]
    same = setup.token(uid="c", issued_s=NOW_S + 9)
    assert setup.status(same) == 403, "two pods of one name are never there within a second"


def test_an_older_token_of_the_same_pod_is_as_good(setup: Setup) -> None:
    tokens = [setup.token(issued_s=NOW_S + s) for s in (9, 0, 9)]
    assert [setup.status(one) for one in tokens] == [200] * 3
    before = setup.token(uid="before", issued_s=NOW_S + 5)
    assert setup.status(before) == 403


def test_a_clock_that_is_set_back_keeps_no_new_pod_out(setup: Setup) -> None:
    """What the clock said while it ran ahead makes no pod newer than those that come now."""
    setup.now_s = NOW_S + 3600
    ahead = setup.token(uid="before", issued_s=NOW_S + 3600)
    assert setup.status(ahead) == 200
    setup.now_s = NOW_S
    new, newer = (setup.token(uid=uid, issued_s=NOW_S + s) for uid, s in (("a", -9), ("b", 0)))
    assert [setup.status(one) for one in (new, newer, new)] == [200, 200, 403]
    assert setup.status(ahead) == 401, "it is not valid yet"


def count_checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The signatures that are looked at from now on."""
    looked: list[str] = []
    decode = jwt.PyJWS.decode

    def counted(self: Any, token: bytes, *given: Any, **named: Any) -> Any:
        looked.append(token.decode())
        return decode(self, token, *given, **named)

    monkeypatch.setattr(jwt.PyJWS, "decode", counted)
    return looked


def forged(setup: Setup, number: int) -> str:
    """All right but for its signature, and unlike all others."""
    return setup.token(signer=Signer(key=rsa_key("other")), jti=str(number))


def test_wrong_signatures_cost_so_many_checks_and_no_more(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, wrong = count_checks(monkeypatch), forged(setup, 0)
    told = [setup.status(wrong) for _ in range(1000)]
    assert told.count(401) == len(looked) == OF_ONE.burst
    assert set(told) == {401, 429}
    for number in range(100):
        for _ in range(40):
            setup.status(wrong, source=f"10.0.1.{number}")
    most = OF_ONE.burst + OF_ALL.burst + 100  # the first of each source is looked at
    assert len(looked) <= most


def test_a_flood_of_wrong_signatures_turns_no_device_away(setup: Setup) -> None:
    wrong = forged(setup, 0)
    for number in range(100):
        for _ in range(40):
            setup.status(wrong, source=f"10.0.1.{number}")
    for number in range(50):
        client = f"d-{number}"
        assert setup.status(setup.token(client), client, "10.0.0.9") == 200, "all from one address"


def test_wrong_ones_of_the_own_address_turn_no_pod_away_that_was_here_before(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a node's NAT; who only says that he is this pod costs so many checks, too."""
    assert setup.status(setup.token(issued_s=NOW_S - 60)) == 200
    wrong, other = forged(setup, 0), setup.token(uid="other", signer=Signer(key=rsa_key("other")))
    while setup.status(other) != 429:
        pass
    assert setup.status(setup.token()) == 200
    looked = count_checks(monkeypatch)
    told = [setup.status(wrong) for _ in range(1000)]
    assert told.count(401) == len(looked) == OF_ONE.burst


def test_who_has_shown_wrong_ones_may_come_again_later(setup: Setup) -> None:
    wrong = forged(setup, 0)
    while setup.status(wrong) != 429:
        pass
    assert setup.status(setup.token()) == 429
    setup.now_s += 2 / OF_ONE.per_s
    assert setup.status(setup.token()) == 200


def test_nothing_is_checked_that_its_claims_refuse(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = count_checks(monkeypatch)
    for token in (setup.token("d-1"), setup.token(iss="x"), setup.token(aud=["x"]), "x.y.z", "x"):
        assert setup.status(token) in {401, 403}
    assert looked == []


# -- keys ------------------------------------------------------------------------------------------


def test_only_keys_that_sign_tokens_are_known() -> None:
    """Whatever the planner tells: neither a secret, nor a key that is for something else."""
    rsa, curve = SIGNER.public(), Signer("curve", ec_key("first")).public()
    odd = [
        rsa.model_copy(update={"kid": "hs", "kty": "oct", "alg": "HS256"}),
        rsa.model_copy(update={"kid": "enc", "use": "enc"}),
        rsa.model_copy(update={"kid": "pss", "alg": "PS256"}),
        rsa.model_copy(update={"kid": "none", "alg": "none"}),
        PublicKey(kty="RSA", kid="empty"),
        curve.model_copy(update={"kid": "off", "y": curve.x}),
    ]
    keys = SigningKeys()
    keys.know(PublishedKeys(issuer=ISSUER, jwks=KeySet(keys=(*odd, rsa, curve))))
    assert sorted(keys._keys) == ["curve", "first"]


def test_keys_that_are_none_do_not_replace_those_that_are_known() -> None:
    keys = SigningKeys()
    keys.know(SIGNER.published())
    keys.know(PublishedKeys(issuer="https://other", jwks=KeySet(keys=())))
    assert keys.of("first") is not None
    assert keys.issuer == ISSUER


def test_a_pod_without_a_token_shows_none(tmp_path: Path) -> None:
    assert shown(None) == shown(tmp_path / "token") == {}
    (tmp_path / "token").write_text("abc\n")
    assert shown(tmp_path / "token") == {"authorization": "Bearer abc"}
