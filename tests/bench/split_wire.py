"""What a step of split training costs on the wire: 8 devices and their edge, beside raw sockets.

    .venv/bin/python -m tests.bench.split_wire [--devices 8] [--steps 40] [--blocks 6] [--no-torch]

The edge is this process: uvicorn's port, an upgrade a device, our connections at both ends. Beside
it raw sockets carry the same values with the same casts and checks: epoll, `recv_into` the batch.
Both take turns in one run, block by block, since machines differ and change. A device sends
activations, the edge waits for all and sends as many bytes back: an echo, or what a real back half
makes of them. All of it is measured once more with our connections over TLS, unless `--plain` is
given; the raw ones stay as they are.
"""

import argparse
import asyncio
import multiprocessing as mp
import select
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import uvloop
from torch import nn

from lockstep_api.spec import WireDtype
from lockstep_workers.device.split_connection import open_split
from lockstep_workers.edge import split_connection as edge_side
from lockstep_workers.edge.split_connection import SplitConnection
from lockstep_workers.split_frames import Flat, Shape, as_bytes, narrow, widen
from lockstep_workers.tensors import check_values
from lockstep_workers.trust import Trust
from tests.support.certificates import local_ca
from tests.support.ports import free_port
from tests.support.splitting import CLASSES, KEYS, Edge, labels_of
from tests.wire.channels import LOOPBACK, PLAIN, over_tls
from tests.wire.jobs import serving

_CHANNELS, _SIDE = 16, 14
_CUT = _CHANNELS * _SIDE * _SIDE
_FLOAT, _BRAIN = WireDtype.FLOAT32, WireDtype.BFLOAT16


@dataclass(frozen=True, slots=True)
class Case:
    """Frames of one size."""

    name: str
    values: int
    wire: WireDtype
    torch: bool = False
    """A real back half between."""

    @property
    def shape(self) -> Shape:
        """Of each device."""
        return Shape(7, 32, self.values, 1, self.wire, keeps_front=True)


CASES = [
    Case("64 KB", 512, _FLOAT),
    Case("200 KB, bf16", _CUT, _BRAIN),
    Case("400 KB", _CUT, _FLOAT),
    Case("200 KB, bf16, back half", _CUT, _BRAIN, torch=True),
    Case("400 KB, back half", _CUT, _FLOAT, torch=True),
]


@dataclass(slots=True)
class Clock:
    """What a step took beside what is not the wire's: torch, casts and checks."""

    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    other_ms: list[float] = field(default_factory=list)
    _began: tuple[float, float, float] = (0.0, 0.0, 0.0)
    _other_s: float = 0.0

    def timed(
        self, do: Callable[..., Any], clock: Callable[[], float] = time.perf_counter
    ) -> Callable[..., Any]:
        """The same, but what it takes is told apart; what is long by a clock of CPU time."""

        def timed(*arguments: Any, **named: Any) -> Any:
            began = clock()
            try:
                return do(*arguments, **named)
            finally:
                self._other_s += clock() - began

        return timed

    def begin(self) -> None:
        """A step begins."""
        self._began = (time.perf_counter(), time.process_time(), self._other_s)

    def end(self) -> None:
        """It is done."""
        wall_s, cpu_s, other_s = self._began
        self.wall_ms.append(1e3 * (time.perf_counter() - wall_s))
        self.cpu_ms.append(1e3 * (time.process_time() - cpu_s))
        self.other_ms.append(1e3 * (self._other_s - other_s))

    def medians(self) -> tuple[float, float, float]:
        """Wall, CPU beside the other things, and these, in ms."""
        beside = [cpu - other for cpu, other in zip(self.cpu_ms, self.other_ms, strict=True)]
        return tuple(statistics.median(each) for each in (self.wall_ms, beside, self.other_ms))  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Result:
    """A case, both ways, in ms a step."""

    case: Case
    tls: bool
    raw: tuple[float, float, float]
    ours: tuple[float, float, float]

    def row(self) -> str:
        """Of a table in markdown (`HEADING`)."""
        (raw_wall, raw_cpu, _), (wall, cpu, other) = self.raw, self.ours
        name = f"{self.case.name}{', TLS' if self.tls else ''}"
        return (
            f"| 8 x {name} | {raw_wall:.2f} | {wall:.2f} | {wall / raw_wall:.2f} "
            f"| {raw_cpu:.2f} | {cpu:.2f} | {cpu / raw_cpu:.2f} | {other:.2f} |"
        )


HEADING = [
    "| frames of a step | raw ms | ours ms | ours / raw | raw edge CPU ms | ours edge CPU ms "
    "| ours / raw | torch, casts, checks ms |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
]


def markdown(results: list[Result]) -> list[str]:
    """A table of them."""
    return [*HEADING, *(result.row() for result in results)]


# -- devices ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What all processes do, in this order."""

    cases: tuple[Case, ...]
    devices: int
    blocks: int
    steps: int
    raw_port: int
    port: int
    tls: bool
    ca_file: Path
    """Whom devices trust, with TLS."""


def _device(number: int, plan: Plan) -> None:
    torch.set_num_threads(1)
    for case in plan.cases:
        shape = case.shape
        made = np.random.default_rng(number).normal(size=(shape.rows, shape.values))
        activations, labels = made.astype(np.float32), labels_of(shape, number)
        url = f"{'https' if plan.tls else 'http'}://{LOOPBACK}:{plan.port}"
        client, trust = f"d-{number}", Trust(plan.ca_file)
        with _raw_connection(plan.raw_port, number) as sock:
            raw = _RawDevice(sock, shape, activations)
            with open_split(url, client, key=KEYS[client], shape=shape, trust=trust) as connection:
                connection.receive_front()
                for block in range(plan.blocks):
                    for _ in range(plan.steps):
                        raw.step()
                    for step in range(plan.steps * block, plan.steps * (block + 1)):
                        connection.send_activations(step, activations, labels=labels)
                        connection.receive_gradient(step)
                sock.recv(1)


def _raw_connection(port: int, number: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(bytes([number]))
    return sock


class _RawDevice:
    """A blocking socket, and the casts of a device."""

    def __init__(self, sock: socket.socket, shape: Shape, activations: Flat) -> None:
        self.sock, self.shape, self.activations = sock, shape, activations.reshape(-1)
        self.out, self.back = (memoryview(bytearray(shape.cut_bytes)) for _ in range(2))
        self.gradient = np.zeros(activations.size, np.float32)

    def step(self) -> None:
        """Sends activations, receives a gradient."""
        wide = self.shape.is_wide
        if wide:
            self.sock.sendall(as_bytes(self.activations))
        else:
            narrow(self.activations, self.out)
            self.sock.sendall(self.out)
        rest = as_bytes(self.gradient) if wide else self.back
        while rest:
            rest = rest[self.sock.recv_into(rest) :]
        if not wide:
            widen(self.back, self.gradient)


# -- the edge --------------------------------------------------------------------------------------


class Back:
    """What the edge makes of a batch."""

    def __init__(self, case: Case, batch: Flat) -> None:
        """An echo, or a back half that is trained."""
        self.batch, self.gradient = batch, batch
        self.module: nn.Module | None = None
        if case.torch:
            self.module = nn.Sequential(
                nn.Unflatten(1, (_CHANNELS, _SIDE, _SIDE)),
                nn.Conv2d(_CHANNELS, 32, 3, stride=2, padding=1), nn.GroupNorm(4, 32), nn.ReLU(),
                nn.Flatten(), nn.Linear(32 * 49, CLASSES),
            )  # fmt: skip
            self.labels = torch.arange(len(batch)) % CLASSES

    def step(self) -> Flat:
        """The gradient by the batch."""
        if self.module is None:
            return self.gradient
        inputs = torch.from_numpy(self.batch).requires_grad_()
        loss = nn.functional.cross_entropy(self.module(inputs), self.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        assert inputs.grad is not None
        self.gradient = inputs.grad.numpy()
        return self.gradient


class _RawEdge:
    """Sockets, epoll, the casts and checks of an edge."""

    def __init__(self, socks: list[socket.socket], shape: Shape, *, back: Back) -> None:
        self.socks, self.shape, self.back = socks, shape, back
        self.poll = select.epoll()
        for sock in socks:
            self.poll.register(sock, select.EPOLLIN)
        self.number_of = {sock.fileno(): number for number, sock in enumerate(socks)}
        rows = [back.batch[n * shape.rows : (n + 1) * shape.rows] for n in range(len(socks))]
        self.slices = [one.reshape(-1) for one in rows]
        self.scratch = [memoryview(bytearray(shape.cut_bytes)) for _ in socks]
        self.wide = shape.is_wide

    def step(self, clock: Clock) -> None:
        """Reads all, answers all."""
        targets = [as_bytes(one) for one in self.slices] if self.wide else list(self.scratch)
        waiting = len(self.socks)
        while waiting:
            for descriptor, _ in self.poll.poll():
                number = self.number_of[descriptor]
                count = self.socks[number].recv_into(targets[number])
                targets[number] = targets[number][count:]
                if not targets[number]:
                    waiting -= 1
                    clock.timed(self._check)(number)
        gradient = clock.timed(self.back.step, time.thread_time)()
        for number, sock in enumerate(self.socks):
            rows = gradient[number * self.shape.rows : (number + 1) * self.shape.rows].reshape(-1)
            if not self.wide:
                clock.timed(narrow)(rows, self.scratch[number])
            sock.sendall(as_bytes(rows) if self.wide else self.scratch[number])

    def _check(self, number: int) -> None:
        if not self.wide:
            widen(self.scratch[number], self.slices[number])
        check_values(self.slices[number])


async def _our_step(
    made: list[SplitConnection], back: Back, *, step: int, labels: Any, clock: Clock
) -> None:
    rows = made[0].shape.rows
    slices = [slice(n * rows, (n + 1) * rows) for n in range(len(made))]
    coming = [
        each.activations(step, into=back.batch[own], labels=labels[own])
        for each, own in zip(made, slices, strict=True)
    ]
    for one in coming:
        await one
    gradient = clock.timed(back.step, time.thread_time)()
    for each, own in zip(made, slices, strict=True):
        each.send_gradient(step, gradient[own])


@contextmanager
def _told_apart(clock: Clock) -> Iterator[None]:
    """Casts and checks of our connections are told apart."""
    names = ("widen", "narrow", "check_values", "read_labels")
    kept = {name: getattr(edge_side, name) for name in names}
    for name, do in kept.items():
        setattr(edge_side, name, clock.timed(do))
    try:
        yield
    finally:
        for name, do in kept.items():
            setattr(edge_side, name, do)


def _accepted(raw: socket.socket, devices: int) -> list[socket.socket]:
    """The raw connections, in the order of the devices."""
    socks = {}
    for _ in range(devices):
        sock, _ = raw.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        socks[sock.recv(1)[0]] = sock
    return [socks[number] for number in sorted(socks)]


async def _measure(case: Case, plan: Plan, *, edge: Edge, raw: socket.socket) -> Result:
    rows = plan.devices * case.shape.rows
    socks = await asyncio.to_thread(_accepted, raw, plan.devices)
    made = [await edge.came.get() for _ in socks]
    backs = [Back(case, np.zeros((rows, case.values), np.float32)) for _ in range(2)]
    raws = _RawEdge(socks, case.shape, back=backs[0])
    labels, clocks = np.zeros(rows, np.int64), (Clock(), Clock())
    for each in made:
        each.send_front(0, np.zeros(1, np.float32))
    with _told_apart(clocks[1]):
        for block, way, number in product(range(plan.blocks), (0, 1), range(plan.steps)):
            clocks[way].begin()
            if way == 0:
                raws.step(clocks[0])
            else:
                step = block * plan.steps + number
                await _our_step(made, backs[1], step=step, labels=labels, clock=clocks[1])
            if number:  # the first one waits for devices that are still at the block before
                clocks[way].end()
    following = plan.cases[(plan.cases.index(case) + 1) % len(plan.cases)]
    edge.shape = following.shape  # closing the raw connections lets the devices go on
    for sock in socks:
        sock.close()
    for each in made:
        await each.closed.wait()
    return Result(case, plan.tls, clocks[0].medians(), clocks[1].medians())


async def _run(plan: Plan) -> list[Result]:
    edge = Edge(plan.cases[0].shape)
    channel = over_tls() if plan.tls else PLAIN
    async with serving(edge, plan.port, config=edge.config(), channel=channel):
        with socket.create_server(("127.0.0.1", plan.raw_port), backlog=64) as raw:
            people = [mp.Process(target=_device, args=(n, plan)) for n in range(plan.devices)]
            for each in people:
                each.start()
            results = []
            for case in plan.cases:
                results.append(await _measure(case, plan, edge=edge, raw=raw))
                print(results[-1].row(), flush=True)
            for each in people:
                await asyncio.to_thread(each.join)
    return results


def measure(
    cases: list[Case], *, devices: int = 8, steps: int = 40, blocks: int = 6, tls: bool = False
) -> list[Result]:
    """All cases, one after another."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        ca_file = Path(folder) / "ca.pem"
        ca_file.write_text(local_ca().pem)
        ports = free_port(), free_port()
        return uvloop.run(_run(Plan(tuple(cases), devices, blocks, steps, *ports, tls, ca_file)))


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--plain", action="store_true", help="without TLS only")
    asked = parser.parse_args()
    mp.set_start_method("spawn")
    cases = [case for case in CASES if not (asked.no_torch and case.torch)]
    print("\n".join(HEADING))
    for tls in (False,) if asked.plain else (False, True):
        measure(cases, devices=asked.devices, steps=asked.steps, blocks=asked.blocks, tls=tls)


if __name__ == "__main__":
    main()
