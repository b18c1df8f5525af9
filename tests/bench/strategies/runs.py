"""Runs jobs in this process's children, keeps what came of them, and says what is to run next.

Results are lines of JSON in a file, each with its run's key: a bench that was stopped goes on.
"""

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean

import torch

from lockstep_simulator.simulated import SimulatedRound
from lockstep_simulator.simulation import Setup, simulate
from lockstep_simulator.work import Work
from lockstep_workers.data import Dataset
from lockstep_workers.errors import InvalidJob, JobFailed
from lockstep_workers.learning.client import Client
from tests.bench.strategies.cells import (
    CALIBRATED,
    FEDAVG,
    METHODS,
    SEEDS,
    WORK_PER_STEP,
    Cell,
    Method,
    Run,
    rounded,
)
from tests.bench.strategies.examples import Source, load
from tests.bench.strategies.figures import BySeed, Curve, best_rate, fastest_rate, promising

FAR = 0.08
"""A target so far from tuned fedavg's final accuracy tells nothing."""
SAME_RATE = 0.05
"""The learning rate at which fedavg and calibrated are compared without tuning."""


@dataclass(slots=True)
class Results:
    """What is known, by key; with a file, what is added is kept."""

    file: Path
    curves: dict[str, Curve] = field(default_factory=dict)
    wall_s: float = 0.0
    """Seconds of one core that all the runs took."""

    def read(self) -> "Results":
        """Takes over what the file has; a last line that was cut short does not count."""
        for line in self.file.read_text().splitlines() if self.file.exists() else ():
            try:
                held = json.loads(line)
            except ValueError:
                continue
            self._take(held["key"], held["curve"], held["wall"])
        return self

    def add(self, key: str, curve: Curve, wall_s: float) -> None:
        """Keeps what came of a run."""
        line = json.dumps({"key": key, "curve": asdict(curve), "wall": round(wall_s, 2)})
        with self.file.open("a") as out:
            out.write(line + "\n")
        self.curves[key], self.wall_s = curve, self.wall_s + wall_s

    def _take(self, key: str, curve: Mapping[str, Sequence[float]], wall_s: float) -> None:
        self.curves[key] = Curve(**{name: tuple(values) for name, values in curve.items()})
        self.wall_s += wall_s


@dataclass(frozen=True, slots=True)
class Bench:
    """Cells, their data, and what is known of them."""

    cells: Sequence[Cell]
    sources: Mapping[str, Source]
    results: Results
    seeds: tuple[int, ...] = SEEDS

    def known(self, cell: Cell, method: Method) -> dict[float, dict[int, Curve]]:
        """What has been run of a method in a cell, by learning rate and seed."""
        rates = {*cell.rates(method)}
        if method.name in (FEDAVG, CALIBRATED):
            rates |= {*self._same(cell), *self._third(cell)}
        found: dict[float, dict[int, Curve]] = {}
        for rate in sorted(rates):
            of = {seed: self._curve(Run(cell, method, rate, seed)) for seed in self.seeds}
            if known := {seed: curve for seed, curve in of.items() if curve is not None}:
                found[rate] = known
        return found

    def tuned(self, cell: Cell, name: str) -> tuple[float, BySeed] | None:
        """A method at its best learning rate, with all seeds; None: it is not known yet."""
        by_rate = self.known(cell, METHODS[name])
        rate = best_rate(by_rate, self.seeds)
        return None if rate is None else (rate, by_rate[rate])

    def fastest(self, cell: Cell, name: str) -> tuple[float, BySeed] | None:
        """A method at the learning rate that reaches the target soonest; None: not known yet."""
        by_rate = self.known(cell, METHODS[name])
        rate = fastest_rate(by_rate, self.seeds, target=self.target(cell))
        return None if rate is None else (rate, by_rate[rate])

    def target(self, cell: Cell) -> float:
        """The accuracy that costs are counted to; for data that is far from it, fedavg's own."""
        fedavg = self.tuned(cell, FEDAVG)
        final = cell.target if fedavg is None else fmean(c.final for c in fedavg[1].values())
        return cell.target if abs(final - cell.target) <= FAR else math.floor(100 * final) / 100

    def at(self, cell: Cell, name: str, rate: float) -> BySeed | None:
        """A method at one learning rate, with all seeds; None: it is not known yet."""
        runs = {seed: self._curve(Run(cell, METHODS[name], rate, seed)) for seed in self.seeds}
        known = {seed: curve for seed, curve in runs.items() if curve is not None}
        return known if len(known) == len(runs) else None

    def missing(self) -> Iterator[Run]:
        """The runs that are to be done as far as is known by now, the most important first."""
        for cell in self.cells:
            yield from self._missing_in(cell, [name for name in cell.first if name in cell.methods])
        for cell in self.cells:
            yield from self._missing_in(cell, cell.methods)

    def third(self, cell: Cell) -> float | None:
        """A third of fedavg's best learning rate in a cell."""
        return next(iter(self._third(cell)), None)

    def _third(self, cell: Cell) -> list[float]:
        by_rate = {
            rate: {
                s: c for s in self.seeds if (c := self._curve(Run(cell, METHODS[FEDAVG], rate, s)))
            }
            for rate in cell.rates(METHODS[FEDAVG])
        }
        best = best_rate(by_rate, self.seeds)
        return [] if best is None else [rounded(best / 3)]

    def _same(self, cell: Cell) -> list[float]:
        return [] if cell.momentum else [SAME_RATE]

    def _missing_in(self, cell: Cell, methods: Sequence[str]) -> Iterator[Run]:
        for name in methods:
            yield from self._missing(cell, METHODS[name])
        for rate in self._third(cell) if CALIBRATED in methods else ():
            yield from self._not_known(cell, METHODS[CALIBRATED], rate)

    def _missing(self, cell: Cell, method: Method) -> Iterator[Run]:
        rates, first = cell.rates(method), self.seeds[0]
        tried = {rate: self._curve(Run(cell, method, rate, first)) for rate in rates}
        yield from (Run(cell, method, rate, first) for rate in rates if tried[rate] is None)
        if all(tried.values()):
            for rate in promising({rate: curve for rate, curve in tried.items() if curve}):
                yield from self._not_known(cell, method, rate)
        for rate in self._same(cell) if method.name in (FEDAVG, CALIBRATED) else ():
            yield from self._not_known(cell, method, rate)

    def _not_known(self, cell: Cell, method: Method, rate: float) -> Iterator[Run]:
        runs = (Run(cell, method, rate, seed) for seed in self.seeds)
        yield from (run for run in runs if self._curve(run) is None)

    def _curve(self, run: Run) -> Curve | None:
        return self.results.curves.get(run.key(self.sources[run.cell.data]))


def carry_out(bench: Bench, *, jobs: int, until: float) -> None:
    """Does what is missing, as long as `time.monotonic()` is before `until`; says how it goes."""
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin) as processes:
        running: dict[Future[tuple[Curve, float]], Run] = {}
        while True:
            for run in _next(bench, running.values(), jobs, until=until):
                running[processes.submit(_timed, run, bench.sources[run.cell.data])] = run
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                _keep(bench, running.pop(future), future)


def _next(bench: Bench, running: Iterable[Run], jobs: int, *, until: float) -> list[Run]:
    """What free processes begin."""
    if time.monotonic() >= until:
        return []
    busy, chosen = list(running), []
    for run in bench.missing():
        if len(busy) == jobs:
            break
        if run not in busy:
            busy.append(run)
            chosen.append(run)
    return chosen


def _keep(bench: Bench, run: Run, future: Future[tuple[Curve, float]]) -> None:
    curve, wall_s = future.result()
    bench.results.add(run.key(bench.sources[run.cell.data]), curve, wall_s)
    print(
        f"{run.cell.name}: {run.method.name}, lr {run.rate:g}, seed {run.seed}: "
        f"{100 * curve.final:.2f} % ({wall_s:.1f} s)",
        flush=True,
    )


def play(run: Run, source: Source, data: Dataset) -> Curve:
    """A run, simulated; the rounds of one that diverged are at chance from there on."""
    setup = Setup(spec=run.spec(source), dataset=data, work=_given)
    done: list[tuple[float, float, float, float]] = []
    try:
        done.extend(_figures(one) for one in simulate(setup))
    except InvalidJob:
        raise
    except JobFailed:
        spent = done[-1][1:] if done else (0.0, 0.0, 0.0)
        done += [(1 / source.classes, *spent)] * (run.cell.rounds - len(done))
    return Curve(*zip(*done, strict=True))


def _figures(of: SimulatedRound) -> tuple[float, float, float, float]:
    return of.accuracy, of.time_s, of.energy_j, float(of.bytes)


def _given(clients: Mapping[str, Client]) -> Work:
    return dict.fromkeys(clients, WORK_PER_STEP)


def _begin() -> None:
    torch.set_num_threads(1)


@cache
def _dataset(path: Path | None) -> Dataset:
    return load(path)


def _timed(run: Run, source: Source) -> tuple[Curve, float]:
    data = _dataset(source.path)
    began = time.thread_time()
    curve = play(run, source, data)
    return curve, time.thread_time() - began
