"""Whoever can reach the cloud pod and has no session of its own: nothing that it sends moves."""

import asyncio
import http.client
import json
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import structlog

from lockstep_api import names
from lockstep_api.sessions import Refusal, Registration
from lockstep_serving import exporting
from lockstep_workers.device import connection as device
from lockstep_workers.device.session import SessionKeeper
from lockstep_workers.errors import NoSession, NotAdmitted
from lockstep_workers.hosting.sessions import Session
from lockstep_workers.sockets import is_silent
from lockstep_workers.tensors import decode
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.wire.cloud import Cloud, Device, cloud, devices, first_task
from tests.wire.jobs import FakePlanner

NAN = float("nan")
HANDOVER_S = "lockstep_workers.hosting.sessions.HANDOVER_S"


@asynccontextmanager
async def a_job(folder: Path, planner: FakePlanner) -> AsyncIterator[tuple[Cloud, list[Device]]]:
    """Three devices that have the task of round 1."""
    async with cloud(folder, planner) as server, devices(server, 3) as made:
        await first_task(made)
        yield server, made


def state(server: Cloud) -> tuple[Any, ...]:
    """All of a round that a request could change."""
    now = server.reception.round
    assert now is not None
    return (
        now.number, now.waiting(), dict(now.accepted), dict(now.lost), dict(now.refused),
        server.vectors.weight, list(server.reception.sessions), server.rounds.outcome,
    )  # fmt: skip


async def play(made: list[Device], number: int) -> None:
    """A round in which all is well."""
    for each in made:
        status, answer = await each.send(number)
        assert status == 200, answer


KEYS: dict[str, Any] = {
    "none": lambda _made: "",
    "made up": lambda _made: "x" * 43,
    "another client's": lambda made: made[1].key,
    "cut": lambda made: made[0].key[:-1],
    "not ASCII": lambda _made: "kéy",
}
WRONG: dict[str, dict[str, Any]] = {
    "content type": {"content_type": "text/plain"},
    "report": {"text": "{}"},
    "report of another client": {"other": {"client": "d-1"}},
    "report of another round": {"other": {"round": 7}},
    "examples": {"examples": 2**40},
    "empty": {"body": bytearray()},
    "malformed": {"body": bytearray(b"\xff" * 100)},
    "values": {"value": NAN},
    "size": {"value": 0.0, "extra": 4096},
    "nothing": {"value": 1.0},
}


async def send_wrong(each: Device, number: int, change: dict[str, Any]) -> tuple[int, Any]:
    """An update with something wrong."""
    change = dict(change)
    if "value" in change:
        change["body"] = each.update(change.pop("value")) + bytes(change.pop("extra", 0))
    if "other" in change:
        told = each.report(number).model_copy(update=change.pop("other"))
        change["text"] = told.to_json()
    return await each.send(number, **change)


@pytest.mark.parametrize("key", KEYS)
async def test_an_update_without_the_sessions_key_changes_nothing(tmp_path: Path, key: str) -> None:
    """Whatever else is wrong with it, for whichever round."""
    async with a_job(tmp_path, FakePlanner(rounds=1)) as (server, made):
        before = state(server)
        stranger = Device(server, "d-0")
        stranger.session = Shown(KEYS[key](made))
        for number in (1, 0, 2, 999_999):
            for what, change in WRONG.items():
                status, answer = await send_wrong(stranger, number, change)
                assert (status, answer["reason"]) == (409, "no_session"), what
        assert state(server) == before
        assert server.refused(Refusal.NO_SESSION) == 4 * len(WRONG)
        await play(made, 1)
        outcome = await asyncio.wait_for(asyncio.shield(server.planner.outcome), PATIENCE_S)
        assert outcome.result == "RoundsCompleted"
        assert outcome.report is not None
        assert (outcome.report.lost, outcome.report.refused) == ([], {})


@dataclass
class Shown:
    """A session that is none: a key and nothing else."""

    key: str


@pytest.mark.parametrize("number", [0, 2, 999_999])
async def test_a_bad_update_for_another_round_loses_nobody(tmp_path: Path, number: int) -> None:
    """Of the client's own session: it is late or early, and the open round is none of its."""
    async with a_job(tmp_path, FakePlanner(rounds=1)) as (server, made):
        before = state(server)
        for what, change in WRONG.items():
            status, answer = await send_wrong(made[0], number, change)
            assert 400 <= status < 500, (what, answer)
        assert state(server) == before
        await play(made, 1)
        outcome = await asyncio.wait_for(asyncio.shield(server.planner.outcome), PATIENCE_S)
        assert outcome.result == "RoundsCompleted"


async def test_a_bad_update_whose_session_ends_meanwhile_changes_nothing(tmp_path: Path) -> None:
    """The client is lost by its connection, and the round it comes back to is not told of it."""
    async with a_job(tmp_path, FakePlanner(rounds=2)) as (server, made):
        writer, rest = await half_an_update(made[0], made[0].update(NAN))
        key = made[0].key
        await made[0].open(key=key)
        assert server.reception.round is not None
        lost = dict(server.reception.round.lost)
        assert lost == {"d-0": "it started anew"}
        writer.write(rest)
        assert b"non_finite" in await writer.answer()
        assert dict(server.reception.round.lost) == lost
        assert server.reception.round.refused == {}
        assert not server.reception.round.rejected


async def half_an_update(each: Device, body: bytearray) -> tuple["Both", bytes]:
    """The head and half the body of an update are there; the connection and the rest."""
    host, _, port = each.cloud.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"PUT {names.UPDATE_ROUTE.format(client=each.client, round=1)} HTTP/1.1\r\nhost: x\r\n"
        f"content-type: {names.TENSORS}\r\ncontent-length: {len(body)}\r\n"
        f"expect: 100-continue\r\n{names.REPORT_HEADER}: {each.report(1).to_json()}\r\n"
        f"{names.SESSION_HEADER}: {each.key}\r\n\r\n"
    )
    writer.write(head.encode())
    assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")  # so it has passed the checks
    writer.write(bytes(body[: len(body) // 2]))
    await writer.drain()
    return Both(reader, writer), bytes(body[len(body) // 2 :])


@dataclass
class Both:
    """A connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def write(self, data: bytes) -> None:
        """Sends."""
        self.writer.write(data)

    async def answer(self) -> bytes:
        """All that is answered until the connection is closed."""
        answer = await asyncio.wait_for(self.reader.read(), PATIENCE_S)
        self.writer.close()
        await self.writer.wait_closed()
        return answer


# -- work ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
async def test_nobody_without_the_sessions_key_gets_the_model_or_ends_a_poll(
    tmp_path: Path, key: str
) -> None:
    async with a_job(tmp_path, FakePlanner(rounds=2)) as (server, made):
        waiting = asyncio.ensure_future(made[0].work(after=1))
        await polls(server, "d-0")
        async with httpx2.AsyncClient() as http:
            url = server.url + names.WORK_ROUTE.format(client="d-0")
            for after in (0, 1):
                shown = {names.SESSION_HEADER: KEYS[key](made).encode()}
                answer = await http.get(f"{url}?after={after}", headers=shown)
                assert answer.status_code == 409
                assert "d-0's session: open one first" in answer.json()["message"]
                assert names.TASK_HEADER not in answer.headers
        assert server.polls() == ["d-0"]
        await play(made, 1)
        work = await asyncio.wait_for(waiting, PATIENCE_S)
        assert work is not None
        assert work.task.round == 2


async def polls(server: Cloud, client: str) -> None:
    """Waits until a client waits for work."""
    async with asyncio.timeout(PATIENCE_S):
        while client not in server.polls():  # noqa: ASYNC110 - a request under way gives no event
            await asyncio.sleep(0.01)


async def test_a_poll_ends_with_its_session(tmp_path: Path) -> None:
    """Else it would be handed the next model for a session that is another's by then."""
    async with a_job(tmp_path, FakePlanner(rounds=2)) as (server, made):
        waiting = asyncio.ensure_future(made[0].work(after=1))
        await polls(server, "d-0")
        again = Device(server, "d-0")
        await again.open(key=made[0].key)
        with pytest.raises(NoSession, match="its session has ended"):
            await asyncio.wait_for(waiting, PATIENCE_S)
        with pytest.raises(NoSession, match="another key"):
            await made[0].work(after=0)
        again.close()


async def test_the_key_of_a_session_that_is_over_opens_nothing(tmp_path: Path) -> None:
    async with a_job(tmp_path, FakePlanner(rounds=2)) as (server, made):
        old = Device(server, "d-0")
        old.session = Shown(made[0].key)
        made[0].close()
        await is_gone(server, "d-0")
        assert (await old.send())[1]["reason"] == "no_session"
        with pytest.raises(NoSession, match="d-0 has no session"):
            await old.work()
        back = Device(server, "d-0")
        await back.open()
        assert back.key != old.key
        assert (await old.send())[1]["reason"] == "no_session"
        back.close()
        old._open[0].close()


async def is_gone(server: Cloud, client: str) -> None:
    """Waits until the cloud pod has seen that a session is closed."""
    async with asyncio.timeout(PATIENCE_S):
        while client in server.reception.sessions:  # noqa: ASYNC110 - the job has the event
            await asyncio.sleep(0.01)


async def test_a_request_of_one_round_is_worth_nothing_in_the_next(tmp_path: Path) -> None:
    async with a_job(tmp_path, FakePlanner(rounds=2)) as (server, made):
        bodies = [each.update(1.0) for each in made]
        for each, body in zip(made, bodies, strict=True):
            assert (await each.send(1, body))[0] == 200
        assert await asyncio.wait_for(made[0].work(after=1), PATIENCE_S) is not None
        before = state(server)
        status, answer = await made[0].send(1, bodies[0])
        assert (status, answer["reason"]) == (409, "wrong_round")
        assert state(server) == before


# -- who may open a session ------------------------------------------------------------------------


async def test_a_live_session_is_not_replaced_by_who_does_not_know_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HANDOVER_S, 0.05)
    async with a_job(tmp_path, FakePlanner(rounds=1)) as (server, made):
        before = state(server)
        stranger = Device(server, "d-0")
        for key in ("", "x" * 43, made[1].key):
            with pytest.raises(http.client.HTTPException, match="409: d-0 has a session already"):
                await stranger.open(key=key)
        assert state(server) == before
        stranger.close()
        await play(made, 1)
        assert (await server.planner.outcome).result == "RoundsCompleted"


async def test_a_device_that_restarts_is_in_as_soon_as_its_old_connection_closes(
    tmp_path: Path,
) -> None:
    async with a_job(tmp_path, FakePlanner(rounds=2)) as (server, made):
        restarted = Device(server, "d-0")
        opening = asyncio.ensure_future(restarted.open())
        await asyncio.sleep(0)  # whichever comes first, the close or the registration
        made[0].close()
        await asyncio.wait_for(opening, PATIENCE_S)
        assert server.reception.sessions["d-0"].key == restarted.key
        assert server.reception.round is not None
        assert "d-0" in server.reception.round.lost
        restarted.close()


async def test_a_session_whose_machine_is_gone_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody closed the connection; the kernel's probes have been unanswered for a while."""
    silent: list[str] = []
    monkeypatch.setattr(
        "lockstep_workers.hosting.opening.is_silent", lambda sock: bool(silent) and sock is not None
    )
    async with a_job(tmp_path, FakePlanner(rounds=2)) as (server, made):
        silent.append("all")
        elsewhere = Device(server, "d-0")
        await elsewhere.open()
        end = await asyncio.to_thread(device.session_end, made[0].session)
        assert end == {"replaced": "d-0"}
        assert server.reception.sessions["d-0"].key == elsewhere.key
        elsewhere.close()


def test_a_peer_that_answers_probes_is_not_silent() -> None:
    """And one whose last sign is older than two probes is; what the kernel says is read right."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
        with closing(near), closing(far):
            assert not is_silent(far)
            told = far.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            assert len(told) >= 60
            assert is_silent(Told(told[:56] + (20_001).to_bytes(4, "little") + told[60:]))
            assert not is_silent(Told(told[:56] + (19_999).to_bytes(4, "little") + told[60:]))
        assert is_silent(far)


@dataclass
class Told:
    """A socket of which the kernel says this."""

    info: bytes

    def getsockopt(self, _level: int, option: int, length: int, /) -> bytes:
        """What it says."""
        assert option == socket.TCP_INFO
        return self.info[:length]


# -- floods ----------------------------------------------------------------------------------------


async def test_idle_connections_of_strangers_keep_nobody_out(tmp_path: Path) -> None:
    """Neither devices that are there, nor one that comes."""
    async with a_job(tmp_path, FakePlanner(rounds=2)) as (server, made):
        waiting = asyncio.ensure_future(made[0].work(after=1))
        await polls(server, "d-0")
        host, _, port = server.url.removeprefix("http://").partition(":")
        held = []
        for _ in range(200):
            _, writer = await asyncio.open_connection(host, int(port))
            held.append(writer)
            writer.write(b"GET /anything HTTP/1.1\r\n")
        assert server.polls() == ["d-0"]
        assert len(server.reception.sessions) == 3
        made[2].close()
        back = Device(server, "d-2")
        await back.open()
        for each in made[:2]:
            assert (await each.send())[0] == 200
        assert await asyncio.wait_for(waiting, PATIENCE_S) is not None
        back.close()
        for writer in held:
            writer.close()


async def test_made_up_names_and_keys_grow_neither_the_log_nor_memory(tmp_path: Path) -> None:
    async with a_job(tmp_path, FakePlanner(rounds=1)) as (server, made):
        kept = server.reception._rarely._kinds
        with structlog.testing.capture_logs() as logs:
            for number in range(50):
                for client in (f"x-{number}", "d-1"):
                    stranger = Device(server, client)
                    stranger.session = Shown("x" * 43)
                    assert (await stranger.send())[0] in {404, 409}
            for _ in range(20):
                assert (await made[0].send(7))[1]["reason"] == "wrong_round"
        lines = [(line["event"], line["reason"]) for line in logs if "reason" in line]
        assert lines == [
            ("updates of nobody's session refused", "unknown_client"),
            ("updates of nobody's session refused", "no_session"),
            ("update refused", "wrong_round"),
        ]
        assert "x-" not in repr(logs)
        assert len(kept) == 2 + 3, "reasons, and clients that connected"
        assert server.reception._logged == {("d-0", Refusal.WRONG_ROUND)}


async def test_a_client_that_comes_and_goes_is_a_line_a_minute(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner()) as server:
        with structlog.testing.capture_logs() as logs:
            for _ in range(20):
                each = Device(server, "d-0")
                await each.open()
                each.close()
                await is_gone(server, "d-0")
    assert [line["event"] for line in logs].count("client connected") == 1


@pytest.mark.parametrize("item", ["0", "-1", '"<script>"', "1e400", "{}"])
async def test_a_registration_of_bad_items_is_answered_in_few_words(
    tmp_path: Path, item: str
) -> None:
    many = ",".join([item] * (60_000 // (len(item) + 1)))
    bad = f'{{"client":{item},"incarnation":1,"examples":0,"labelHistogram":[{many}]}}'
    async with cloud(tmp_path, FakePlanner()) as server, httpx2.AsyncClient() as http:
        path = server.url + names.SESSION_ROUTE.format(client="d-0")
        speaks = {names.PROTOCOL_HEADER: names.PROTOCOL}
        answer = await http.post(path, content=bad, headers=speaks)
        assert answer.status_code == 422
        assert answer.json()["message"].startswith("not a registration: ")
        assert len(answer.content) < 1000
        assert "script" not in answer.text


async def test_a_refusal_does_not_repeat_what_it_refuses(tmp_path: Path) -> None:
    """Neither to the sender nor in what is told of the round."""
    async with a_job(tmp_path, FakePlanner(rounds=2)) as (server, made):
        entry = {"dtype": "F" * 800, "shape": [1], "data_offsets": [0, 4]}
        text = json.dumps({"flat": entry}).encode()
        body = bytearray(struct.pack("<Q", len(text)) + text + bytes(4))
        _, answer = await made[0].send(body=body)
        assert answer["reason"] == "dtype"
        assert len(answer["message"]) < 200
        assert server.reception.round is not None
        assert len(server.reception.round.lost["d-0"]) < 200


# -- the key ---------------------------------------------------------------------------------------


async def test_every_session_has_a_key_of_its_own_that_nobody_guesses(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner()) as server:
        keys = []
        for _ in range(8):
            each = Device(server, "d-0")
            await each.open()
            keys.append(each.key)
            each.close()
            await is_gone(server, "d-0")
    assert len(set(keys)) == 8
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", key) for key in keys), "256 bits"


async def test_a_key_is_told_to_its_opener_and_to_nobody_else(tmp_path: Path) -> None:
    """Not in logs, metrics, plan requests, reports, errors or what objects say of themselves."""
    with structlog.testing.capture_logs() as logs:
        async with a_job(tmp_path, FakePlanner(rounds=1)) as (server, made):
            keys = [each.key for each in made]
            said: list[object] = [server.reception.sessions, made[0].session]
            stranger = Device(server, "d-0")
            stranger.session = Shown(made[1].key)
            said.append(await stranger.send())
            said.append(await made[0].send(7))
            said.append(await made[0].send(body=made[0].update(NAN)))
            said.append(exporting.page(server.metrics.registry))
            await play(made[1:], 1)
            outcome = await asyncio.wait_for(asyncio.shield(server.planner.outcome), PATIENCE_S)
            said += [outcome, server.planner.requests]
    written = all_files(tmp_path)
    assert len(written) > 1
    whole = repr([*said, *logs, *written])
    assert [key for key in keys if key in whole] == []


def all_files(folder: Path) -> list[bytes]:
    """What was written down."""
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]


def test_a_session_does_not_tell_its_key() -> None:
    known = Registration(client="d-0", incarnation="1", examples=1)
    assert "secret" not in repr(Session(known, "secret"))


# -- versions --------------------------------------------------------------------------------------


async def test_a_device_of_an_older_version_is_told_so(tmp_path: Path) -> None:
    known = Registration(client="d-0", incarnation="1", examples=1)
    path = names.SESSION_ROUTE.format(client="d-0")
    async with cloud(tmp_path, FakePlanner()) as server, httpx2.AsyncClient() as http:
        for version in ("1", "2", "3", "4", "5"):
            headers = {} if version == "1" else {names.PROTOCOL_HEADER: version}
            answer = await http.post(server.url + path, content=known.to_json(), headers=headers)
            assert answer.status_code == 422, "which a device of any version takes for good"
            message = answer.json()["message"]
            assert f"speaks version {version} of the protocol, the cloud pod version 6" in message
            assert "give both the same image" in message
        assert server.reception.sessions == {}


async def test_a_cloud_pod_of_an_older_version_ends_the_device_in_words() -> None:
    async def older(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
        writer.write(head + b'{"session":"open"}\n')
        writer.close()

    port = free_port()
    server = await asyncio.start_server(older, "127.0.0.1", port)
    known = Registration(client="d-0", incarnation="1", examples=1)
    session = SessionKeeper(f"http://127.0.0.1:{port}", known)
    session.start()
    with pytest.raises(NotAdmitted, match="gives no session key: it is of another version"):
        await asyncio.wait_for(asyncio.to_thread(session.wait_open), PATIENCE_S)
    server.close()
    await server.wait_closed()


# -- the same, by devices' own code ----------------------------------------------------------------


async def test_a_device_whose_session_broke_opens_another_at_once(tmp_path: Path) -> None:
    """It shows the key that it had, so that nobody need notice that the old connection is dead."""
    async with cloud(tmp_path, FakePlanner(), replicas=1) as server:
        known = Registration(client="d-0", incarnation="1", examples=10)
        first = await asyncio.to_thread(device.connect, server.url)
        held = await asyncio.to_thread(device.open_session, first, known)
        second = await asyncio.to_thread(device.connect, server.url)
        again = await asyncio.to_thread(device.open_session, second, known, key=held.key)
        assert server.reception.sessions["d-0"].key == again.key
        for each in (held, again, first, second):
            each.close()


async def test_an_update_of_a_session_that_ended_is_no_verdict_on_the_update(
    tmp_path: Path,
) -> None:
    async with a_job(tmp_path, FakePlanner(rounds=2)) as (server, made):
        connection, body = await made[0].connect(), made[0].update(1.0)
        assert np.isfinite(decode(body, n_values=server.n_values)).all()

        def send() -> device.Answer:
            report = made[0].report(1)
            return device.send_update(connection, report, key="x" * 43, body=body)

        with pytest.raises(NoSession, match="open one first"):
            await asyncio.to_thread(send)
