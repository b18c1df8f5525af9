"""Strangers at the cloud pod's routes for edges, and at an edge's routes for devices."""

import asyncio
import http.client
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from lockstep_api import names
from lockstep_api.orders import ClusterResult, EdgeWork
from lockstep_api.sessions import ClientFailure, key_at_edge
from lockstep_api.tiers import ClusterReport, EdgeRegistration
from lockstep_api.wire import ClientReport
from lockstep_workers.cloud.tiers import Tiers
from lockstep_workers.parcels import unwrap, wrap
from tests.support.patience import PATIENCE_S
from tests.wire.cloud import Cloud, cloud, report
from tests.wire.jobs import FakePlanner
from tests.wire.tiers import Guest, Scene, guests, tiers

EDGES = {"e-0": "http://127.0.0.1:1", "e-1": "http://127.0.0.1:2"}


class Bare:
    """An edge made by hand: its session and whatever it asks for."""

    def __init__(self, server: Cloud, http: httpx2.AsyncClient, *, name: str) -> None:
        """Not connected."""
        self.server, self.http, self.name = server, http, name
        self.key = ""

    @asynccontextmanager
    async def session(self) -> AsyncIterator["Bare"]:
        """Its session is open."""
        registration = EdgeRegistration(edge=self.name, incarnation="1")
        async with self.http.stream(
            "POST",
            self.server.url + names.EDGE_SESSION_ROUTE.format(edge=self.name),
            content=registration.to_json(),
            headers={names.PROTOCOL_HEADER: names.PROTOCOL},
        ) as response:
            assert response.status_code == 200
            lines = response.aiter_lines()  # the session ends with it
            self.key = json.loads(await anext(lines))["key"]
            yield self

    async def work(self, *, key: str | None = None, after: int = 0) -> httpx2.Response:
        """An answer of its long-poll."""
        path = names.EDGE_WORK_ROUTE.format(edge=self.name)
        return await self.http.get(
            self.server.url + path, params={"after": str(after)}, headers=self.shown(key)
        )

    async def order(self) -> EdgeWork:
        """Its first order."""
        answer = await asyncio.wait_for(self.work(), PATIENCE_S)
        assert answer.status_code == 200
        work = EdgeWork.model_validate_json(unwrap(answer.content, text=1 << 20).text)
        assert work.order is not None
        return work

    async def send(
        self,
        result: ClusterResult,
        *,
        tensors: dict[str, Any] | None = None,
        body: bytes | None = None,
        key: str | None = None,
        **path: Any,
    ) -> tuple[int, str]:
        """Sends a result; status and reason."""
        fields = {"round": 1, "cluster": "c0", "edge": self.name, "turn": result.turn} | path
        turn = fields.pop("turn")
        sums = {"sums": np.ones((1, self.server.n_values), np.float32)}
        pieces = wrap(result.to_json(), sums if tensors is None else tensors)
        content = b"".join(map(bytes, pieces)) if body is None else body
        answer = await self.http.put(
            self.server.url + names.CLUSTER_RESULT_ROUTE.format(**fields) + f"?turn={turn}",
            content=content,
            headers=self.shown(key) | {"content-type": names.TENSORS},
        )
        return answer.status_code, str(answer.json().get("reason", ""))

    def shown(self, key: str | None) -> dict[str, str]:
        """The header with its key, or another one; empty: none."""
        shown = self.key if key is None else key
        return {names.SESSION_HEADER: shown} if shown else {}


def result(turn: int, clients: tuple[str, ...] = ("d-0", "d-2"), **more: Any) -> ClusterResult:
    """A result of cluster c0 that is in order, but for what `more` says."""
    told = [
        ClientReport(update=report(c, 1), arrived_seconds=0, upload_seconds=0, bytes=1)
        for c in clients
    ]
    cluster = ClusterReport(
        cluster="c0", edge="e-0", clients=len(told), examples=10 * len(told), seconds=0.0
    )
    return ClusterResult(**({"report": cluster, "round": 1, "turn": turn, "clients": told} | more))


@asynccontextmanager
async def a_round(folder: Path) -> AsyncIterator[tuple[Bare, Bare, int]]:
    """Round 1 is open: e-0 has cluster c0 (d-0, d-2), e-1 has c1 (d-1); the turn of c0's order."""
    async with (
        cloud(folder, FakePlanner(rounds=1), edge_urls=EDGES) as server,
        httpx2.AsyncClient(timeout=PATIENCE_S) as http,
        Bare(server, http, name="e-0").session() as first,
        Bare(server, http, name="e-1").session() as second,
    ):
        scene = Scene(server, EDGES, deterministic=False)
        async with guests(scene, 3):
            work = await first.order()
            assert work.order is not None
            assert [m.client for m in work.order.members] == ["d-0", "d-2"]
            yield first, second, work.order.turn


def state(server: Cloud) -> tuple[Any, ...]:
    """What nothing may change that is not in order."""
    tiered, now = server.rounds.tiers, server.reception.round
    assert isinstance(tiered, Tiers)
    assert now is not None
    return (
        server.vectors.weight, now.waiting(), dict(now.lost), dict(now.refused),
        [one.edge for one in tiered.registrations()], server.rounds.outcome,
    )  # fmt: skip


# -- the cloud pod ---------------------------------------------------------------------------------


async def test_without_the_key_of_its_session_nobody_is_an_edge(tmp_path: Path) -> None:
    """No order, no end of a long-poll, no constants and no result; nor with another edge's key."""
    async with a_round(tmp_path) as (first, second, turn):
        before = state(first.server)
        waiting = asyncio.ensure_future(first.work(after=1))
        for key in ("", "wrong", second.key, "x" * 128):
            assert (await first.work(key=key)).status_code == 409
            assert await first.send(result(turn), key=key) == (409, "no_session")
            path = names.EDGE_CONSTANTS_ROUTE.format(edge="e-0")
            answer = await first.http.get(first.server.url + path, headers=first.shown(key))
            assert answer.status_code == 409
        assert state(first.server) == before
        assert not waiting.done()
        assert (await first.send(result(turn)))[0] == 200
        waiting.cancel()


async def test_a_session_that_is_alive_is_not_pushed_out(tmp_path: Path) -> None:
    async with a_round(tmp_path) as (first, second, turn):
        registration = EdgeRegistration(edge="e-0", incarnation="stranger").to_json()
        url = first.server.url + names.EDGE_SESSION_ROUTE.format(edge="e-0")
        headers = {names.PROTOCOL_HEADER: names.PROTOCOL}
        for key in ("", second.key):
            shown = headers | first.shown(key)
            answer = await first.http.post(url, content=registration, headers=shown)
            assert answer.status_code == 409
        assert (await first.send(result(turn)))[0] == 200, "its key is good"


@pytest.mark.parametrize(
    ("edge", "body", "headers", "status"),
    [
        ("e-9", None, {}, 404),
        ("e-1", None, {}, 404),
        ("e-0", b"{}", {}, 422),
        ("e-0", b"x" * 70_000, {}, 413),
        ("e-0", None, {names.PROTOCOL_HEADER: "3"}, 422),
    ],
)
async def test_registrations_that_are_not_in_order(
    tmp_path: Path, edge: str, body: bytes | None, headers: dict[str, str], status: int
) -> None:
    async with (
        cloud(tmp_path, FakePlanner(), edge_urls=EDGES) as server,
        httpx2.AsyncClient() as http,
    ):
        known = EdgeRegistration(edge="e-0", incarnation="1").to_json()
        answer = await http.post(
            server.url + names.EDGE_SESSION_ROUTE.format(edge=edge),
            content=known if body is None else body,
            headers={names.PROTOCOL_HEADER: names.PROTOCOL} | headers,
        )
        assert answer.status_code == status
        assert server.rounds.tiers is not None
        assert server.rounds.tiers.registrations() == []


async def test_results_that_are_not_waited_for_change_nothing(tmp_path: Path) -> None:
    async with a_round(tmp_path) as (first, second, turn):
        before = state(first.server)
        assert await first.send(result(turn), round=2) == (409, "wrong_round")
        assert await first.send(result(turn), cluster="c7") == (409, "not_in_round")
        assert await first.send(result(turn), cluster="c1") == (409, "wrong_round")
        assert await first.send(result(turn), turn=turn + 1) == (409, "wrong_round")
        assert await first.send(result(turn + 1), turn=turn) == (422, "bad_report")
        assert await second.send(result(turn)) == (409, "wrong_round")
        assert state(first.server) == before
        assert await first.send(result(turn)) == (200, "")
        assert await first.send(result(turn)) == (409, "duplicate")


async def test_results_that_are_not_in_order_change_nothing_and_a_good_one_is_taken_then(
    tmp_path: Path,
) -> None:
    async with a_round(tmp_path) as (first, _, turn):
        n, before = first.server.n_values, state(first.server)
        bad: list[tuple[dict[str, Any], int, str]] = [
            ({"body": b""}, 422, "malformed"),
            ({"body": b"\x00" * 64}, 422, "malformed"),
            ({"body": b"\xff" * (8 * n + 3_000_000)}, 413, "too_large"),
            ({"body": b"".join(map(bytes, wrap("{}", {})))}, 422, "bad_report"),
            ({"tensors": {}}, 422, "shape"),
            ({"tensors": {"more": np.ones((1, n), np.float32)}}, 422, "shape"),
            ({"tensors": {"sums": np.ones((1, n - 1), np.float32)}}, 422, "shape"),
            ({"tensors": {"sums": np.ones((1, n), np.uint16)}}, 422, "dtype"),
            ({"tensors": {"sums": np.full((1, n), np.nan, np.float32)}}, 422, "non_finite"),
        ]
        for more, status, reason in bad:
            assert await first.send(result(turn), **more) == (status, reason)
        for clients in (("d-0", "d-1"), ("d-0", "d-0")):
            assert await first.send(result(turn, clients)) == (422, "bad_report")
        assert state(first.server) == before
        assert await first.send(result(turn)) == (200, "")
        assert first.server.vectors.weight == 20


async def test_progress_counts_from_the_edge_that_has_the_cluster_only(tmp_path: Path) -> None:
    async with a_round(tmp_path) as (first, second, turn):
        tiered = first.server.rounds.tiers
        assert tiered is not None
        assert tiered._round is not None
        run = tiered._round.runs["c0"]

        async def tell(edge: Bare, key: str | None = None, **more: int) -> int:
            told = {"round": 1, "cluster": "c0", "turn": turn, "accepted": 1} | more
            url = first.server.url + names.EDGE_PROGRESS_ROUTE.format(edge=edge.name)
            answer = await first.http.post(url, json=told, headers=edge.shown(key))
            return answer.status_code

        assert await tell(first, key=second.key) == 409
        assert await tell(first, key="") == 409
        assert await tell(first, accepted=-1) == 422
        assert await tell(second) == 204
        assert await tell(first, turn=turn + 1) == 204
        assert await tell(first, round=2) == 204
        assert run.progress == 0
        assert await tell(first, accepted=99) == 204
        assert run.progress == 2, "no more than its members"


async def test_keys_of_edges_and_devices_stand_in_no_log_and_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with a_round(tmp_path) as (first, second, turn):
        keys = [first.key, second.key]
        keys += [one.key for one in first.server.reception.sessions.values()]
        await first.send(result(turn), key=second.key)
        await first.send(result(turn))
        written = all_files(tmp_path)
        said = repr(written) + capsys.readouterr().out + repr(first.server.planner.requests)
        assert len(keys) == 5
        assert [key for key in keys if key in said] == []


def all_files(folder: Path) -> list[bytes]:
    """What was written down."""
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]


# -- an edge ---------------------------------------------------------------------------------------


async def test_an_edge_opens_sessions_for_members_with_their_key_only(tmp_path: Path) -> None:
    """Not for members of another edge's cluster either, nor with another member's key."""
    async with tiers(tmp_path, FakePlanner(rounds=1)) as scene, guests(scene, 3) as made:
        tasks = [await guest.sent() for guest in made]
        assert [task.edge for task in tasks] == ["e-0", "e-1", "e-0"]
        for key in ("", "wrong", made[2].key, made[1].key):
            with pytest.raises(http.client.HTTPException, match="409: no order names d-0"):
                await made[0].enter("e-0", key=key)
        with pytest.raises(http.client.HTTPException, match="409: no order names d-1"):
            await made[1].enter("e-0")
        assert scene.edges["e-0"].reception.sessions == {}
        await asyncio.gather(*(guest.play(1.0) for guest in made))


async def test_a_stranger_changes_nothing_of_a_member_s_session_at_its_edge(
    tmp_path: Path,
) -> None:
    async with tiers(tmp_path, FakePlanner(rounds=1)) as scene, guests(scene, 3) as made:
        task = await made[0].sent()
        assert task.edge is not None
        await made[0].enter(task.edge)
        await made[0].fetch(task)
        stranger = Guest(scene, "d-0")
        with pytest.raises(http.client.HTTPException, match="409"):
            await stranger.enter(task.edge, key="")
        async with httpx2.AsyncClient() as client:
            url = scene.urls[task.edge] + names.UPDATE_ROUTE.format(client="d-0", round=1)
            for key in ("", made[0].key, made[2].key):
                headers = {names.SESSION_HEADER: key} if key else {}
                answer = await client.put(url, content=b"x", headers=headers)
                assert (answer.status_code, answer.json()["reason"]) == (409, "no_session")
                path = names.WORK_ROUTE.format(client="d-0") + "?after=0"
                polled = await client.get(scene.urls[task.edge] + path, headers=headers)
                assert polled.status_code == 409
        edge = scene.edges[task.edge]
        assert edge.reception.round is not None
        assert edge.reception.round.waiting() == ["d-0", "d-2"]
        assert (await made[0].bring(task, 1.0)).accepted


async def test_an_update_for_an_edge_is_none_for_the_cloud_pod(tmp_path: Path) -> None:
    async with tiers(tmp_path, FakePlanner(rounds=1)) as scene, guests(scene, 3) as made:
        await made[0].sent()
        status, answer = await made[0].send(1)
        assert (status, answer["reason"]) == (409, "not_in_round")
        now = scene.cloud.reception.round
        assert now is not None
        assert now.waiting() == ["d-0", "d-1", "d-2"]


async def test_what_an_edge_knows_of_its_members_makes_it_nobody_elsewhere(tmp_path: Path) -> None:
    """Neither the device at the cloud pod, where it would take its tasks and say that its code
    failed, nor at an edge to which the device goes later."""
    async with tiers(tmp_path, FakePlanner(rounds=1)) as scene, guests(scene, 3) as made:
        task = await made[0].sent()
        assert task.edge == "e-0"
        await made[0].enter("e-0")  # so that the edge has its order
        known = scene.edges["e-0"].members._keys["d-0"]
        shown = {names.SESSION_HEADER: known}
        failed = ClientFailure(client="d-0", incarnation="1", round=1, message="x").to_json()
        async with httpx2.AsyncClient(base_url=scene.cloud.url) as client:
            asked = [
                await client.get(names.WORK_ROUTE.format(client="d-0") + "?after=0", headers=shown),
                await client.get(names.CONSTANTS_ROUTE.format(client="d-0"), headers=shown),
                await client.post(
                    names.FAILURE_ROUTE.format(client="d-0"), content=failed, headers=shown
                ),
                await client.put(
                    names.UPDATE_ROUTE.format(client="d-0", round=1), content=b"x", headers=shown
                ),
            ]
        assert [answer.status_code for answer in asked] == [409] * 4
        scene.edges["e-1"].members.know({"d-0": key_at_edge(made[0].key, "e-1")})
        with pytest.raises(http.client.HTTPException, match="409: no order names d-0"):
            await made[0].enter("e-1", key=known)
        await made[0].enter("e-1")
        await made[0].enter("e-0", key=known)
        assert scene.cloud.reception.troubles.told == {}
