"""A job of real processes finishes and its probes answer, whatever strangers do meanwhile."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx2

from lockstep_api import names
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.wire.jobs import FakePlanner, serving, settings
from tests.wire.processes import cloud, device, listens, prepare

ADDRESSES = ("127.0.0.1", "127.0.0.2")
"""Of strangers: that of the devices, as behind a node's NAT, and another one, as pods have."""
IDLE = 200
AGAIN_S = 0.05
"""Between two tries of one stranger: all of them share the job's cores."""
UPDATE = names.UPDATE_ROUTE.format(round=1, client="d-0").encode()
SESSION = names.SESSION_ROUTE.format(client="d-0").encode()
WORK = names.WORK_ROUTE.format(client="d-0").encode()
SPEAKS = f"host: x\r\n{names.PROTOCOL_HEADER}: {names.PROTOCOL}\r\n".encode()


def drops(what: bytes) -> Iterator[bytes]:
    """Byte by byte."""
    return (what[at : at + 1] for at in range(len(what)))


def said_by(kind: str) -> Iterator[bytes]:
    """What a stranger sends on one connection, before it waits for the end of it."""
    match kind:
        case "idle":
            return iter(())
        case "slow head":
            return drops(b"GET " + WORK + b"?after=0 HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 999)
        case "slow body":
            return drops(b"POST " + SESSION + b" HTTP/1.1\r\n" + SPEAKS
                         + b"content-length: 9999\r\n\r\n" + b" " * 9999)  # fmt: skip
        case "no session":
            update = b"PUT " + UPDATE + b" HTTP/1.1\r\n" + SPEAKS + b"content-length: 9999\r\n\r\n"
            return iter((update + b"x" * 9999,))
        case _:
            return iter((b"\x16\x03\x01" + bytes(600),))


async def disturb(port: int, kind: str, done: Counter[str], *, address: str) -> None:
    """One stranger, again and again."""
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, local_addr=(address, 0)
            )
            done[kind] += 1
            try:
                for piece in said_by(kind):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(AGAIN_S)
                while await reader.read(1 << 16):
                    pass
            finally:
                writer.close()
        await asyncio.sleep(AGAIN_S if kind == "no session" else 5.0)


@asynccontextmanager
async def strangers(port: int) -> AsyncIterator[Counter[str]]:
    """How often each kind has connected."""
    done: Counter[str] = Counter()
    crowd = {"idle": IDLE, "slow head": 10, "slow body": 10, "no session": 3, "nonsense": 3}
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(disturb(port, kind, done, address=ADDRESSES[number % 2]))
            for kind, count in crowd.items()
            for number in range(count)
        ]
        while done["idle"] < IDLE:  # noqa: ASYNC110 - connections give no event
            await asyncio.sleep(AGAIN_S)
        yield done
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def probed(port: int) -> AsyncIterator[list[int]]:
    """What a kubelet and Prometheus are answered; each waits as long as a kubelet does."""
    statuses: list[int] = []

    async def probe() -> None:
        async with httpx2.AsyncClient(timeout=PATIENCE_S) as http:
            while True:
                for path in (names.HEALTH_ROUTE, names.METRICS_ROUTE):
                    answer = await http.get(f"http://127.0.0.1:{port}{path}")
                    statuses.append(answer.status_code)
                await asyncio.sleep(0.5)

    probing = asyncio.create_task(probe())
    try:
        yield statuses
    finally:
        probing.cancel()
        with suppress(asyncio.CancelledError):
            await probing


async def test_a_job_finishes_and_probes_answer_whatever_strangers_do(tmp_path: Path) -> None:
    planner, probes = FakePlanner(rounds=3, steps=5), free_port()
    job = settings(cloud_port=free_port(), planner_port=free_port(), replicas=2)
    prepare(tmp_path, job)
    port = int(job.cloud_url.rpartition(":")[2])
    async with (
        serving(planner.app(), int(job.planner_url.rpartition(":")[2])),
        cloud(tmp_path, job, metrics_port=probes) as pod,
    ):
        await listens(pod, port)
        async with (
            strangers(port) as done,
            probed(probes) as statuses,
            device(tmp_path, 0),
            device(tmp_path, 1),
        ):
            outcome = await asyncio.wait_for(asyncio.shield(planner.outcome), PATIENCE_S)
        assert pod.returncode is None
    assert outcome.result == "RoundsCompleted", outcome.message
    assert outcome.report is not None
    assert outcome.report.lost == []
    assert set(statuses) == {200}
    assert len(done) == 5, "each kind was there"
