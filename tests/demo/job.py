"""The demo's last steps: installs the chart, applies an example, shows the job until it ends.

    python -m tests.demo.job install
    python -m tests.demo.job run

Called by `__main__` once the cluster is up and the images are loaded. Everything goes through
`helm` and `kubectl`, so each line can be repeated by hand; nothing here is needed to use Lockstep.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.cluster import api

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "lockstep"
EXAMPLE = ROOT / "docs" / "examples" / "fashion-mnist.yaml"
JOB = "fashion-mnist"
RELEASE_NAMESPACE = "lockstep-system"
ENDED = ("Completed", "Failed", "Refused")

Job = dict[str, Any]


class NoTelemetry(Exception):
    """Prometheus does not answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Step:
    """A command of the demo, shown as a person would type it."""

    argv: tuple[str, ...]

    def text(self) -> str:
        """The command line, with paths as seen from the project's root."""
        return " ".join(a.replace(f"{ROOT}/", "") for a in self.argv)


def environment() -> dict[str, str]:
    """This process's environment with the cluster's kubectl, helm and kubeconfig."""
    path = f"{api.tools()}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "KUBECONFIG": str(api.kubeconfig())}


def run(console: Console, *argv: str) -> None:
    """Shows a command and runs it; its output is shown only when it fails."""
    step = Step(argv)
    console.print(f"[bold]$ {step.text()}[/]", highlight=False, soft_wrap=True)
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        console.print(done.stdout + done.stderr, highlight=False, markup=False)
        raise SystemExit(f"this command failed: {step.text()}")


def watched(name: str) -> Iterator[Job]:
    """The job each time it changes, from `kubectl get --watch`; starts over when the watch ends."""
    argv = ("kubectl", "get", "federatedjob", name, "--watch", "--output=json")
    decoder = json.JSONDecoder()
    while True:
        with subprocess.Popen(argv, env=environment(), stdout=subprocess.PIPE, text=True) as watch:
            assert watch.stdout is not None
            try:
                buffer = ""
                for line in watch.stdout:
                    buffer += line
                    if line == "}\n":  # kubectl ends each object with a brace in the first column
                        yield decoder.decode(buffer)
                        buffer = ""
            finally:
                watch.terminate()
        if watch.returncode not in (0, -15):
            raise SystemExit(f"kubectl get --watch ended with {watch.returncode}")


def figures(status: Job) -> dict[str, str]:
    """What the demo shows of a status, as text."""
    energy = (status.get("energyJoules") or {}).get("model")
    accuracy, seconds = status.get("accuracy"), status.get("elapsedSeconds")
    return {
        "phase": status.get("phase") or "-",
        "round": status.get("progress") or "-",
        "clients": status.get("clients") or "-",
        "accuracy": "-" if accuracy is None else f"{accuracy:.2%}",
        "time": "-" if seconds is None else f"{seconds:.1f} s",
        "energy (modelled)": "-" if energy is None else f"{energy:.1f} J",
    }


def devices_table(status: Job) -> Table:
    """The newest plan: what frequency each device was asked for, and its CPU limit."""
    plan = status.get("lastPlan") or {}
    table = Table(title=f"plan of round {plan.get('round', '-')}", title_justify="left")
    for column in ("device", "frequency", "CPU limit", "applied"):
        table.add_column(column)
    for client in plan.get("clients", []):
        applied = "yes" if client["applied"] else client.get("reason", "no")
        ghz = f"{client['frequencyGHz']:.2f} GHz"
        table.add_row(client["client"], ghz, f"{client['cpuMilli']}m", applied)
    return table


class Screen:
    """Live progress on a terminal; one line for each round elsewhere."""

    def __init__(self, console: Console) -> None:
        """`console` decides which of the two it is."""
        self.console = console
        self.bar = Progress(
            TextColumn("rounds"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(), console=console,
        )  # fmt: skip
        self.task = self.bar.add_task("rounds", total=None)
        self.live = Live(self.bar, console=console, refresh_per_second=8)
        self.last = ""

    def __enter__(self) -> "Screen":
        """Starts the live part."""
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the last picture on the screen."""
        if self.console.is_terminal:
            self.live.stop()

    def show(self, status: Job) -> None:
        """Shows a new status."""
        shown = figures(status)
        line = "   ".join(f"{name} {value}" for name, value in shown.items())
        if self.console.is_terminal:
            rounds = status.get("rounds")
            self.bar.update(self.task, total=rounds, completed=status.get("round") or 0)
            self.live.update(Group(self.bar, line, devices_table(status)))
        elif line != self.last:
            self.console.print(line, highlight=False, soft_wrap=True)
        self.last = line


def follow(console: Console) -> Job:
    """Shows the job until it ends, and returns it as it ended."""
    with Screen(console) as screen:
        for job in watched(JOB):
            status: Job = job.get("status") or {}
            screen.show(status)
            if status.get("phase") in ENDED:
                return job
    raise AssertionError("the watch starts over for ever")


def prometheus_rows(query: str) -> list[tuple[str, float]]:
    """One instant query to the chart's Prometheus, through the apiserver's proxy."""
    path = (
        f"/api/v1/namespaces/{RELEASE_NAMESPACE}/services/lockstep-prometheus:9090"
        f"/proxy/api/v1/query?query={query}"
    )
    done = subprocess.run(
        ("kubectl", "get", "--raw", path),
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise NoTelemetry((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    result = json.loads(done.stdout)["data"]["result"]
    return [(r["metric"].get("client", ""), float(r["value"][1])) for r in result]


def telemetry_table() -> Table:
    """Per device, what Prometheus has collected in the last ten minutes."""
    columns = {
        "energy, modelled": ('lockstep_energy_joules_total{source="model"}', "J"),
        "CPU time": ("lockstep_cpu_seconds_total", "s"),
        "throttled": ("lockstep_throttled_seconds_total", "s"),
    }
    window = f'{{job="{JOB}"}}[10m]'
    table = Table("device", *columns, title="from Prometheus", title_justify="left")
    cells: dict[str, list[str]] = {}
    for selector, unit in columns.values():
        name, _, labels = selector.partition("{")
        full = window if not labels else f'{{job="{JOB}",{labels}[10m]'
        query = f"max by (client)(max_over_time({name}{full}))".replace(" ", "%20")
        for client, value in prometheus_rows(query.replace('"', "%22")):
            cells.setdefault(client, []).append(f"{value:.2f} {unit}")
    for client, row in sorted(cells.items()):
        table.add_row(client, *row)
    return table


def summary(console: Console, job: Job, seconds: float) -> None:
    """How it ended, and how to look further."""
    status = job["status"]
    try:
        console.print(telemetry_table())
    except NoTelemetry as error:  # the job has ended all the same
        console.print(f"no figures from Prometheus: {error}", highlight=False, markup=False)
    for condition in status.get("conditions", []):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            console.print(f"{condition['type']}: {condition['message']}", highlight=False)
    line = ", ".join(f"{name} {value}" for name, value in figures(status).items())
    console.print(f"[bold]{JOB}[/]: {line}", highlight=False, soft_wrap=True)
    console.print(f"pods and training took {seconds:.0f} s", highlight=False)
    console.print(
        f"""
look further:
  export KUBECONFIG={api.kubeconfig()} PATH={api.tools()}:$PATH
  kubectl get fj
  kubectl describe fj {JOB}
  kubectl -n {RELEASE_NAMESPACE} logs deploy/lockstep-operator
  kubectl -n {RELEASE_NAMESPACE} port-forward svc/lockstep-prometheus 9090  # localhost:9090
  make cluster-down                                # takes it all away""",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def install(console: Console) -> None:
    """Installs the chart, and waits until the operator is ready."""
    run(
        console, "helm", "upgrade", "--install", "lockstep", str(CHART),
        "--namespace", RELEASE_NAMESPACE, "--create-namespace", "--wait",
    )  # fmt: skip


def run_job(console: Console) -> None:
    """Runs the example to its end."""
    began = time.monotonic()
    run(console, "kubectl", "delete", "federatedjob", JOB, "--ignore-not-found", "--wait")
    run(console, "kubectl", "apply", "--filename", str(EXAMPLE))
    job = follow(console)
    summary(console, job, time.monotonic() - began)
    if job["status"]["phase"] != "Completed":
        raise SystemExit(f"{JOB} ended as {job['status']['phase']}: see kubectl describe fj {JOB}")


def main() -> None:
    """Runs the step that is named."""
    (name,) = sys.argv[1:]
    {"install": install, "run": run_job}[name](Console())


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped watching; the job goes on. make cluster-down takes all of it away.")
