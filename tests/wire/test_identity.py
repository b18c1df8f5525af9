"""Who opens a session proves which pod it is: no token counts but that of the client's own pod."""

import asyncio
import http.client
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog

from lockstep_api import names
from lockstep_api.names import Role
from lockstep_api.sessions import ClientFailure, Registration
from lockstep_api.settings import JobSettings
from lockstep_api.tiers import EdgeRegistration
from lockstep_workers.cloud.signing_keys import SigningKeys
from lockstep_workers.device import connection as device
from lockstep_workers.device.failing import tell
from lockstep_workers.device.session import SessionKeeper
from lockstep_workers.edge.members import Members
from lockstep_workers.edge.metrics import EdgeMetrics
from lockstep_workers.edge.running import Running
from lockstep_workers.edge.upward import Upward, http_client
from lockstep_workers.errors import NotAdmitted
from lockstep_workers.planner_client import PlannerClient
from tests.support.patience import PATIENCE_S
from tests.support.tokens import (
    Signer,
    claims_of,
    ec_key,
    rsa_key,
    signed_with_what_is_public,
    unsigned,
)
from tests.wire.cloud import Cloud, Device, cloud
from tests.wire.jobs import FakePlanner

SIGNER = Signer()
Token = Callable[[JobSettings], str]


def claims(job: JobSettings, client: str = "d-0", **changes: Any) -> dict[str, Any]:
    """What a client's token says now."""
    return claims_of(job, client, now_s=time.time(), **changes)


def good(job: JobSettings, client: str = "d-0", **changes: Any) -> str:
    """A token as it should be, but for the changes."""
    return SIGNER.token(claims(job, client, **changes))


@asynccontextmanager
async def guarded(folder: Path, planner: FakePlanner, **more: Any) -> AsyncIterator[Cloud]:
    """A cloud pod that knows the apiserver's key."""
    keys = SigningKeys()
    keys.know(SIGNER.published())
    async with cloud(folder, planner, keys=keys, **more) as server:
        yield server


def account(name: str) -> dict[str, Any]:
    return {"serviceaccount": {"name": name, "uid": "x"}}


def pod(name: str) -> dict[str, Any]:
    return {"pod": {"name": name, "uid": "x"}}


WRONG: dict[str, tuple[int, Token]] = {
    "none": (401, lambda _job: ""),
    "another client's": (403, lambda job: good(job, "d-1")),
    "another job's": (401, lambda job: good(job, aud=[names.job_audience("u2")])),
    "for the planner": (401, lambda job: good(job, aud=[names.PLANNER_AUDIENCE])),
    "for the apiserver": (401, lambda job: good(job, aud=["https://kubernetes.default.svc"])),
    "another namespace's": (403, lambda job: good(job, namespace="other")),
    "another account's": (403, lambda job: good(job, **account("job-cloud"))),
    "the cloud pod's": (403, lambda job: good(job, **account("job-cloud"), **pod("job-cloud-0"))),
    "a trainer's": (
        403, lambda job: good(job, **account("job-trainer"), **pod("job-trainer-20-abcde")),
    ),
    "an edge's": (403, lambda job: good(job, role=Role.EDGE)),
    "of no pod": (401, lambda job: SIGNER.token(without_pod(claims(job)))),
    "expired": (401, lambda job: good(job, issued_s=time.time() - 700)),
    "not valid yet": (401, lambda job: good(job, issued_s=time.time() + 300)),
    "that never expires": (401, lambda job: SIGNER.token(without(claims(job), "exp"))),
    "absurd times": (401, lambda job: good(job, exp=1e308)),
    "another issuer's": (401, lambda job: good(job, iss="https://evil.example")),
    "alg none": (401, lambda job: unsigned(claims(job))),
    "HS256 with the public key": (
        401, lambda job: signed_with_what_is_public(SIGNER, claims(job)),
    ),
    "unknown key": (401, lambda job: Signer("other").token(claims(job))),
    "signed by a stranger": (401, lambda job: Signer(key=rsa_key("other")).token(claims(job))),
    "a stranger's curve": (401, lambda job: Signer(key=ec_key("other")).token(claims(job))),
    "changed": (401, lambda job: changed(good(job, "d-1"), claims(job))),
    "cut": (401, lambda job: good(job)[:-9]),
    "garbage": (401, lambda _job: "x.y.z"),
    "not ASCII": (401, lambda _job: "k\xe9y.k\xe9y.k\xe9y"),
    "deep": (401, lambda job: f"{'W1tb' * 1000}.{good(job).partition('.')[2]}"),
    "9 kB": (401, lambda job: good(job, more="x" * 6800)),
}  # fmt: skip


def without(claims: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in claims.items() if key != name}


def without_pod(claims: dict[str, Any]) -> dict[str, Any]:
    return {**claims, "kubernetes.io": without(claims["kubernetes.io"], "pod")}


def changed(token: str, claims: dict[str, Any]) -> str:
    """Another's token with these claims in it."""
    head, _, signature = token.split(".")
    return f"{head}.{SIGNER.token(claims).split('.')[1]}.{signature}"


def state(server: Cloud) -> tuple[Any, ...]:
    """All that a request could change."""
    told = server.metrics.registry.collect()
    counted = [
        (one.name, one.labels, one.value)
        for each in told
        for one in each.samples
        if "session" in one.name or "refused" in one.name
    ]
    return list(server.reception.sessions), server.reception.troubles.given_up(), counted


async def head_alone(server: Cloud, path: str, token: str) -> tuple[int, bytes]:
    """Sends the head of a request whose body never comes; its answer."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    shown = b"authorization: Bearer " + token.encode("latin-1") + b"\r\n" if token else b""
    speaks = f"{names.PROTOCOL_HEADER}: {names.PROTOCOL}\r\ncontent-length: 1000\r\n".encode()
    writer.write(f"POST {path} HTTP/1.1\r\nhost: x\r\n".encode() + speaks + shown + b"\r\n")
    answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    return int(answer.split(b" ")[1]), answer


@pytest.mark.parametrize("route", [names.SESSION_ROUTE, names.FAILURE_ROUTE])
async def test_no_other_token_opens_a_session_or_tells_a_failure(
    tmp_path: Path, route: str
) -> None:
    """It is refused before its body has come, repeated to nobody, and counts against nobody."""
    async with guarded(tmp_path, FakePlanner()) as server:
        before = state(server)
        with structlog.testing.capture_logs() as logs:
            for what, (status, make) in WRONG.items():
                token = make(server.job)
                got, answer = await head_alone(server, route.format(client="d-0"), token)
                assert got == status, (what, answer)
                assert len(answer) < 700, what
                assert not token or token.encode("latin-1")[-20:] not in answer, what
        assert state(server) == before
        assert len(logs) <= 2, "a line for each status"
        each = Device(server, "d-0", token=good(server.job))
        await each.open()
        assert list(server.reception.sessions) == ["d-0"]
        each.close()


async def test_a_job_whose_devices_prove_who_they_are_trains(tmp_path: Path) -> None:
    async with guarded(tmp_path, FakePlanner(rounds=1)) as server:
        made = [Device(server, f"d-{i}", token=good(server.job, f"d-{i}")) for i in range(3)]
        for each in made:
            await each.open()
        for each in made:
            assert await asyncio.wait_for(each.work(), PATIENCE_S) is not None
            assert (await each.send())[0] == 200
        outcome = await asyncio.wait_for(asyncio.shield(server.planner.outcome), PATIENCE_S)
        assert outcome.result == "RoundsCompleted"
        for each in made:
            each.close()


async def test_a_key_on_a_curve_is_as_good(tmp_path: Path) -> None:
    keys, signer = SigningKeys(), Signer(key=ec_key("first"))
    keys.know(signer.published())
    async with cloud(tmp_path, FakePlanner(), keys=keys) as server:
        each = Device(server, "d-0", token=signer.token(claims(server.job)))
        await each.open()
        each.close()


# -- one client, several pods ----------------------------------------------------------------------


async def test_a_new_pod_of_a_client_takes_over_at_once_and_the_old_one_stays_out(
    tmp_path: Path,
) -> None:
    """The old one's connection is alive, and its token valid for minutes."""
    async with guarded(tmp_path, FakePlanner()) as server:
        now_s = time.time()
        old, new = (
            Device(server, "d-0", token=good(server.job, uid=uid, issued_s=issued_s))
            for uid, issued_s in (("old", now_s - 300), ("new", now_s))
        )
        await old.open()
        await new.open()
        end = await asyncio.to_thread(device.session_end, old.session)
        assert end == {"replaced": "d-0"}
        assert server.reception.sessions["d-0"].key == new.key
        for key in ("", old.key):
            with pytest.raises(NotAdmitted, match="another pod is d-0 now"):
                await old.open(key=key)
        assert server.reception.sessions["d-0"].key == new.key
        for each in (old, new):
            each.close()


async def test_a_pod_that_comes_after_its_successor_stays_out(tmp_path: Path) -> None:
    """A cloud pod that has just started has never seen it."""
    async with guarded(tmp_path, FakePlanner()) as server:
        now_s = time.time()
        new = Device(server, "d-0", token=good(server.job, uid="new", issued_s=now_s))
        old = Device(server, "d-0", token=good(server.job, uid="old", issued_s=now_s - 300))
        await new.open()
        with pytest.raises(NotAdmitted, match="another pod is d-0 now"):
            await old.open()
        assert server.reception.sessions["d-0"].key == new.key
        for each in (old, new):
            each.close()


async def test_a_pod_whose_successor_comes_while_it_says_who_it_is_stays_out(
    tmp_path: Path,
) -> None:
    async with guarded(tmp_path, FakePlanner()) as server:
        now_s, path = time.time(), names.SESSION_ROUTE.format(client="d-0")
        token = good(server.job, uid="old", issued_s=now_s - 300)
        host, _, port = server.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = Registration(client="d-0", incarnation="1", examples=1).to_json().encode()
        writer.write(
            f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
            f"{names.PROTOCOL_HEADER}: {names.PROTOCOL}\r\nexpect: 100-continue\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
        )
        assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")  # so it was let in
        new = Device(server, "d-0", token=good(server.job, uid="new", issued_s=now_s))
        await new.open()
        writer.write(body)
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert server.reception.sessions["d-0"].key == new.key
        writer.close()
        new.close()


async def test_a_container_that_restarts_is_in_at_once(tmp_path: Path) -> None:
    """The same pod with the same token: it does not wait for the end of its old connection."""
    async with guarded(tmp_path, FakePlanner()) as server:
        token = good(server.job)
        first, second = (Device(server, "d-0", token=token) for _ in range(2))
        await first.open()
        await second.open()
        assert server.reception.sessions["d-0"].key == second.key
        for each in (first, second):
            each.close()


# -- keys ------------------------------------------------------------------------------------------


@asynccontextmanager
async def with_planner(
    folder: Path, planner: FakePlanner, *, pause_s: float
) -> AsyncIterator[tuple[Cloud, SigningKeys]]:
    """A cloud pod that asks its planner for keys."""
    keys = SigningKeys(pause_s=pause_s)
    async with cloud(folder, planner, keys=keys) as server, httpx2.AsyncClient() as http_client:
        asked = PlannerClient(server.job, folder / "token", client=http_client)
        keeping = asyncio.ensure_future(keys.keep(asked.keys))
        try:
            yield server, keys
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)


async def opened(each: Device) -> str:
    """Tries until it is in; why it was not at first."""
    why = ""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await each.open()
            except http.client.HTTPException as error:
                why = why or str(error)
                await asyncio.sleep(0.02)
            else:
                return why


async def test_nobody_is_let_in_before_the_keys_are_there(tmp_path: Path) -> None:
    planner = FakePlanner()
    async with with_planner(tmp_path, planner, pause_s=0) as (server, _):
        each = Device(server, "d-0", token=good(server.job))
        with pytest.raises(http.client.HTTPException, match=r"503: the keys .* come again"):
            await each.open()
        planner.published = SIGNER.published()
        await opened(each)
        each.close()


async def test_a_planner_that_is_away_keeps_nobody_out(tmp_path: Path) -> None:
    """Neither do its keys get lost while it fails."""
    planner = FakePlanner(published=SIGNER.published())
    async with with_planner(tmp_path, planner, pause_s=0) as (server, _):
        first, second = (
            Device(server, f"d-{i}", token=good(server.job, f"d-{i}")) for i in range(2)
        )
        await opened(first)
        planner.published = None
        stranger = Device(server, "d-2", token=Signer("x").token(claims(server.job, "d-2")))
        with pytest.raises(http.client.HTTPException, match=r"401: .* come again"):
            await stranger.open()
        async with asyncio.timeout(PATIENCE_S):
            while "x" not in planner.missed:  # noqa: ASYNC110 - a refused call gives no event
                await asyncio.sleep(0.01)
        await second.open()
        for each in (first, second, stranger):
            each.close()


async def test_keys_that_change_are_fetched_when_they_are_missed(tmp_path: Path) -> None:
    planner = FakePlanner(published=SIGNER.published())
    async with with_planner(tmp_path, planner, pause_s=0) as (server, _):
        first = Device(server, "d-0", token=good(server.job))
        await opened(first)
        fresh = Signer("second", rsa_key("second"))
        planner.published = fresh.published(SIGNER)
        second = Device(server, "d-1", token=fresh.token(claims(server.job, "d-1")))
        assert "401: the token is signed with a key that is not known here" in await opened(second)
        assert planner.missed[1:] == ["second"]
        planner.published = fresh.published()
        for each in (first, second):
            each.close()


async def test_made_up_keys_cost_one_fetch_in_a_while(tmp_path: Path) -> None:
    planner = FakePlanner(published=SIGNER.published())
    async with with_planner(tmp_path, planner, pause_s=3600) as (server, keys):
        first = Device(server, "d-0", token=good(server.job))
        await opened(first)
        path = names.SESSION_ROUTE.format(client="d-1")
        for number in range(30):
            token = Signer(f"made-up-{number}").token(claims(server.job, "d-1"))
            assert (await head_alone(server, path, token))[0] == 401
        assert planner.missed == [""]
        assert len(keys._keys) == 1
        first.close()


# -- devices' own code -----------------------------------------------------------------------------


async def test_a_device_reads_its_token_anew_for_every_try(tmp_path: Path) -> None:
    """A token that has run out ends nothing: the kubelet brings another one."""
    async with guarded(tmp_path, FakePlanner()) as server:
        file = tmp_path / "of-d-0"
        file.write_text(good(server.job, issued_s=time.time() - 3600))
        known = Registration(client="d-0", incarnation="1", examples=1)
        keeper = SessionKeeper(server.url, known, token_file=file)
        with structlog.testing.capture_logs() as logs:
            keeper.start()
            async with asyncio.timeout(PATIENCE_S):
                while not any(  # noqa: ASYNC110 - a thread's log gives no event
                    "has expired" in str(line.get("why")) for line in logs
                ):
                    await asyncio.sleep(0.01)
            assert not keeper.is_open()
            file.write_text(good(server.job) + "\n")
            await asyncio.wait_for(asyncio.to_thread(keeper.wait_open), PATIENCE_S)
        server.reception.end("over")


async def test_a_device_that_is_another_pod_ends_in_words(tmp_path: Path) -> None:
    async with guarded(tmp_path, FakePlanner()) as server:
        file = tmp_path / "of-d-1"
        file.write_text(good(server.job, "d-1"))
        known = Registration(client="d-0", incarnation="1", examples=1)
        keeper = SessionKeeper(server.url, known, token_file=file)
        keeper.start()
        words = "the cloud pod refuses the session: the token is not that of pod job-device-d-0"
        with pytest.raises(NotAdmitted, match=words):
            await asyncio.wait_for(asyncio.to_thread(keeper.wait_open), PATIENCE_S)


async def test_a_device_that_cannot_begin_says_so_with_its_token(tmp_path: Path) -> None:
    """It has no session; who has no token could make the job do without any device."""
    async with guarded(tmp_path, FakePlanner()) as server:
        failure = ClientFailure(client="d-0", incarnation="1", round=0, message="no data")
        file = tmp_path / "token"
        file.write_text(good(server.job))
        assert await asyncio.to_thread(tell, server.url, failure, token_file=file)
        assert server.reception.troubles.told == {"d-0": ["no data"]}
        file.write_text(good(server.job, "d-1"))
        with pytest.raises(NotAdmitted, match="the token is not that of pod job-device-d-0"):
            await asyncio.to_thread(tell, server.url, failure, token_file=file)
        assert server.reception.troubles.told == {"d-0": ["no data"]}


async def test_a_failure_with_a_key_that_is_no_sessions_is_not_read(tmp_path: Path) -> None:
    async with guarded(tmp_path, FakePlanner()) as server, httpx2.AsyncClient() as http_client:
        url = server.url + names.FAILURE_ROUTE.format(client="d-0")
        shown = {names.SESSION_HEADER: "x" * 43}
        answer = await http_client.post(url, content=b"no JSON", headers=shown)
        assert answer.status_code == 409


# -- edges -----------------------------------------------------------------------------------------

EDGES = {"e-0": "http://127.0.0.1:1", "e-1": "http://127.0.0.1:2"}


def of_edge(job: JobSettings, edge: str = "e-0", **changes: Any) -> str:
    return good(job, edge, role=Role.EDGE, **changes)


async def test_an_edge_is_known_by_its_pod_as_devices_are(tmp_path: Path) -> None:
    """And no device's token makes an edge, nor the other way round."""
    wrong: dict[str, tuple[int, Token]] = {
        "none": (401, lambda _job: ""),
        "another edge's": (403, lambda job: of_edge(job, "e-1")),
        "a device's": (403, lambda job: good(job, "d-0")),
        "a device's that is named so": (403, lambda job: good(job, "e-0")),
        "another job's": (401, lambda job: of_edge(job, aud=[names.job_audience("u2")])),
        "expired": (401, lambda job: of_edge(job, issued_s=time.time() - 700)),
    }
    path = names.EDGE_SESSION_ROUTE.format(edge="e-0")
    async with guarded(tmp_path, FakePlanner(), edge_urls=EDGES) as server:
        assert server.rounds.tiers is not None
        for what, (status, make) in wrong.items():
            got, answer = await head_alone(server, path, make(server.job))
            assert got == status, (what, answer)
        assert server.rounds.tiers.registrations() == []
        got, _ = await head_alone(
            server, names.SESSION_ROUTE.format(client="d-0"), of_edge(server.job)
        )
        assert got == 403


async def test_a_new_pod_of_an_edge_takes_over_and_the_old_one_ends(tmp_path: Path) -> None:
    async with (
        guarded(tmp_path, FakePlanner(), edge_urls=EDGES) as server,
        http_client() as http,
    ):
        now_s, tiers = time.time(), server.rounds.tiers
        assert tiers is not None
        old, new = (
            of_edge(server.job, uid=uid, issued_s=issued_s)
            for uid, issued_s in (("old", now_s - 300), ("new", now_s))
        )
        first = keeping(server, http, file=with_token(tmp_path / "old", old), life="1")
        await is_there(server, "1")
        second = keeping(server, http, file=with_token(tmp_path / "new", new), life="2")
        await is_there(server, "2")
        with pytest.raises(NotAdmitted, match="another pod is e-0 now"):
            await asyncio.wait_for(first, PATIENCE_S)
        assert [one.incarnation for one in tiers.registrations()] == ["2"]
        tiers.end("over")
        await asyncio.wait_for(second, PATIENCE_S)


def with_token(file: Path, token: str) -> Path:
    file.write_text(token)
    return file


def keeping(
    server: Cloud, http: httpx2.AsyncClient, *, file: Path, life: str
) -> "asyncio.Future[None]":
    """An edge's own code holds its session; it has no order."""
    known = EdgeRegistration(edge="e-0", incarnation=life)
    upward = Upward(server.url, known, client=http, token_file=file)
    members = Members()
    running = Running("e-0", _never, members=members, metrics=EdgeMetrics("job", "e-0"))
    return asyncio.ensure_future(upward.keep(running, dropped=lambda: None))


def _never(*_order: Any) -> Any:
    raise AssertionError("it gets no order")


async def is_there(server: Cloud, life: str) -> None:
    """Waits until an edge has its session in this life."""
    tiers = server.rounds.tiers
    assert tiers is not None
    async with asyncio.timeout(PATIENCE_S):
        while [one.incarnation for one in tiers.registrations()] != [life]:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)
