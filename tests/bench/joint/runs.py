"""Simulates runs, one after another, and keeps what came of them as lines of JSON."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from lockstep_simulator.emulation import NO_OVERHEADS
from lockstep_simulator.simulated import SimulatedRound
from lockstep_simulator.simulation import Setup, simulate
from lockstep_workers.data import Dataset, Examples
from lockstep_workers.errors import JobFailed
from tests.bench.joint.plans import TRACES, Run


@dataclass(frozen=True, slots=True)
class Reached:
    """What a run took until its target."""

    rounds: int
    seconds: float
    joules: float
    mean_steps: float
    least_steps: int
    most_steps: int
    reached: bool
    accuracy: float


@dataclass(frozen=True, slots=True)
class World:
    """What all runs share."""

    dataset: Dataset
    identity: str
    vector_mb: float
    traces: Mapping[str, str]


def pooled(dataset: Dataset) -> Dataset:
    """Images of half the width and height, each pixel the mean of four."""

    def small(one: Examples) -> Examples:
        images = one.inputs.astype(np.float32)
        if images.ndim < 3 or images.shape[-1] % 2 or images.shape[-2] % 2:
            return one
        means = (images[..., ::2, ::2] + images[..., 1::2, ::2] + images[..., ::2, 1::2]
                 + images[..., 1::2, 1::2]) / 4  # fmt: skip
        return replace(one, inputs=means)

    return replace(dataset, train=small(dataset.train), test=small(dataset.test))


def play(run: Run, world: World) -> Reached:
    """A run until its target, or until it is given up."""
    inputs = int(np.prod(world.dataset.train.inputs.shape[1:]))
    setup = Setup(
        spec=run.spec(inputs, world.vector_mb),
        dataset=world.dataset,
        work=lambda _: run.work(),
        traces={TRACES: world.traces},
        overheads=replace(NO_OVERHEADS, start_s=60.0),
    )
    done: list[SimulatedRound] = []
    try:
        done.extend(simulate(setup))
    except JobFailed:  # it has diverged
        return _reached(run, done, accuracy=0.0)
    return _reached(run, done, accuracy=done[-1].accuracy)


def _reached(run: Run, done: list[SimulatedRound], *, accuracy: float) -> Reached:
    steps = [count for one in done for count in one.steps.values()]
    updates = [one.update for round_ in done for one in round_.report.clients]
    weights = [one.examples for one in updates]
    return Reached(
        rounds=len(done),
        seconds=done[-1].time_s if done else 0.0,
        joules=done[-1].energy_j if done else 0.0,
        mean_steps=float(np.average([one.steps for one in updates], weights=weights)),
        least_steps=min(steps, default=0),
        most_steps=max(steps, default=0),
        reached=accuracy >= run.setting.target,
        accuracy=accuracy,
    )


class Results:
    """What is known, by key; what is added is kept in a file."""

    def __init__(self, file: Path) -> None:
        """Takes over what the file has; a last line that was cut short does not count."""
        self.file, self.known = file, dict[str, Reached]()
        for line in file.read_text().splitlines() if file.exists() else ():
            try:
                held = json.loads(line)
            except ValueError:
                continue
            self.known[held["key"]] = Reached(**held["reached"])

    def add(self, key: str, reached: Reached) -> None:
        """Keeps what came of a run."""
        self.known[key] = reached
        with self.file.open("a") as out:
            out.write(json.dumps({"key": key, "reached": asdict(reached)}) + "\n")


def carry_out(runs: list[Run], world: World, *, results: Results, until: float) -> None:
    """Does what is missing, as long as `time.monotonic()` is before `until`; says how it goes."""
    for run in runs:
        key = run.key(world.identity)
        if key in results.known or time.monotonic() >= until:
            continue
        began = time.thread_time()
        found = play(run, world)
        results.add(key, found)
        plan, took_s = run.plan, time.thread_time() - began
        print(
            f"{run.setting.name} ({plan.kind}) {plan.method} {plan.told} lr {plan.rate:g} seed "
            f"{run.seed}: {found.rounds} rounds{'' if found.reached else ' and not there'}, "
            f"{found.seconds:.1f} s, {found.joules:.1f} J, steps {found.least_steps} to "
            f"{found.most_steps} ({took_s:.1f} s)",
            flush=True,
        )
