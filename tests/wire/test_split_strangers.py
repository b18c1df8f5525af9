"""What goes wrong on a split connection, or is done to it: told in words; nobody else notices."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import numpy as np
import pytest
import uvloop

from lockstep_api.names import SESSION_HEADER, SPLIT_PROTOCOL
from lockstep_api.sessions import Refusal
from lockstep_api.spec import WireDtype
from lockstep_workers.edge.split_connection import STALL_S, SplitConnection
from lockstep_workers.errors import Gone, RefusedUpdate
from lockstep_workers.split_frames import (
    HEAD,
    HEAD_BYTES,
    MOST_TEXT_BYTES,
    Flat,
    Kind,
    Labels,
    Shape,
    narrow,
    refused,
    unpacked,
    write_labels,
)
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.support.splitting import KEYS, Edge, labels_of, report_of, shape_of
from tests.wire.jobs import serving

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
SHAPE = shape_of()


def asking(client: str = "d-0", *, key: str = KEYS["d-0"], name: str = SPLIT_PROTOCOL) -> bytes:
    """The head of a request for an upgrade."""
    return (
        f"GET /v1/rounds/7/split/{client} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\n"
        f"upgrade: {name}\r\n{SESSION_HEADER}: {key}\r\n\r\n"
    ).encode()


def frame(shape: Shape, step: int, *, labels: Labels | None = None) -> bytearray:
    """ACTIVATIONS of ones, but for the labels that are given."""
    data = bytearray(shape.head(Kind.ACTIVATIONS, step)) + bytearray(
        shape.label_bytes + shape.cut_bytes
    )
    view, behind = memoryview(data), HEAD_BYTES + shape.label_bytes
    write_labels(labels_of(shape, step) if labels is None else labels, view[HEAD_BYTES:behind])
    ones = np.ones(shape.rows * shape.values, np.float32)
    if shape.is_wide:
        data[behind:] = ones.tobytes()
    else:
        narrow(ones, view[behind:])
    return data


@dataclass
class Batch:
    """Two devices' rows of a step: the first one's, and the one's that must not change."""

    activations: Flat
    labels: Labels

    @classmethod
    def of(cls, shape: Shape) -> "Batch":
        """Of sevens."""
        rows = 2 * shape.rows
        return cls(np.full((rows, shape.values), 7, np.float32), np.full(rows, 7, np.int64))

    def wait(self, connection: SplitConnection, step: int = 0) -> "asyncio.Future[None]":
        """For the first device's rows."""
        rows = connection.shape.rows
        into, labels = self.activations[:rows], self.labels[:rows]
        return connection.activations(step, into=into, labels=labels)

    def assert_rest_untouched(self) -> None:
        """The other device's rows are as they were."""
        rows = len(self.labels) // 2
        assert (self.activations[rows:] == 7).all()
        assert (self.labels[rows:] == 7).all()


async def upgraded(port: int, client: str = "d-0", *, behind: bytes = b"") -> Streams:
    """A device made by hand, whose request was granted; `behind` is sent with its head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(asking(client, key=KEYS[client]) + behind)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    assert b"upgrade: lockstep-split/1\r\n" in head
    return reader, writer


@asynccontextmanager
async def an_edge(
    shape: Shape = SHAPE, *, connections: int = 1000, stall_s: float = STALL_S
) -> AsyncIterator[tuple[Edge, int]]:
    """An edge and its port."""
    edge, port = Edge(shape, stall_s), free_port()
    async with (
        asyncio.timeout(PATIENCE_S),
        serving(edge, port, config=edge.config(connections=connections)),
    ):
        yield edge, port


async def last_words(reader: asyncio.StreamReader) -> RefusedUpdate:
    """The refusal with which the edge ends a connection."""
    head = unpacked(await reader.readexactly(HEAD_BYTES))
    assert head.kind is Kind.REFUSED
    said = refused(await reader.readexactly(head.count))
    assert await reader.read() == b"", "and nothing more"
    return said


def with_field(name: str, value: int) -> bytes:
    """A head of ACTIVATIONS with one wrong field."""
    fields = dict(
        zip(
            ("kind", "dtype", "magic", "round", "step", "count"),
            HEAD.unpack(SHAPE.head(Kind.ACTIVATIONS, 0)),
            strict=True,
        )
    )
    return HEAD.pack(*(fields | {name: value}).values())


BROKEN = [
    ("kind", 0, Refusal.MALFORMED), ("kind", 99, Refusal.MALFORMED),
    ("kind", Kind.FRONT_GRADIENT, Refusal.MALFORMED), ("kind", Kind.END, Refusal.MALFORMED),
    ("kind", Kind.REFUSED, Refusal.MALFORMED), ("dtype", 0, Refusal.DTYPE),
    ("dtype", 2, Refusal.DTYPE), ("dtype", 77, Refusal.MALFORMED), ("magic", 1, Refusal.MALFORMED),
    ("round", 8, Refusal.WRONG_ROUND), ("step", 1, Refusal.MALFORMED),
    ("step", 2**32 - 1, Refusal.MALFORMED), ("count", 0, Refusal.SHAPE),
    ("count", 5, Refusal.SHAPE), ("count", 2**32 - 1, Refusal.SHAPE),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "reason"), BROKEN)
async def test_a_head_that_is_wrong_in_any_field_is_refused(
    name: str, value: int, reason: Refusal
) -> None:
    batch = Batch.of(SHAPE)
    async with an_edge() as (edge, port):
        reader, writer = await upgraded(port)
        connection = await edge.came.get()
        waiting = batch.wait(connection)
        writer.write(with_field(name, value) + frame(SHAPE, 0)[HEAD_BYTES:] + b"and more" * 100)
        with pytest.raises(RefusedUpdate) as caught:
            await waiting
        assert caught.value.reason is reason
        said = await last_words(reader)
        assert (said.reason, str(said)) == (reason, str(caught.value))
        assert [one.reason for one in edge.refused] == [reason]
        writer.close()
        await connection.closed.wait()
    batch.assert_rest_untouched()


@pytest.mark.parametrize("wire", list(WireDtype))
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data, shape: data.__setitem__(slice(16, 20), b"\x0a\0\0\0"), Refusal.MALFORMED),
        (lambda data, shape: data.__setitem__(slice(16, 20), b"\xff" * 4), Refusal.MALFORMED),
        (lambda data, shape: data.__setitem__(slice(-2, None), b"\x80\x7f"), Refusal.NON_FINITE),
        (lambda data, shape: data.__setitem__(slice(-2, None), b"\xc0\xff"), Refusal.NON_FINITE),
    ],
    ids=["label-10", "label-minus-1", "inf", "nan"],
)
async def test_values_and_labels_that_cannot_be_are_refused(
    wire: WireDtype, spoil: Callable[[bytearray, Shape], None], reason: Refusal
) -> None:
    shape = shape_of(wire=wire)
    data = frame(shape, 0)
    spoil(data, shape)
    async with an_edge(shape) as (edge, port):
        reader, writer = await upgraded(port)
        waiting = Batch.of(shape).wait(await edge.came.get())
        writer.write(data)
        with pytest.raises(RefusedUpdate):
            await waiting
        assert (await last_words(reader)).reason is reason
        writer.close()
    assert [one.reason for one in edge.refused] == [reason]


@pytest.mark.parametrize("sent", [0, 3, HEAD_BYTES, HEAD_BYTES + 10, -1])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_device_that_vanishes_in_a_frame_is_gone_and_comes_again(
    sent: int, reset: bool
) -> None:
    async with an_edge() as (edge, port):
        _, writer = await upgraded(port)
        connection = await edge.came.get()
        waiting = Batch.of(SHAPE).wait(connection)
        writer.write(bytes(frame(SHAPE, 0)[:sent]))
        await writer.drain()
        if reset:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        with pytest.raises(Gone):
            await waiting
        await connection.closed.wait()
        with pytest.raises(Gone):
            await Batch.of(SHAPE).wait(connection)
        _, again = await upgraded(port)
        waiting = Batch.of(SHAPE).wait(await edge.came.get())
        again.write(frame(SHAPE, 0))
        await waiting
        again.close()
    assert edge.refused == []


@pytest.mark.parametrize("sent", [1, HEAD_BYTES, -1])
async def test_a_frame_that_stalls_ends_the_connection(sent: int) -> None:
    async with an_edge(stall_s=0.2) as (edge, port):
        reader, writer = await upgraded(port)
        waiting = Batch.of(SHAPE).wait(await edge.came.get())
        writer.write(bytes(frame(SHAPE, 0)[:sent]))
        with pytest.raises(RefusedUpdate) as caught:
            await waiting
        assert caught.value.reason is Refusal.TOO_SLOW
        assert (await last_words(reader)).reason is Refusal.TOO_SLOW
        writer.close()


async def test_a_frame_that_drips_ends_the_connection() -> None:
    """A byte now and then is as good as none."""
    shape = shape_of(rows=64, values=64)
    async with an_edge(shape, stall_s=0.2) as (edge, port):
        reader, writer = await upgraded(port)
        waiting = Batch.of(shape).wait(await edge.came.get())

        async def drip() -> None:
            with suppress(ConnectionError):
                for byte in frame(shape, 0):
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.02)

        dripping = asyncio.ensure_future(drip())
        with pytest.raises(RefusedUpdate) as caught:
            await waiting
        assert caught.value.reason is Refusal.TOO_SLOW
        assert (await last_words(reader)).reason is Refusal.TOO_SLOW
        dripping.cancel()
        writer.close()


async def test_a_device_that_rests_between_frames_stays() -> None:
    """Nobody is slow who was not asked; and what was sent early counts from when it is."""
    async with an_edge(stall_s=0.1) as (edge, port):
        _, writer = await upgraded(port)
        connection = await edge.came.get()
        await asyncio.sleep(0.35)
        waiting = Batch.of(SHAPE).wait(connection)
        writer.write(frame(SHAPE, 0))
        await waiting
        writer.write(frame(SHAPE, 1))
        await asyncio.sleep(0.35)
        await Batch.of(SHAPE).wait(connection, 1)
        assert edge.refused == []
        writer.close()


async def test_a_frame_is_not_judged_by_the_one_before_it() -> None:
    """Its own first look is the second one."""
    async with an_edge() as (edge, port):
        reader, writer = await upgraded(port)
        connection = await edge.came.get()
        waiting = Batch.of(SHAPE).wait(connection)
        writer.write(frame(SHAPE, 0))
        await waiting
        waiting = Batch.of(SHAPE).wait(connection, 1)
        writer.write(bytes(frame(SHAPE, 1)[:20]))
        while connection._got < 20:  # noqa: ASYNC110 - nobody is told of a part of a frame
            await asyncio.sleep(0.005)
        for judged in ([], [Refusal.TOO_SLOW]):
            connection._stop_watching()
            connection._look()
            assert [one.reason for one in edge.refused] == judged
        with pytest.raises(RefusedUpdate):
            await waiting
        assert (await last_words(reader)).reason is Refusal.TOO_SLOW
        writer.close()


async def bytes_behind_the_head() -> None:
    async with an_edge() as (edge, port):
        batch = Batch.of(SHAPE)
        _, writer = await upgraded(port, behind=bytes(frame(SHAPE, 0) + frame(SHAPE, 1)))
        connection = await edge.came.get()
        await batch.wait(connection)
        rows = SHAPE.rows
        assert (batch.activations[:rows] == 1).all()
        assert (batch.labels[:rows] == labels_of(SHAPE, 0)).all()
        await batch.wait(connection, 1)
        assert (batch.labels[:rows] == labels_of(SHAPE, 1)).all()
        writer.write(frame(SHAPE, 2))
        await batch.wait(connection, 2)
        assert (batch.labels[:rows] == labels_of(SHAPE, 2)).all()
        writer.close()


async def test_bytes_behind_the_head_are_the_first_frame() -> None:
    await bytes_behind_the_head()


def test_bytes_behind_the_head_are_the_first_frame_on_the_loop_of_the_pods() -> None:
    uvloop.run(bytes_behind_the_head())


async def test_a_request_in_pieces_loses_no_byte_behind_it() -> None:
    whole = asking() + bytes(frame(SHAPE, 0))
    for size in (1, 7, 50):
        async with an_edge() as (edge, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for start in range(0, len(whole), size):
                writer.write(whole[start : start + size])
                await asyncio.sleep(0)
            await Batch.of(SHAPE).wait(await edge.came.get())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            writer.close()


async def test_what_stands_behind_a_refused_request_is_no_request() -> None:
    """Else who has no key could hide a request from whoever looks at the first one only."""
    async with an_edge() as (edge, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(asking(key="wrong") + asking())
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 409 ")
        assert answer.count(b"HTTP/1.1") == 1
        assert edge.came.empty()
        writer.close()


@pytest.mark.parametrize("name", ["websocket", "h2c", "lockstep-split/2"])
async def test_other_upgrades_are_answered_like_any_request(name: str) -> None:
    async with an_edge() as (edge, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(asking(name=name))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 426 ")
            assert b"connection: close" not in head, "and the connection goes on"
            assert SPLIT_PROTOCOL.encode() in await reader.readuntil(b"frames")
        assert edge.came.empty()
        writer.close()


async def test_a_flood_of_strangers_moves_no_device() -> None:
    """An upgraded connection counts, makes room for nobody, and its device's frames go on."""
    async with an_edge(connections=10) as (edge, port):
        _, writer = await upgraded(port)
        connection, batch = await edge.came.get(), Batch.of(SHAPE)
        strangers = []
        for number in range(40):
            stranger = await asyncio.open_connection("127.0.0.1", port)
            stranger[1].write(asking(key="x" * number)[:30])  # and holds its connection
            strangers.append(stranger)
            waiting = batch.wait(connection, number)
            writer.write(frame(SHAPE, number))
            await waiting
        _, second = await upgraded(port, "d-1")
        assert not connection.closed.is_set()
        for _, each in [*strangers, (None, writer), (None, second)]:
            each.close()
    assert edge.refused == []


async def test_upgraded_connections_fill_the_server_and_give_room_back() -> None:
    async with an_edge(connections=3) as (edge, port):
        devices = [await upgraded(port, f"d-{n}") for n in range(3)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(asking("d-3", key=KEYS["d-3"]))
        assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")
        writer.close()
        connection = await edge.came.get()
        devices[0][1].close()
        await connection.closed.wait()
        _, fourth = await upgraded(port, "d-3")
        for each in (fourth, devices[1][1], devices[2][1]):
            each.close()


async def test_a_server_that_ends_closes_what_is_open() -> None:
    async with an_edge() as (edge, port):
        reader, writer = await upgraded(port)
        waiting = Batch.of(SHAPE).wait(await edge.came.get())
        writer.write(bytes(frame(SHAPE, 0)[:40]))
        await writer.drain()
    with pytest.raises(Gone):
        await waiting
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", Refusal.BAD_REPORT),
        (b"[1]", Refusal.BAD_REPORT),
        (report_of("d-1").to_json().encode(), Refusal.BAD_REPORT),
        (report_of("d-0", 8).to_json().encode(), Refusal.BAD_REPORT),
        (b"x" * (MOST_TEXT_BYTES + 1), Refusal.TOO_LARGE),
    ],
)
async def test_a_report_that_cannot_be_is_refused(text: bytes, reason: Refusal) -> None:
    async with an_edge() as (edge, port):
        reader, writer = await upgraded(port)
        ending = asyncio.ensure_future((await edge.came.get()).end(client="d-0"))
        writer.write(SHAPE.head(Kind.END, 0, text_bytes=len(text)) + text)
        with pytest.raises(RefusedUpdate):
            await ending
        assert (await last_words(reader)).reason is reason
        writer.close()


async def test_a_device_that_does_not_read_costs_one_frame() -> None:
    """What waits to be sent is a view of the cluster's own arrays, and it never gets a second."""
    shape = shape_of(rows=64, values=60_000)
    async with an_edge(shape) as (edge, port):
        _, writer = await upgraded(port)
        connection = await edge.came.get()
        connection.send_gradient(0, np.zeros((shape.rows, shape.values), np.float32))
        waiting = Batch.of(shape).wait(connection, 1)
        connection.refuse(RefusedUpdate(Refusal.TOO_SLOW, "the step went on without it"))
        with pytest.raises(RefusedUpdate):
            await waiting
        await connection.closed.wait()
        writer.close()
