"""Measures how true a simulation is: examples on real pods, and in one process, side by side.

    python -m tests.bench.fidelity [--rounds 8] [--history DIR] [EXAMPLE …]

The images must be built. Each example runs on the cluster (embedded, or CLUSTER=existing) with
`deterministic: true`; on the embedded one pods get their CPU before all else on the machine. It is
then simulated with the work per step of its history: with the cluster's plans in the worker image,
where the accuracy must be the cluster's, bit for bit (another build of torch rounds otherwise); and
here, with the cluster's plans and with its own, whose round times and joules are compared.
DIR keeps what was found on the cluster. Writes docs/benchmarks/fidelity.md.
"""

import argparse
import base64
import io
import json
import os
import platform
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from lockstep_api.wire import RoundReport
from lockstep_simulator.emulation import USUAL
from lockstep_simulator.manifest import Manifest, load_manifest
from lockstep_simulator.preparing import Options, setup_of
from lockstep_simulator.replay import read_history
from lockstep_simulator.simulated import SimulatedRound
from lockstep_simulator.simulation import simulate
from tests.cluster import api, cgroups
from tests.e2e.running import (
    WORKER_IMAGE,
    apply,
    get,
    in_phase,
    installed,
    model_hash,
    on_volume,
    watch,
)
from tests.e2e.shared import ready_cluster

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/benchmarks/fidelity.md"
NAMESPACE = "fidelity"
EXAMPLES = ("fashion-mnist", "frequency", "calibrated")
READ = "print(open('/data/history.jsonl').read())"
GOAL = 0.1
FIRST = {"cpu.shares": "262144", "cpu.weight": "10000"}
"""What a control group has that gets its CPU before all others."""
ENVIRONMENT = {
    "PYTHONPATH": "/code/code.zip:/opt/lockstep/lib",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
"""Threads as in a job's pods: with other numbers of them sums differ in their last bits."""
IN_THE_IMAGE = """
import hashlib, json
from functools import partial
from pathlib import Path
from lockstep_api.spec import FederatedJobSpec
from lockstep_simulator.replay import Replay, read_history
from lockstep_simulator.simulation import Setup, simulation
from lockstep_simulator.work import from_history
from lockstep_workers.data import load_dataset
from lockstep_workers.learning.saving import model_file
told = json.loads(Path("/code/job.json").read_text())
spec = FederatedJobSpec.model_validate(told["spec"])
reports = read_history(told["history"], source="history")
setup = Setup(
    spec=spec, dataset=load_dataset(spec.data, Path("/usr/share/datasets")),
    work=partial(from_history, reports=reports), planner=Replay.of(spec, reports),
    traces=told["traces"],
)
with simulation(setup) as job:
    accuracy = [one.accuracy for one in job.rounds()]
    file = model_file(job.server.model.module)
digest = hashlib.sha256(b"".join([file.head, *file.values])).hexdigest()
print(json.dumps({"accuracy": accuracy, "model": digest}))
"""
PATIENCE_S = 500.0


@dataclass(frozen=True)
class Ran:
    """A job that ran on pods."""

    manifest: Manifest
    reports: list[RoundReport]
    start_s: float
    """From its creation to round 1."""
    model: str
    """SHA-256 of its final model."""
    replayed: dict[str, Any]
    """Accuracy of each round and SHA-256 of the model, simulated in the worker image."""


def manifest_text(example: str, rounds: int) -> str:
    """An example that repeats bit for bit, with so many rounds and no other end."""
    docs = [one for one in yaml.safe_load_all(
        (ROOT / "docs/examples" / f"{example}.yaml").read_text()) if one]  # fmt: skip
    for one in docs:
        if one["kind"] == "FederatedJob":
            one["spec"]["training"] |= {"deterministic": True, "rounds": rounds}
            one["spec"]["training"].pop("target", None)
    return yaml.safe_dump_all(docs)


@contextmanager
def pods_first() -> Iterator[None]:
    """The embedded cluster's pods get their CPU before anybody else on this machine."""
    found = [
        folder / name
        for root, _ in cgroups.hierarchies()
        for folder in root.glob("lockstep-*")
        for name in FIRST
        if (folder / name).exists()
    ]
    before = [file.read_text() for file in found]
    for file in found:
        file.write_text(FIRST[file.name])
    try:
        yield
    finally:
        for file, text in zip(found, before, strict=True):
            file.write_text(text)


def on_pods(text: str) -> dict[str, Any]:
    """Runs a job: its history, its model, and how long after its creation round 1 began."""
    docs = list(yaml.safe_load_all(text))
    for one in docs:
        apply(NAMESPACE, one)
    name = next(one["metadata"]["name"] for one in docs if one["kind"] == "FederatedJob")
    ends = in_phase("Completed", "Failed", "Refused")
    done = watch(NAMESPACE, name, ends, timeout_s=PATIENCE_S)
    if done["status"]["phase"] != "Completed":
        raise SystemExit(f"{name} did not complete: {json.dumps(done['status'], indent=1)}")
    created = datetime.fromisoformat(get(NAMESPACE, name)["metadata"]["creationTimestamp"])
    began = datetime.fromisoformat(done["status"]["startTime"])
    return {
        "text": text,
        "start_s": (began - created).total_seconds(),
        "history": on_volume(NAMESPACE, f"{name}-cloud", READ),
        "model": model_hash(NAMESPACE, name),
    }


def our_code() -> bytes:
    """What the worker image lacks of a simulation, as a zip that Python imports from."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as code:
        for folder in ("operator/lockstep_operator", "workers/lockstep_simulator"):
            for file in sorted((ROOT / folder).rglob("*.py")):
                code.write(file, file.relative_to(ROOT / folder.partition("/")[0]))
    return content.getvalue()


def in_the_image(manifest: Manifest, history: str) -> dict[str, Any]:
    """What the plans in a history come to, by the worker image's torch."""
    spec = json.loads(manifest.spec.to_json())
    told = {"spec": spec, "history": history, "traces": manifest.traces}
    meta = {"name": f"simulate-{manifest.name}"}
    code = base64.b64encode(our_code()).decode()
    files = {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta,
        "binaryData": {"code.zip": code},
        "data": {"main.py": IN_THE_IMAGE, "job.json": json.dumps(told)},
    }  # fmt: skip
    container = {
        "name": "main", "image": WORKER_IMAGE, "command": ["python3", "/code/main.py"],
        "env": [{"name": name, "value": value} for name, value in ENVIRONMENT.items()],
        "volumeMounts": [{"name": "code", "mountPath": "/code"}],
    }  # fmt: skip
    volume = {"name": "code", "configMap": meta}
    pod = {"restartPolicy": "Never", "containers": [container], "volumes": [volume]}
    for one in (files, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod}):
        api.kubectl("-n", NAMESPACE, "create", "-f", "-", stdin=json.dumps(one))
    ended = watch(NAMESPACE, meta["name"], in_phase("Succeeded", "Failed"), kind="pod",
                  timeout_s=PATIENCE_S)  # fmt: skip
    words = api.kubectl("-n", NAMESPACE, "logs", meta["name"])
    if ended["status"]["phase"] != "Succeeded":
        raise SystemExit(f"{meta['name']} failed: {words}")
    found: dict[str, Any] = json.loads(words.splitlines()[-1])
    return found


def ran(example: str, rounds: int, *, kept: Path) -> Ran:
    """What an example came to on pods, now or when it was kept."""
    text, file = manifest_text(example, rounds), kept / f"{example}.json"
    if not file.exists():
        with pods_first():
            told = on_pods(text)
            told["replayed"] = in_the_image(load_manifest(text), told["history"])
        file.write_text(json.dumps(told))
    told = json.loads(file.read_text())
    return Ran(
        manifest=load_manifest(told["text"]),
        reports=read_history(told["history"], source=file.name),
        start_s=told["start_s"],
        model=told["model"],
        replayed=told["replayed"],
    )


def simulated(job: Ran, history: Path, *, own_plans: bool) -> list[SimulatedRound]:
    """The same job in this process, with the cluster's plans or its own."""
    history.write_text("".join(one.to_json() + "\n" for one in job.reports))
    options = Options(memory=history, history=history, plans=None if own_plans else history)
    setup = setup_of(job.manifest, options)
    overheads = replace(USUAL, start_s=job.start_s)
    return list(simulate(replace(setup, overheads=overheads)))


def seconds(reports: Sequence[RoundReport]) -> list[float]:
    """How long each round took."""
    return [one.seconds for one in reports]


def joules(reports: Sequence[RoundReport]) -> list[float]:
    """Modelled energy of each round's updates."""
    so_far = [0.0, *(one.energy_joules.model or 0.0 for one in reports)]
    return [after - before for before, after in pairwise(so_far)]


def gaps(reports: Sequence[RoundReport]) -> list[float]:
    """From the end of each round to the begin of the next."""
    return [b.elapsed_seconds - b.seconds - a.elapsed_seconds for a, b in pairwise(reports)]


def apart(real: Sequence[float], found: Sequence[float]) -> float:
    """Median over rounds of the relative difference."""
    return median(abs(b - a) / a for a, b in zip(real, found, strict=True))


def compared(example: str, job: Ran, *, folder: Path) -> tuple[list[str], bool]:
    """The lines of an example, and whether all is as near as it should be."""
    lines, good = [], is_same(job)
    for own_plans in (False, True):
        found = [one.report for one in simulated(job, folder / "history", own_plans=own_plans)]
        for what, of in (("round, s", seconds), ("energy, J", joules)):
            real, here = of(job.reports), of(found)
            off = apart(real, here)
            good = good and off <= GOAL
            plans = "its own" if own_plans else "the cluster's"
            lines.append(
                f"| {example} | {plans} | {what} | {median(real):.3f} | {median(here):.3f} | "
                f"{100 * off:.1f} % |"
            )
    return lines, good


def is_same(job: Ran) -> bool:
    """Whether the cluster's plans give the cluster's accuracy and model, bit for bit."""
    accuracy = [one.accuracy for one in job.reports]
    return job.replayed == {"accuracy": accuracy, "model": job.model}


def told_of(example: str, job: Ran) -> str:
    """What else is to be said of an example."""
    pairs = zip(job.replayed["accuracy"], job.reports, strict=True)
    same = sum(accuracy == real.accuracy for accuracy, real in pairs)
    model = "the same" if job.replayed["model"] == job.model else "another"
    return (
        f"- {example}, the cluster's plans in the worker image: accuracy of {same} of "
        f"{len(job.reports)} rounds is the cluster's, bit for bit; the final model is {model} "
        f"(SHA-256 {job.model[:12]}). {median(gaps(job.reports)):.2f} s from the end of a round "
        f"to the begin of the next on pods, {USUAL.between_s:g} s in the simulation."
    )


def page(lines: Sequence[str], notes: Sequence[str], *, rounds: int) -> str:
    """The page."""
    head = (
        "# Simulated and real, side by side\n\n"
        f"Written by `python -m tests.bench.fidelity` on {os.cpu_count()} cores, Python "
        f"{platform.python_version()}: the first {rounds} rounds of each example, with "
        "`training.deterministic`, on pods of the embedded cluster, and simulated with the work "
        "per step of that history (`--history`). Plans are the cluster's (`--plans`), or the "
        "simulation's own. Seconds and joules are medians over rounds; apart is the median over "
        f"rounds of the relative difference; the goal is {100 * GOAL:.0f} %. The simulation's "
        "constants ([simulate.md](../simulate.md)) were set by runs of these examples before these "
        "ones. Pods get their CPU before all else on the machine.\n\n"
        "| example | plans | | pods | simulated | apart |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )
    return head + "\n".join(lines) + "\n\n" + "\n".join(notes) + "\n"


def main() -> None:
    """Runs and simulates all examples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("examples", nargs="*", default=[
        one for one in EXAMPLES if (ROOT / "docs/examples" / f"{one}.yaml").exists()])  # fmt: skip
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--history", type=Path, required=True)
    chosen = parser.parse_args()
    chosen.history.mkdir(parents=True, exist_ok=True)
    missing = [one for one in chosen.examples if not (chosen.history / f"{one}.json").exists()]
    if missing:
        with ready_cluster(), installed(NAMESPACE):
            for example in missing:
                ran(example, chosen.rounds, kept=chosen.history)
    lines, notes, good = list[str](), list[str](), True
    for example in chosen.examples:
        job = ran(example, chosen.rounds, kept=chosen.history)
        more, near = compared(example, job, folder=chosen.history)
        lines, good = [*lines, *more], good and near
        notes.append(told_of(example, job))
    PAGE.write_text(page(lines, notes, rounds=chosen.rounds), encoding="utf-8")
    print(PAGE.read_text())
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
