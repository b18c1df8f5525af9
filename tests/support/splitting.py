"""Split training without a model: an edge's route, rounds of known numbers, a plain proxy."""

import asyncio
import hmac
import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvicorn

from lockstep_api.names import SPLIT_PROTOCOL
from lockstep_api.spec import WireDtype
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import UpdateReport
from lockstep_serving.bounded import Limits, Receive, Send, bounded
from lockstep_workers.device.split_connection import SplitConnection as Device
from lockstep_workers.edge.split_connection import (
    STALL_S,
    SplitConnection,
    can_carry,
    carry,
    upgrade_required,
)
from lockstep_workers.errors import Gone, RefusedUpdate
from lockstep_workers.hosting.sessions import shown_key
from lockstep_workers.split_frames import Flat, Shape

CLASSES = 10
KEYS = {f"d-{n}": f"key-of-the-session-of-d-{n}" for n in range(8)}
_ROUTE = re.compile(r"/v1/rounds/([0-9]{1,9})/split/([a-z0-9-]{1,63})")


def shape_of(
    *, wire: WireDtype = WireDtype.FLOAT32, keeps_front: bool = False, **sizes: int
) -> Shape:
    """Small frames of round 7."""
    known = {"round": 7, "rows": 4, "values": 6, "front_values": 5} | sizes
    return Shape(**known, wire=wire, keeps_front=keeps_front)


def report_of(client: str, number: int = 7) -> UpdateReport:
    """What a device says at the end of a round."""
    return UpdateReport(
        client=client, round=number, examples=8, steps=1, download_seconds=0, compute_seconds=0,
        cpu_seconds=0, throttled_seconds=0, frequency_ghz=1, energy_joules=EnergyJoules(),
    )  # fmt: skip


@dataclass
class Edge:
    """The route of an edge: who shows the key of its session gets a connection."""

    shape: Shape
    stall_s: float = STALL_S
    came: "asyncio.Queue[SplitConnection]" = field(default_factory=asyncio.Queue)
    refused: list[RefusedUpdate] = field(default_factory=list)
    strangers: int = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """ASGI."""
        match = _ROUTE.fullmatch(scope["path"])
        key = KEYS.get(match[2], "") if match else ""
        if not key or not hmac.compare_digest(key.encode(), shown_key(scope["headers"])):
            self.strangers += 1
            await send({"type": "http.response.start", "status": 409, "headers": []})
            await send({"type": "http.response.body", "body": b"no session"})
        elif not can_carry(scope):
            await upgrade_required(send)
        else:
            made = SplitConnection(
                self.shape, classes=CLASSES, refused=self.refused.append, stall_s=self.stall_s
            )
            self.came.put_nowait(made)
            with suppress(ConnectionResetError):
                await carry(scope, receive, send, connection=made)

    def config(self, *, connections: int = 1000, grace_s: int = 1) -> uvicorn.Config:
        """How it is served."""
        limits = Limits(
            connections=connections, strangers_make_room=True,
            upgrades=frozenset({SPLIT_PROTOCOL.encode()}),
        )  # fmt: skip
        return uvicorn.Config(
            self,
            http=bounded(limits), loop="none", ws="none", lifespan="off", log_config=None,
            access_log=False, timeout_graceful_shutdown=grace_s,
        )  # fmt: skip


def labels_of(shape: Shape, step: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """What a device has in a step."""
    return (np.arange(shape.rows) + step) % CLASSES


def activations_of(shape: Shape, step: int, front: Flat) -> Flat:
    """What a device makes of a front in a step: exact in bfloat16 for small ones."""
    count = shape.rows * shape.values
    values = np.arange(count, dtype=np.float32) % 16 + np.float32(step) + front[0]
    return np.asarray(values, np.float32).reshape(shape.rows, shape.values)


def play_device(device: Device, client: str) -> list[Flat]:
    """A device's part of a round; the gradients that it got."""
    shape = device.shape
    got: list[Flat] = []
    last: Flat | None = None
    while (order := device.receive_front()) is not None:
        step, last = order
        while True:
            made = activations_of(shape, step, last)
            device.send_activations(step, made, labels=labels_of(shape, step))
            if (gradient := device.receive_gradient(step)) is None:
                device.end(report_of(client), last)
                return got
            got.append(gradient.copy())
            if not shape.keeps_front:
                device.send_front_gradient(step, np.full(shape.front_values, step, np.float32))
                break
            step += 1
    device.end(report_of(client), last)
    return got


async def play_edge(connection: SplitConnection, client: str, *, steps: int) -> UpdateReport:
    """The edge's part: steps with one device, its front one larger in each."""
    shape = connection.shape
    into = np.zeros((shape.rows, shape.values), np.float32)
    labels = np.zeros(shape.rows, np.int64)
    front, sum_ = np.zeros(shape.front_values, np.float32), np.zeros(shape.front_values, np.float32)
    for step in range(steps):
        if step == 0 or not shape.keeps_front:
            connection.send_front(step, front)
        await connection.activations(step, into=into, labels=labels)
        assert (into == activations_of(shape, step, front)).all()
        assert (labels == labels_of(shape, step)).all()
        connection.send_gradient(step, into)
        if not shape.keeps_front:
            await connection.front_gradient(step, into=sum_)
            assert (sum_ == step).all()
            front = front + 1
    if shape.keeps_front:  # the device is about to do a further one
        await connection.activations(steps, into=into, labels=labels)
    connection.send_done(steps)
    own = np.full(shape.front_values, -1, np.float32) if shape.keeps_front else None
    report = await connection.end(client=client, front=own)
    assert own is None or (own == 0).all()
    connection.take_end()
    await connection.closed.wait()
    return report


async def is_gone(connection: SplitConnection) -> bool:
    """Whether who waits for a frame is told that there is no connection."""
    into = np.zeros((connection.shape.rows, connection.shape.values), np.float32)
    labels = np.zeros(connection.shape.rows, np.int64)
    try:
        await connection.activations(0, into=into, labels=labels)
    except Gone:
        return True
    return False


@asynccontextmanager
async def proxy(port: int, to: int) -> AsyncIterator[list[bytes]]:
    """A proxy of old: it hands on HTTP in both directions, but for what is said of upgrades.

    Yields the request lines that it has handed on.
    """
    lines: list[bytes] = []
    running: set[asyncio.Task[None]] = set()
    server = await asyncio.start_server(_handing_on(to, lines, running), "127.0.0.1", port)
    try:
        yield lines
    finally:
        server.close()
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _handing_on(
    to: int, lines: list[bytes], running: set["asyncio.Task[None]"]
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(1 << 16):
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        kept = [
            line
            for line in head[:-4].split(b"\r\n")
            if line.split(b":")[0].lower() not in {b"connection", b"upgrade"}
        ]
        lines.append(kept[0])
        there, back = await asyncio.open_connection("127.0.0.1", to)
        back.write(b"\r\n".join(kept) + b"\r\n\r\n")
        for way in (pump(reader, back), pump(there, writer)):
            running.add(asyncio.ensure_future(way))

    return serve
