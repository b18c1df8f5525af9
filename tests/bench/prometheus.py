"""The chart's Prometheus beside the pods of a large job, without a cluster.

    python -m tests.bench.prometheus [--devices 1000] [--seconds 120] [--silent]

Runs the program with the chart's own configuration, rules and arguments and prints its memory, open
files and series. One process on loopback has the exporters of all pods (`exporters`); with --silent
there are as many addresses that take no connection, as when nodes are lost or kwok plays the pods.
`telemetry` measures with it.
"""

import argparse
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import yaml

from lockstep_api.names import Role, client_name, client_pod, cloud_pod
from lockstep_api.series import labels
from lockstep_operator.core.pods import scrape_interval_s
from lockstep_operator.core.targets import INTERVAL_LABEL
from tests.bench.exporters import CLOUD, JOB, fleet, served
from tests.cluster import api
from tests.support.promtool import program

CHART = Path(__file__).resolve().parents[2] / "charts" / "lockstep"
NAMESPACE = "lab"
SHOWN = (
    "prometheus_tsdb_head_series", "process_open_fds", "go_goroutines",
    "go_memstats_heap_inuse_bytes", "prometheus_target_scrape_pools_total",
)  # fmt: skip
EVERY_S = 15


@contextmanager
def silent() -> Iterator[str]:
    """An address under which nobody answers.

    A listener whose queue is full takes no connection: the kernel drops what asks for one.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(0)
        with socket.create_connection(taken.getsockname()):
            yield f"127.0.0.1:{taken.getsockname()[1]}"


def targets(address: str, count: int) -> list[dict[str, Any]]:
    """Device pods, and their cloud pod, as the operator lists them."""
    interval = scrape_interval_s(count)
    clients = [client_name(f"g{index // 100}", index % 100) for index in range(count)]
    found = [_target(address, CLOUD, pod=cloud_pod(JOB), tier=Role.CLOUD)]
    for client in clients:
        one = _target(address, client, pod=client_pod(JOB, client), tier=Role.DEVICE)
        one["labels"][labels.CLIENT] = client
        if interval > 1:
            one["labels"][INTERVAL_LABEL] = f"{interval}s"
        found.append(one)
    return found


def _target(address: str, path: str, *, pod: str, tier: Role) -> dict[str, Any]:
    told = {labels.NAMESPACE: NAMESPACE, labels.JOB: JOB, labels.POD: pod, labels.TIER: tier.value}
    return {"targets": [address], "labels": {"__metrics_path__": f"/{path}", **told}}


@dataclass(frozen=True, slots=True)
class Chart:
    """What the chart's Prometheus is told."""

    files: Mapping[str, str]
    """Of its ConfigMap."""
    arguments: list[str]
    memory: str
    """Its limit."""


def chart() -> Chart:
    """As it is with its default values."""
    text = api.helm("template", "lockstep", str(CHART))
    made = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text) if one}
    pod = made["Deployment", "lockstep-prometheus"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    return Chart(
        made["ConfigMap", "lockstep-prometheus"]["data"],
        container["args"],
        container["resources"]["limits"]["memory"],
    )


def command(
    file: Path, folder: Path, *, made: Chart, found: list[dict[str, Any]], port: int
) -> list[str]:
    """Prometheus as the chart runs it, with these targets instead of a cluster's pods."""
    config = yaml.safe_load(made.files["prometheus.yml"])
    config["rule_files"] = [str(folder / "rules.yml")]
    (folder / "rules.yml").write_text(made.files["rules.yml"])
    job, _ = config["scrape_configs"]
    del job["http_sd_configs"]
    (folder / "targets.json").write_text(json.dumps(found))
    job["file_sd_configs"] = [{"files": [str(folder / "targets.json")]}]
    config["scrape_configs"] = [job]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    replaced = ("--config", "--storage.tsdb.path", "--web.listen")
    kept = [one for one in made.arguments if not one.startswith(replaced)]
    return [
        str(file), *kept, f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Running:
    """A Prometheus that runs."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait(self, seconds: float) -> None:
        """Lets it run; one that has ended meanwhile fails."""
        time.sleep(seconds)
        if self.process.poll() is not None:
            raise SystemExit(f"prometheus has ended:\n{self.log.read_text()[-2000:]}")

    def own(self) -> dict[str, float]:
        """What it says of itself."""
        with urlopen(f"{self.url}/metrics", timeout=30) as said:
            lines = [line.rsplit(" ", 1) for line in said.read().decode().splitlines()]
        return {line[0]: float(line[1]) for line in lines if not line[0].startswith("#")}

    def memory_mib(self) -> tuple[float, float]:
        """What is resident, and the most that was, as the kernel says."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        now, most = (
            int(status.split(f"{key}:")[1].split()[0]) / 1024 for key in ("VmRSS", "VmHWM")
        )
        return now, most


@contextmanager
def prometheus(found: list[dict[str, Any]], *, made: Chart) -> Iterator[Running]:
    """Prometheus with these targets."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = command(program("prometheus"), folder, made=made, found=found, port=port)
        log = folder / "log"
        with log.open("wb") as out, subprocess.Popen(words, stdout=out, stderr=out) as process:
            try:
                yield Running(port, process, log)
            finally:
                process.terminate()


def shown(running: Running) -> str:
    """What Prometheus says of itself, and what the kernel says of its memory."""
    values, (resident, most) = running.own(), running.memory_mib()
    parts = ", ".join(f"{name} {values[name]:.0f}" for name in SHOWN if name in values)
    return f"{resident:.0f} MiB (at most {most:.0f}), {parts}"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.prometheus", description=__doc__)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--silent", action="store_true", help="no device answers")
    wanted = parser.parse_args()
    job = fleet(wanted.devices, per_device=True)
    there = silent() if wanted.silent else served(job, now=time.time())
    with there as address, prometheus(targets(address, wanted.devices), made=chart()) as running:
        for second in range(EVERY_S, wanted.seconds + 1, EVERY_S):
            running.wait(EVERY_S)
            print(f"{second} s: {shown(running)}", flush=True)


if __name__ == "__main__":
    main()
