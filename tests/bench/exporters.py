"""The exporters of a large job's pods in one process: their own metrics, over HTTP, round by round.

Called by `prometheus` and `telemetry`. A path names the client, or the cloud pod.
"""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from prometheus_client import CollectorRegistry

from lockstep_allocator.bandwidth import Trace
from lockstep_api import series
from lockstep_api.names import client_name
from lockstep_api.series import Owner
from lockstep_api.spec import Mode
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import ClientPlan, ClientReport, RoundPlan, RoundReport, Task, UpdateReport
from lockstep_serving import exporting
from lockstep_workers.cloud.metrics import CloudMetrics
from lockstep_workers.device.link import Link, Links
from lockstep_workers.device.metrics import DeviceMetrics

JOB, CLOUD = "large", "cloud"
_GROUP = 100
_STEPS, _BYTES, _ROUND_S = 20, 800_000, 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """Metrics of the pods of one job."""

    devices: dict[str, DeviceMetrics]
    cloud: CloudMetrics
    random: np.random.Generator
    stopped: threading.Event = field(default_factory=threading.Event)

    def registry(self, name: str) -> CollectorRegistry:
        """What the pod of a client, or the cloud pod, tells."""
        return self.cloud.registry if name == CLOUD else self.devices[name].registry

    def play(self, number: int, *, now: float) -> None:
        """A round of all devices, each with other figures than the last time."""
        plans = [_plan(client, self.random) for client in self.devices]
        plan = RoundPlan(round=number, rounds=10_000, participants=plans)
        self.cloud.began(plan, now=now, job_began=now - number * _ROUND_S)
        done = [self._done(one, number) for one in plans]
        self.cloud.ended(_report(number, done), plan)

    def _done(self, plan: ClientPlan, number: int) -> ClientReport:
        device, (compute_s, upload_s) = self.devices[plan.client], self.random.uniform(1, 4, 2)
        task = Task(round=number, turn=number, steps=_STEPS, frequency_ghz=plan.frequency_ghz)
        update = _update(plan, number, compute_s=float(compute_s))
        device.began(task, seconds=float(self.random.uniform(0.1, 1)), n_bytes=_BYTES)
        device.trained(update, update.energy_joules)
        device.uploaded(seconds=float(upload_s), n_bytes=_BYTES)
        arrived_s = float(compute_s + upload_s)
        return ClientReport(
            update=update, arrived_seconds=arrived_s, upload_seconds=float(upload_s), bytes=_BYTES
        )


def fleet(count: int, *, per_device: bool, seed: int = 0) -> Fleet:
    """So many devices of mode federated, whose links are emulated, in groups of a hundred."""
    groups = [f"g{index}" for index in range(-(-count // _GROUP))]
    names = [client_name(f"g{index // _GROUP}", index % _GROUP) for index in range(count)]
    told = {
        owner: series.of(owner, mode=Mode.FEDERATED, per_device=per_device)
        for owner in (Owner.DEVICE, Owner.CLOUD)
    }
    devices = {name: DeviceMetrics(JOB, name, told=told[Owner.DEVICE]) for name in names}
    for device in devices.values():
        device.show_links(Links(Link(Trace.constant(8.0)), Link(Trace.constant(20.0))))
    cloud = CloudMetrics(JOB, groups=groups, told=told[Owner.CLOUD])
    cloud.sessions(devices)
    return Fleet(devices, cloud, np.random.default_rng(seed))


def _plan(client: str, random: np.random.Generator) -> ClientPlan:
    ghz = float(random.uniform(0.5, 2.0))
    return ClientPlan(
        client=client, frequency_ghz=ghz, cpu_milli=int(200 * ghz), steps=_STEPS, applied=True
    )


def _update(plan: ClientPlan, number: int, *, compute_s: float) -> UpdateReport:
    cpu_s = compute_s * plan.frequency_ghz * 0.2
    return UpdateReport(
        client=plan.client,
        round=number,
        examples=60,
        steps=_STEPS,
        train_loss=1 / number,
        download_seconds=0.5,
        compute_seconds=compute_s,
        cpu_seconds=cpu_s,
        throttled_seconds=compute_s * 0.7,
        quota_cores=0.2 * plan.frequency_ghz,
        frequency_ghz=plan.frequency_ghz,
        energy_joules=EnergyJoules(model=cpu_s * plan.frequency_ghz**2, cpu=cpu_s * 10),
    )


def _report(number: int, done: list[ClientReport]) -> RoundReport:
    return RoundReport(
        round=number,
        planned=True,
        seconds=_ROUND_S,
        elapsed_seconds=number * _ROUND_S,
        clients=done,
        accuracy=1 - 1 / (number + 1),
        loss=1 / number,
        energy_joules=EnergyJoules(model=float(number), cpu=float(number)),
    )


def _play(job: Fleet, wall_clock: float) -> None:
    number = 1
    while not job.stopped.wait(_ROUND_S):
        number += 1
        job.play(number, now=wall_clock + number * _ROUND_S)


@contextmanager
def served(job: Fleet, *, now: float) -> Iterator[str]:
    """The address under which all pods answer while rounds are played."""
    job.play(1, now=now)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for work in (lambda: asyncio.run(_serve(job, taken)), lambda: _play(job, now)):
            threading.Thread(target=work, daemon=True).start()
        try:
            yield address
        finally:
            job.stopped.set()


async def _serve(job: Fleet, taken: socket.socket) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pages, as long as the connection lasts."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                name = head.split()[1].rpartition(b"/")[2].decode()
                body = exporting.page(job.registry(name))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n")
                writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    server = await asyncio.start_server(answer, sock=taken, backlog=2000)
    await server.serve_forever()
