"""Rounds of split training between a device's connection and its edge's, over real sockets."""

import asyncio
import http.client

import numpy as np
import pytest
import uvloop

from lockstep_api.spec import WireDtype
from lockstep_workers.device.split_connection import open_split
from lockstep_workers.errors import NoSession, RefusedUpdate
from lockstep_workers.split_frames import Flat, Shape
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.support.splitting import (
    KEYS,
    Edge,
    activations_of,
    labels_of,
    play_device,
    play_edge,
    proxy,
    report_of,
    shape_of,
)
from tests.wire.jobs import serving

SHAPES = [
    shape_of(wire=wire, keeps_front=keeps)
    for wire in (WireDtype.FLOAT32, WireDtype.BFLOAT16)
    for keeps in (False, True)
]


async def a_round(shape: Shape, *, through_a_proxy: bool = False, steps: int = 3) -> list[bytes]:
    """A round of one device; the request lines that a proxy saw."""
    edge, port, before = Edge(shape), free_port(), free_port()
    async with (
        asyncio.timeout(PATIENCE_S),
        serving(edge, port, config=edge.config()),
        proxy(before, port) as lines,
    ):
        url = f"http://127.0.0.1:{before if through_a_proxy else port}"

        def play() -> list[Flat]:
            with open_split(url, "d-0", key=KEYS["d-0"], shape=shape) as device:
                got = play_device(device, "d-0")
                moved = device.moved()
            assert moved.up_bytes > 0
            assert moved.down_bytes > 0
            return got

        playing = asyncio.ensure_future(asyncio.to_thread(play))
        connection = await edge.came.get()
        assert await play_edge(connection, "d-0", steps=steps) == report_of("d-0")
        got = await playing
    assert len(got) == steps
    for step, gradient in enumerate(got):
        front = np.full(5, 0 if shape.keeps_front else step, np.float32)
        assert (gradient == activations_of(shape, step, front)).all()
    assert edge.refused == []
    return lines


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.wire}-{s.keeps_front}")
async def test_a_round_over_an_upgraded_connection(shape: Shape) -> None:
    await a_round(shape)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.wire}-{s.keeps_front}")
async def test_a_round_through_a_proxy_that_lets_no_upgrade_through(shape: Shape) -> None:
    lines = await a_round(shape, through_a_proxy=True)
    assert [line.split()[0] for line in lines] == [b"GET", b"POST"]


LARGE = shape_of(rows=32, values=3136, front_values=20_000)


@pytest.mark.parametrize("through_a_proxy", [False, True])
def test_frames_of_any_size_on_the_loop_of_the_pods(through_a_proxy: bool) -> None:
    uvloop.run(a_round(LARGE, through_a_proxy=through_a_proxy))
    wide = shape_of(rows=32, values=3136, wire=WireDtype.BFLOAT16, keeps_front=True)
    uvloop.run(a_round(wide, through_a_proxy=through_a_proxy))
    uvloop.run(a_round(shape_of(rows=1, values=1, front_values=1)))


async def test_who_shows_no_key_or_another_ones_gets_no_connection() -> None:
    shape, port = shape_of(), free_port()
    edge = Edge(shape)
    async with serving(edge, port, config=edge.config()):
        for key in ("", "x" * 43, KEYS["d-1"]):
            with pytest.raises(NoSession):
                await asyncio.to_thread(
                    open_split, f"http://127.0.0.1:{port}", "d-0", key=key, shape=shape
                )
    assert edge.strangers == 3
    assert edge.came.empty()


async def test_a_device_is_told_in_words_why_its_frame_is_refused() -> None:
    shape, port = shape_of(), free_port()
    edge = Edge(shape)
    async with asyncio.timeout(PATIENCE_S), serving(edge, port, config=edge.config()):

        def play() -> str:
            with open_split(
                f"http://127.0.0.1:{port}", "d-0", key=KEYS["d-0"], shape=shape
            ) as device:
                step, front = device.receive_front() or (0, np.zeros(0, np.float32))
                made = activations_of(shape, step, front)
                made[1, 1] = np.nan
                device.send_activations(step, made, labels=labels_of(shape, step))
                with pytest.raises(RefusedUpdate) as caught:
                    device.receive_gradient(step)
                with pytest.raises((http.client.HTTPException, OSError)):
                    device.receive_gradient(step)
                return f"{caught.value.reason}: {caught.value}"

        playing = asyncio.ensure_future(asyncio.to_thread(play))
        connection = await edge.came.get()
        with pytest.raises(RefusedUpdate):
            await play_edge(connection, "d-0", steps=1)
        assert await playing == "non_finite: activations have values that are not finite"
        await connection.closed.wait()
    assert len(edge.refused) == 1
