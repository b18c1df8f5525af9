"""What the chart's Prometheus needs for the devices of a large job, without a cluster.

    python -m tests.bench.prometheus --program FILE [--devices 1000] [--seconds 120] [--silent]

Runs the program with the chart's own configuration and arguments and prints its memory, open files
and series. One process on loopback serves the page of a device for each target; with --silent there
are as many addresses that take no connection, as when nodes are lost or kwok plays the pods.
"""

import argparse
import asyncio
import json
import re
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import yaml

from lockstep_api import names
from lockstep_operator.core.pods import scrape_interval_s
from lockstep_serving import exporting
from lockstep_workers.device.metrics import DeviceMetrics
from tests.cluster import api

CHART = Path(__file__).resolve().parents[2] / "charts" / "lockstep"
META = "__meta_kubernetes_pod_"
ANNOTATION = re.sub("[^a-z]", "_", names.SCRAPE_ANNOTATION)
SHOWN = (
    "prometheus_tsdb_head_series", "process_open_fds", "go_goroutines",
    "go_memstats_heap_inuse_bytes", "prometheus_target_scrape_pools_total",
)  # fmt: skip
EVERY_S = 15


def page(client: str) -> bytes:
    """What a device of the job `large` answers."""
    return exporting.page(DeviceMetrics("large", client).registry)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The page of the client that the path names, as long as the connection lasts."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            body = TEMPLATE.replace(b"CLIENT", head.split()[1].rpartition(b"/")[2])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n")
            writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, OSError):
        writer.close()


TEMPLATE = page("CLIENT")


async def serve(taken: socket.socket) -> None:
    server = await asyncio.start_server(answer, sock=taken)
    await server.serve_forever()


@contextmanager
def devices(*, silent: bool) -> Iterator[str]:
    """The address under which all devices answer, or none does.

    A listener whose queue is full takes no connection: the kernel drops what asks for one.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        if silent:
            taken.listen(0)
            with socket.create_connection(taken.getsockname()):
                yield address
            return
        thread = threading.Thread(target=lambda: asyncio.run(serve(taken)), daemon=True)
        thread.start()
        yield address


def targets(address: str, count: int) -> list[dict[str, Any]]:
    """Device pods as service discovery finds them."""
    interval = scrape_interval_s(count)
    found = []
    for index in range(count):
        client = f"g{index // 100}-{index % 100}"
        labels = {
            "__metrics_path__": f"/{client}",
            "__meta_kubernetes_namespace": "lab",
            f"{META}name": f"large-device-{client}",
            f"{META}container_port_name": "http",
            f"{META}phase": "Running",
            f"{META}ready": "true",
            f"{META}label_lockstep_dev_job": "large",
        }
        if interval > 1:
            labels[f"{META}annotation_{ANNOTATION}"] = f"{interval}s"
        found.append({"targets": [address], "labels": labels})
    return found


def chart() -> tuple[dict[str, Any], list[str]]:
    """Configuration and arguments as the chart has them."""
    text = api.helm("template", "lockstep", str(CHART))
    made = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text) if one}
    config = made["ConfigMap", "lockstep-prometheus"]["data"]["prometheus.yml"]
    pod = made["Deployment", "lockstep-prometheus"]["spec"]["template"]["spec"]
    return yaml.safe_load(config), pod["containers"][0]["args"]


def command(program: Path, folder: Path, *, found: list[dict[str, Any]], port: int) -> list[str]:
    """Prometheus as the chart runs it, with these targets instead of a cluster's pods."""
    config, arguments = chart()
    job = config["scrape_configs"][0]
    del job["kubernetes_sd_configs"]
    (folder / "targets.json").write_text(json.dumps(found))
    job["file_sd_configs"] = [{"files": [str(folder / "targets.json")]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    kept = [one for one in arguments if not one.startswith(("--config", "--storage.tsdb.path"))]
    kept = [one for one in kept if not one.startswith("--web.listen")]
    return [
        str(program), *kept, f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip


def shown(port: int, pid: int) -> str:
    """What Prometheus says of itself, and what the kernel says of its memory."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as said:
        lines = [line.split() for line in said.read().decode().splitlines()]
    values = {line[0]: float(line[1]) for line in lines if len(line) == 2}
    status = Path(f"/proc/{pid}/status").read_text()
    resident, most = (
        int(status.split(f"{key}:")[1].split()[0]) / 1024 for key in ("VmRSS", "VmHWM")
    )
    parts = ", ".join(f"{name} {values[name]:.0f}" for name in SHOWN if name in values)
    return f"{resident:.0f} MiB (at most {most:.0f}), {parts}"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.prometheus", description=__doc__)
    parser.add_argument("--program", type=Path, required=True, help="prometheus, 2.53 or later")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--silent", action="store_true", help="no device answers")
    wanted = parser.parse_args()
    port = free_port()
    with tempfile.TemporaryDirectory() as name, devices(silent=wanted.silent) as address:
        found = targets(address, wanted.devices)
        words = command(wanted.program, Path(name), found=found, port=port)
        log = Path(name) / "log"
        with log.open("wb") as out, subprocess.Popen(words, stdout=out, stderr=out) as running:
            try:
                for second in range(EVERY_S, wanted.seconds + 1, EVERY_S):
                    time.sleep(EVERY_S)
                    if running.poll() is not None:
                        raise SystemExit(f"prometheus has ended:\n{log.read_text()[-2000:]}")
                    print(f"{second} s: {shown(port, running.pid)}", flush=True)
            finally:
                running.terminate()


if __name__ == "__main__":
    main()
