"""The demo's last steps: installs the chart, applies an example, watches the job, reports of it.

    python -m tests.demo.job install
    python -m tests.demo.job run

Called by `__main__` once the cluster is up and the images are loaded. Everything goes through
`helm`, `kubectl` and `lockstep`, so each line can be repeated by hand; nothing here is needed to
use Lockstep.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tests.cluster import api

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "lockstep"
EXAMPLE = ROOT / "docs" / "examples" / "fashion-mnist.yaml"
REPORT = ROOT / "build" / "demo" / "fashion-mnist.html"
JOB = "fashion-mnist"
RELEASE_NAMESPACE = "lockstep-system"
PROGRAM = (sys.executable, "-m", "lockstep_cli")


@dataclass(frozen=True, slots=True)
class Step:
    """A command of the demo, shown as a person would type it."""

    argv: tuple[str, ...]

    def text(self) -> str:
        """The command line, with paths as seen from the project's root."""
        line = " ".join(a.replace(f"{ROOT}/", "") for a in self.argv)
        return line.replace(" ".join(PROGRAM), "lockstep")

    def show(self, console: Console) -> None:
        """Says what is run."""
        console.print(f"[bold]$ {self.text()}[/]", highlight=False, soft_wrap=True)


def environment() -> dict[str, str]:
    """This process's environment with the cluster's kubectl, helm and kubeconfig."""
    path = f"{api.tools()}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "KUBECONFIG": str(api.kubeconfig())}


def run(console: Console, *argv: str) -> None:
    """Shows a command and runs it; its output is shown only when it fails."""
    step = Step(argv)
    step.show(console)
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        console.print(done.stdout + done.stderr, highlight=False, markup=False)
        raise SystemExit(f"this command failed: {step.text()}")


def lockstep(console: Console, *words: str) -> int:
    """Shows a command of Lockstep and runs it with this terminal; its exit code."""
    step = Step((*PROGRAM, *words))
    step.show(console)
    return subprocess.run(step.argv, env=environment(), check=False).returncode


def look_further(console: Console) -> None:
    """What else there is to see."""
    program = " ".join(PROGRAM)
    console.print(
        f"""
look further:
  export KUBECONFIG={api.kubeconfig()} PATH={api.tools()}:$PATH
  alias lockstep='{program}'
  lockstep describe {JOB}
  lockstep events {JOB}
  lockstep model {JOB} -o model.safetensors
  kubectl get fj
  kubectl -n {RELEASE_NAMESPACE} logs deploy/lockstep-operator
  make cluster-down                                # takes it all away
""",
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
    """Runs the example to its end, and ends with the path of its report."""
    began = time.monotonic()
    run(console, "kubectl", "delete", "federatedjob", JOB, "--ignore-not-found", "--wait")
    run(console, "kubectl", "apply", "--filename", str(EXAMPLE))
    if lockstep(console, "watch", JOB, "--wait") != 0:
        raise SystemExit(f"{JOB} did not complete: see lockstep describe {JOB}")
    console.print(f"pods and training took {time.monotonic() - began:.0f} s", highlight=False)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    lockstep(console, "devices", JOB)
    look_further(console)
    if lockstep(console, "report", JOB, "--output", str(REPORT)) != 0:
        raise SystemExit(f"there is no report of {JOB}: its model is fine all the same")


def main() -> None:
    """Runs the step that is named."""
    (name,) = sys.argv[1:]
    {"install": install, "run": run_job}[name](Console())


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped watching; the job goes on. make cluster-down takes all of it away.")
