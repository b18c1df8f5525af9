"""How well emulated links keep their bandwidth, on loopback, with and without a CPU quota.

    .venv/bin/python -m tests.bench.links [--quota 0.1]

A process sends over a real connection at the pace of a link; another notes what arrives when. With
a quota, the sender is in a CPU cgroup of its own. The error is the worst over windows of 5 s (of
the whole transfer when it is shorter).
"""

import argparse
import contextlib
import multiprocessing as mp
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lockstep_allocator.bandwidth import Trace
from lockstep_workers.device.link import Link

_CGROUP = Path("/sys/fs/cgroup/cpu")
_PERIOD_US = 100_000


def changing(seconds: int = 60) -> Trace:
    """Another bandwidth every second, 1 to 40 Mbit/s."""
    rates = np.random.default_rng(0).uniform(1, 40, seconds)
    return Trace.of(np.arange(float(seconds)), rates, duration_s=float(seconds))


def send(port: int, trace: Trace, size: int, quota: float | None) -> None:
    """The sender's process."""
    with in_cgroup(quota), socket.create_connection(("127.0.0.1", port)) as sock:
        body = memoryview(bytes(size))

        def move(start: int, count: int) -> int:
            sock.sendall(body[start : start + count])
            return count

        Link(trace, wall_clock=lambda: 0.0).carry(size, move)


@contextlib.contextmanager
def in_cgroup(quota: float | None) -> Iterator[None]:
    """This process under a CPU quota in cores (cgroup v1)."""
    if quota is None:
        yield
        return
    group = _CGROUP / f"lockstep-bench-{os.getpid()}"
    group.mkdir()
    (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
    (group / "cpu.cfs_quota_us").write_text(str(round(quota * _PERIOD_US)))
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (_CGROUP / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def transfer(trace: Trace, size: int, quota: float | None) -> tuple[float, float, float]:
    """(seconds it took, seconds it should have, worst error over 5 s as a share)."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = mp.get_context("spawn").Process(
            target=send, args=(server.getsockname()[1], trace, size, quota)
        )
        sender.start()
        connection, _ = server.accept()
        began, arrivals, got = time.monotonic(), [(0.0, 0)], 0
        with connection:
            while piece := connection.recv(1 << 20):
                got += len(piece)
                arrivals.append((time.monotonic() - began, got))
        sender.join()
    took = arrivals[-1][0]
    return took, trace.when(8 * size), worst(trace, arrivals)


def worst(trace: Trace, arrivals: list[tuple[float, int]]) -> float:
    """The worst error over windows of 5 s."""
    at = np.array([t for t, _ in arrivals])
    got = np.array([n for _, n in arrivals], float)
    span = min(5.0, at[-1])
    errors = []
    for since in np.arange(0.0, max(at[-1] - span, 0.0) + 0.01, 0.5):
        received = np.interp(since + span, at, got) - np.interp(since, at, got)
        wanted = (trace.bits_until(since + span) - trace.bits_until(since)) / 8
        errors.append(abs(received / wanted - 1))
    return float(max(errors))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.links", description=__doc__)
    parser.add_argument("--quota", type=float, nargs="*", default=[0.1])
    quotas = [None, *parser.parse_args().quota]
    cases = [
        ("0.8 Mbit/s", Trace.constant(0.8), 100_000),
        ("8 Mbit/s", Trace.constant(8.0), 100_000),
        ("8 Mbit/s", Trace.constant(8.0), 8_000_000),
        ("40 Mbit/s", Trace.constant(40.0), 40_000_000),
        ("1 to 40, each second", changing(), 40_000_000),
    ]
    print(f"load {os.getloadavg()[0]:.2f}, {os.cpu_count()} CPUs")
    print("| link | bytes | CPU quota | took s | should s | worst error over 5 s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, trace, size in cases:
        for quota in quotas:
            took, should, error = transfer(trace, size, quota)
            limit = "none" if quota is None else f"{quota:g} cores"
            print(
                f"| {name} | {size:,} | {limit} | {took:.2f} | {should:.2f} | {error:.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
