"""One pod opens so many sessions one after another, and the next when a while has passed."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lockstep_api import names
from lockstep_api.sessions import Registration
from lockstep_serving.pace import Bucket, Rate
from lockstep_workers.cloud.signing_keys import SigningKeys
from lockstep_workers.device.session import FIRST_BACKOFF_S, MAX_BACKOFF_S
from lockstep_workers.hosting import opening
from lockstep_workers.hosting.opening import PACE
from tests.support.patience import PATIENCE_S
from tests.support.tokens import Signer, claims_of, rsa_key
from tests.wire.cloud import Cloud, cloud
from tests.wire.jobs import FakePlanner

SIGNER = Signer()
FEW = 3


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A permit that was used does not come back while the test runs."""
    monkeypatch.setattr(opening, "PACE", Rate(burst=FEW, per_s=0))


@asynccontextmanager
async def server(folder: Path, *, guarded: bool) -> AsyncIterator[Cloud]:
    """A cloud pod, which knows the apiserver's key if pods have to prove who they are."""
    keys = SigningKeys() if guarded else None
    if keys is not None:
        keys.know(SIGNER.published())
    async with cloud(folder, FakePlanner(), keys=keys) as made:
        yield made


async def opened(
    at: Cloud, client: str, *, uid: str = "", age_s: float = 0, signer: Signer = SIGNER
) -> bytes:
    """Opens a session and drops it at once; the head of the answer."""
    claims = claims_of(at.job, client, now_s=time.time() - age_s, uid=uid or f"of-{client}")
    body = Registration(client=client, incarnation="1", examples=10).to_json().encode()
    head = (
        f"POST {names.SESSION_ROUTE.format(client=client)} HTTP/1.1\r\nhost: x\r\n"
        f"{names.PROTOCOL_HEADER}: {names.PROTOCOL}\r\ncontent-length: {len(body)}\r\n"
        f"authorization: Bearer {signer.token(claims)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", int(at.url.rpartition(":")[2]))
    writer.write(head.encode() + body)
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
    writer.close()
    return answer


@pytest.mark.parametrize("guarded", [True, False])
async def test_who_opens_one_session_after_another_is_told_to_come_later(
    tmp_path: Path, guarded: bool
) -> None:
    """Its client's session stays as it is; nobody else waits for it."""
    async with server(tmp_path, guarded=guarded) as at:
        for _ in range(FEW):
            assert b" 200 " in await opened(at, "d-0")
        for _ in range(FEW):
            answer = await opened(at, "d-0")
            assert b" 429 " in answer
            assert b"\r\nretry-after: 5\r\n" in answer
        assert b" 200 " in await opened(at, "d-1")


async def test_the_next_pod_of_a_client_does_not_wait_for_the_one_before(tmp_path: Path) -> None:
    async with server(tmp_path, guarded=True) as at:
        for _ in range(FEW):
            assert b" 200 " in await opened(at, "d-0", age_s=100)
        assert b" 429 " in await opened(at, "d-0", age_s=100)
        assert b" 200 " in await opened(at, "d-0", uid="next")
        assert b" 403 " in await opened(at, "d-0", age_s=100)


async def test_wrong_tokens_use_up_nobodys_sessions(tmp_path: Path) -> None:
    async with server(tmp_path, guarded=True) as at:
        for _ in range(2 * FEW):
            assert b" 401 " in await opened(at, "d-0", signer=Signer(key=rsa_key("other")))
        assert b" 200 " in await opened(at, "d-0")


@pytest.mark.parametrize("every_s", [1.0, 2.5])
def test_a_device_that_is_killed_again_and_again_never_waits(every_s: float) -> None:
    """It comes at once in each of its lives; the pace is that of the module, not of these tests."""
    bucket = Bucket(PACE)
    lives = (life * every_s for life in range(1000))
    assert all(bucket.take(at_s) for at_s in lives)


def test_nor_does_one_whose_sessions_end_at_once() -> None:
    """As the keeper of its session comes again, with the shortest waits that it draws."""
    bucket, at_s, backoff_s = Bucket(PACE), 0.0, FIRST_BACKOFF_S
    for _ in range(1000):
        assert bucket.take(at_s)
        at_s, backoff_s = at_s + 0.5 * backoff_s, min(MAX_BACKOFF_S, 2 * backoff_s)
