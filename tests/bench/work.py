"""Does a device's round take W/f seconds? From 0.1 to 1 core, by quota and by slowing itself.

    .venv/bin/python -m tests.bench.work [--models mlp cnn] [--seconds 1.2 5] [--repeats 5]

A child process in a CPU cgroup of its own (v1 or v2; needs root), with a weight that keeps others
on this machine from taking its core, trains as a device pod does: its loop, its trainer, its
probes, scraped once a second. The steps are chosen so that a round should last so many seconds. W
is what the device reports as its CPU seconds; the law says W / cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockstep_api.spec import Model
from lockstep_api.wire import Task
from tests.cluster.cgroups import hierarchies
from tests.support.ports import free_port
from tests.wire.jobs import settings

CORES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
PERIOD_US = 100_000
_CALIBRATION_STEPS = 200


@dataclass(frozen=True)
class Group:
    """A CPU cgroup with a quota."""

    folder: Path
    is_v2: bool

    def limit(self, cores: float | None) -> None:
        """Sets the quota in cores; None takes it away."""
        if self.is_v2:
            quota = "max" if cores is None else str(round(cores * PERIOD_US))
            (self.folder / "cpu.max").write_text(f"{quota} {PERIOD_US}")
        else:
            quota = "-1" if cores is None else str(round(cores * PERIOD_US))
            (self.folder / "cpu.cfs_quota_us").write_text(quota)

    def add(self, pid: int) -> None:
        """Puts a process into it."""
        (self.folder / "cgroup.procs").write_text(str(pid))


@contextmanager
def cpu_group(name: str) -> Iterator[Group]:
    """A new group at the top of the CPU hierarchy, removed at the end."""
    mounts = list(hierarchies())
    v1 = next((root for root, _ in mounts if (root / "cpu.shares").exists()), None)
    root = v1 or next(root for root, kind in mounts if kind == "cgroup2")
    folder = root / name
    folder.mkdir()
    weight = ("cpu.weight", "10000") if v1 is None else ("cpu.shares", "262144")
    (folder / weight[0]).write_text(weight[1])
    try:
        yield Group(folder, is_v2=v1 is None)
    finally:
        folder.rmdir()


def _child(model: str, port: int) -> None:
    """Trains on demand: reads tasks line by line, answers each with the device's report."""
    from lockstep_serving.probes import ProbeServer  # noqa: PLC0415
    from lockstep_workers.device.connection import Work  # noqa: PLC0415 - torch, in the child only
    from lockstep_workers.device.loop import DeviceLoop  # noqa: PLC0415
    from lockstep_workers.device.metrics import DeviceMetrics  # noqa: PLC0415
    from lockstep_workers.device.parts import build_parts, find_place  # noqa: PLC0415
    from lockstep_workers.device.probes import Probed  # noqa: PLC0415
    from lockstep_workers.environment import Environment  # noqa: PLC0415
    from lockstep_workers.tensors import encode  # noqa: PLC0415

    job = settings(cloud_port=1, planner_port=1, replicas=10)
    group = job.groups[0].model_copy(update={"cpu_at_max": 1.0, "max_ghz": 1.0, "min_ghz": 0.1})
    named = Model(name=model)
    job = job.model_copy(update={"groups": (group,), "model": named})
    metrics = DeviceMetrics("bench", "d-0")
    ProbeServer("127.0.0.1", port, told=Probed(metrics.registry, lambda: True))
    place = find_place(job, "d-0", environment=Environment(), metrics=metrics)
    parts = build_parts(job, "d-0", place=place)
    loop = DeviceLoop(parts)
    body = encode([parts.client.model.vector.numpy()])
    print("ready", flush=True)
    for line in sys.stdin:
        work = Work(Task.model_validate_json(line), bytearray(body), 0.0)
        print(loop._train(work).report.to_json(), flush=True)


@dataclass
class Device:
    """The child at work."""

    process: "subprocess.Popen[str]"
    rounds: int = 0

    def train(self, steps: int, throttle: float | None) -> Any:
        """One round; the device's report."""
        self.rounds += 1
        milli = None if throttle is None else round(1000 * throttle)
        task = Task(
            round=self.rounds, turn=self.rounds, steps=steps, frequency_ghz=1.0,
            throttle_milli=milli,
        )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(task.to_json() + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@contextmanager
def device(model: str, group: Group) -> Iterator[Device]:
    """A child in the group, scraped once a second as by Prometheus."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.work", "--child", model, "--port", str(port)]
    over = threading.Event()
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        group.add(process.pid)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        scraper = threading.Thread(target=_scrape, args=(port, over))
        scraper.start()
        try:
            yield Device(process)
        finally:
            over.set()
            scraper.join()
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=30)


def _scrape(port: int, over: threading.Event) -> None:
    while not over.wait(1.0):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            answer.read()


def _measure(child: Device, group: Group, by: str, cores: float, steps: int, repeats: int) -> str:
    """A line of the table: medians of the repeats, and the worst error."""
    group.limit(cores if by == "quota" else None)
    done = [child.train(steps, None if by == "quota" else cores) for _ in range(repeats)]
    group.limit(None)
    times = [one["computeSeconds"] for one in done]
    laws = [one["cpuSeconds"] / cores for one in done]
    errors = [100 * (t / law - 1) for t, law in zip(times, laws, strict=True)]
    work = statistics.median(one["cpuSeconds"] for one in done)
    ghz = statistics.median(one["frequencyGHz"] for one in done)
    median, low, high = statistics.median(errors), min(errors), max(errors)
    return (
        f"{cores:5.1f}  {work:8.3f}  {1e3 * work / steps:7.2f}  {statistics.median(times):8.2f}"
        f"  {statistics.median(laws):8.2f}  {median:+7.1f}  {low:+6.1f} … {high:+5.1f}  {ghz:5.2f}"
    )


def _load() -> str:
    return "load " + " ".join(f"{one:.2f}" for one in os.getloadavg())


def main() -> None:
    """Prints a table for each model, way of slowing and length of a round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["mlp", "cnn"])
    parser.add_argument("--ways", nargs="+", default=["quota", "throttle"])
    parser.add_argument("--cores", nargs="+", type=float, default=list(CORES))
    parser.add_argument("--seconds", nargs="+", type=float, default=[1.2, 5.0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(options.child, options.port)
        return
    for model in options.models:
        with cpu_group(f"lockstep-bench-{os.getpid()}") as group, device(model, group) as child:
            child.train(_CALIBRATION_STEPS // 4, None)
            alone = child.train(_CALIBRATION_STEPS, None)["cpuSeconds"] / _CALIBRATION_STEPS
            for by in options.ways:
                for seconds in options.seconds:
                    print(f"\n{model} by {by}, rounds of about {seconds:g} s; {_load()}")
                    print(
                        "cores  W core·s  ms/step    time s     W/f s  error %  all of them     GHz"
                    )
                    for cores in options.cores:
                        steps = max(1, round(seconds * cores / alone))
                        line = _measure(child, group, by, cores, steps, options.repeats)
                        print(line, flush=True)


if __name__ == "__main__":
    main()
