"""Seconds of a round without training: 1, 10 and 50 clients, 4 MB and 40 MB, beside raw sockets.

    .venv/bin/python -m tests.bench.wire_round [--clients 10 50] [--megabytes 4 40] [--rounds 20]

The server is the cloud pod's own (job, reception and routes, uvicorn) in a process of its own; each
client is a process that uses the device's own calls and sends the model back. The floor is a
star of blocking sockets with the same bytes. Both in one run, since machines differ; and both over
TLS as well, unless `--plain` is given.
"""

import argparse
import multiprocessing as mp
import socket
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from lockstep_api.sessions import Registration
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import UpdateReport
from lockstep_workers.device import connection as device
from lockstep_workers.trust import Trust
from tests.support.certificates import certified, local_ca, trusting
from tests.support.ports import free_port
from tests.wire.channels import LOOPBACK, PLAIN, over_tls
from tests.wire.jobs import FakePlanner, serving, settings

_CHUNK = 1 << 20
_TINY_VALUES = 1000
_CLIENT_MB = 100
"""Memory of a client beside its model."""


async def _serve(
    port: int,
    planner_port: int,
    n: int,
    clients: int,
    rounds: int,
    deterministic: bool,
    tls: bool,
    out: Connection,
) -> None:
    # torch is imported by the server's process only.
    import httpx2  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from lockstep_workers.cloud.job import Job  # noqa: PLC0415
    from lockstep_workers.cloud.journal import Journal  # noqa: PLC0415
    from lockstep_workers.cloud.metrics import CloudMetrics  # noqa: PLC0415
    from lockstep_workers.cloud.parts import Parts  # noqa: PLC0415
    from lockstep_workers.cloud.store import Store  # noqa: PLC0415
    from lockstep_workers.data import Examples  # noqa: PLC0415
    from lockstep_workers.hosting.bulk import BulkRoutes  # noqa: PLC0415
    from lockstep_workers.learning.strategies import fedavg  # noqa: PLC0415
    from lockstep_workers.planner_client import PlannerClient  # noqa: PLC0415

    class Tiny(torch.nn.Module):
        """A model of a given size whose evaluation costs nothing."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(n))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_zeros(len(x), 10)

    job = settings(
        cloud_port=port, planner_port=planner_port, replicas=clients, deterministic=deterministic
    )
    planner = FakePlanner(rounds=rounds)
    test = Examples(np.zeros((1, 1, 28, 28), np.uint8), np.zeros(1, np.int64))
    metrics = CloudMetrics(job.job)
    before_mb = _memory_mb("VmRSS")
    with TemporaryDirectory() as folder:
        async with httpx2.AsyncClient() as http:
            parts = Parts(
                job=job, strategy=fedavg(), module=Tiny(), test=test, metrics=metrics,
                planner=PlannerClient(job, Path(folder) / "t", client=http),
                journal=Journal(Store(Path(folder), job.uid), metrics, 1),
                examples=dict.fromkeys(job.clients(), 10),
            )  # fmt: skip
            made = Job(parts)
            app = BulkRoutes(made.reception)
            channel = over_tls() if tls else PLAIN
            async with (
                serving(planner.app(), planner_port),
                serving(app, port, channel=channel),
            ):
                await made.run()
                reports = [r.report for r in planner.requests[1:] if r.report]
                seconds = [r.seconds for r in reports]
                between = [b.elapsed_seconds - a.elapsed_seconds for a, b in pairwise(reports)]
                out.send((seconds, between, before_mb, _memory_mb("VmHWM")))


def _memory_mb(field: str) -> float:
    """A field of /proc/self/status (getrusage would also tell the parent's peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def _server(*args: object) -> None:
    import structlog  # noqa: PLC0415
    import uvloop  # noqa: PLC0415

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    uvloop.run(_serve(*args))  # type: ignore[arg-type]


def _client(url: str, number: int, ca_file: Path) -> None:
    name, trust = f"d-{number}", Trust(ca_file)
    while True:
        try:
            session = device.connect(url, trust)
            break
        except OSError:
            time.sleep(0.05)  # the server's process is starting
    registration = Registration(client=name, incarnation="1", examples=1)
    held = device.open_session(session, registration)
    connection = device.connect(url, trust)
    after, model = 0, None
    key = held.key
    while (
        work := device.get_work(connection, name, key=key, after=after, reuse=model)
    ) is not None:
        after, model = work.task.round, work.body
        report = UpdateReport(
            client=name, round=after, examples=1, steps=1, download_seconds=0, compute_seconds=0,
            cpu_seconds=0, throttled_seconds=0, frequency_ghz=1, energy_joules=EnergyJoules(),
        )  # fmt: skip
        device.send_update(connection, report, key=key, body=work.body)
    connection.close()
    held.close()
    session.close()


def lockstep_rounds(
    n: int, clients: int, rounds: int, *, deterministic: bool, tls: bool = False
) -> tuple[list[float], list[float], float, float]:
    """Seconds of each round, and from one round's end to the next one's (plan and evaluation too),
    the server's memory before there is a model and at its peak, in MB."""
    port = free_port()
    ours, theirs = mp.Pipe()
    server = mp.Process(
        target=_server, args=(port, free_port(), n, clients, rounds, deterministic, tls, theirs)
    )
    server.start()
    url = f"{'https' if tls else 'http'}://{LOOPBACK}:{port}"
    with TemporaryDirectory() as folder:
        ca_file = Path(folder) / "ca.pem"
        ca_file.write_text(local_ca().pem)
        people = [mp.Process(target=_client, args=(url, i, ca_file)) for i in range(clients)]
        for each in people:
            each.start()
        seconds, between, before, peak = ours.recv()
        for each in [server, *people]:
            each.join()
    return seconds, between, before, peak


def _raw_client(port: int, size: int, rounds: int, tls: bool) -> None:
    body = bytearray(size)
    plain = socket.create_connection((LOOPBACK, port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client = trusting(local_ca().pem) if tls else None
    with client.wrap_socket(plain, server_hostname=LOOPBACK) if client else plain as sock:
        for _ in range(rounds):
            _receive(sock, memoryview(body))
            sock.sendall(body)
        sock.recv(1)


def _receive(sock: socket.socket, view: memoryview) -> None:
    got = 0
    while got < len(view):
        got += sock.recv_into(view[got:], min(_CHUNK, len(view) - got))


def raw_rounds(n: int, clients: int, rounds: int, *, tls: bool = False) -> list[float]:
    """The floor: a star of blocking sockets, the same bytes, one running sum."""
    size = 4 * n
    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    people = [
        mp.Process(target=_raw_client, args=(port, size, rounds, tls)) for _ in range(clients)
    ]
    for each in people:
        each.start()
    sockets = [listener.accept()[0] for _ in people]
    for sock in sockets:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls:
        served = certified(local_ca(), LOOPBACK)
        sockets = [served.wrap_socket(one, server_side=True) for one in sockets]
    body, total, seconds = bytearray(size), np.zeros(n, np.float32), []
    for _ in range(rounds):
        began = time.monotonic()
        for sock in sockets:
            sock.sendall(body)
        for sock in sockets:
            _receive(sock, memoryview(body))
            total += np.frombuffer(body, np.float32)
        seconds.append(time.monotonic() - began)
    for sock in [*sockets, listener]:
        sock.close()
    for each in people:
        each.join()
    return seconds


def fixed_mb(clients: int, *, deterministic: bool) -> float:
    """MB that the server comes to need however small the model is: code, threads, connections."""
    _, _, before, peak = lockstep_rounds(_TINY_VALUES, clients, 3, deterministic=deterministic)
    return peak - before


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured."""

    clients: int
    megabytes: float
    rounds: int
    deterministic: bool = False
    """Whether sums are exact."""

    @property
    def n(self) -> int:
        """Values of the model."""
        return int(self.megabytes * 1e6 / 4)


def measure(case: Case, *, fixed: float, tls: bool) -> tuple[float, str]:
    """Seconds of a round, and a line of the table; `fixed` as `fixed_mb` says."""
    clients, megabytes, rounds = case.clients, case.megabytes, case.rounds
    seconds, between, before, peak = lockstep_rounds(
        case.n, clients, rounds, deterministic=case.deterministic, tls=tls
    )
    floor = raw_rounds(case.n, clients, rounds, tls=tls)
    ours, raw = statistics.median(seconds), statistics.median(floor)
    line = (
        f"{clients:3d} clients x {megabytes:2g} MB{', TLS' if tls else ''}: {ours:.3f} s a round "
        f"(fastest {min(seconds):.3f}), {statistics.median(between):.3f} s from end to end; "
        f"raw sockets {raw:.3f} s (fastest {min(floor):.3f}), ratio {ours / raw:.2f} "
        f"(of the fastest {min(seconds) / min(floor):.2f}); "
        f"server {before:.0f} MB at start, peak +{peak - before:.0f} MB "
        f"= {fixed:.0f} MB and {(peak - before - fixed) / megabytes:.1f} models"
    )
    return ours, line


def _fits(clients: int, megabytes: float) -> bool:
    """Whether the clients' models, ours and those of the raw sockets, fit into memory."""
    return clients * (megabytes + _CLIENT_MB) < 0.8 * _available_mb()


def _available_mb() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1024


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--megabytes", type=float, nargs="+", default=[4, 40])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--deterministic", action="store_true", help="add into an exact sum")
    parser.add_argument("--plain", action="store_true", help="without TLS only")
    options = parser.parse_args()
    for clients in options.clients:
        fixed = fixed_mb(clients, deterministic=options.deterministic)
        for megabytes in options.megabytes:
            if not _fits(clients, megabytes):
                print(f"{clients:3d} clients x {megabytes:2g} MB: not enough memory")
                continue
            case = Case(clients, megabytes, options.rounds, options.deterministic)
            plain_s, line = measure(case, fixed=fixed, tls=False)
            print(line, flush=True)
            if not options.plain:
                tls_s, line = measure(case, fixed=fixed, tls=True)
                print(f"{line}; TLS is {tls_s / plain_s:.2f} of plain", flush=True)


if __name__ == "__main__":
    mp.set_start_method("spawn")
    main()
