"""Says what is to run next, runs it, and keeps what came of it.

Results are lines of JSON in a file, each with its run's key: a bench that was stopped goes on. An
arm is tried at all of its learning rates with the first seed; the best one goes on to the others.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.split.arms import ARMS, ORDER, SEEDS, SETTINGS, Arm, Run, Setting
from tests.bench.split.figures import BySeed, Curve, best


@dataclass(slots=True)
class Results:
    """What is known, by key; what is added is kept in the file."""

    file: Path
    curves: dict[str, Curve] = field(default_factory=dict)
    sections: dict[str, list[str]] = field(default_factory=dict)
    """What other benches have measured for the page, by title: lines of it."""
    core_s: float = 0.0
    """Core-seconds that all the runs took."""

    def read(self) -> "Results":
        """Takes over what the file has; a last line that was cut short does not count."""
        for line in self.file.read_text().splitlines() if self.file.exists() else ():
            try:
                held = json.loads(line)
            except ValueError:
                continue
            if "section" in held:
                self.sections[held["section"]] = held["lines"]
            else:
                self._take(held)
        return self

    def _take(self, held: Mapping[str, Any]) -> None:
        told = held["curve"]
        self.curves[held["key"]] = Curve(
            rounds=tuple(told["rounds"]),
            edge=tuple(told["edge"]),
            cloud=tuple(told["cloud"]),
            divergence=told["divergence"],
            edge_taught=told["edge_taught"],
            cloud_taught=told["cloud_taught"],
        )
        self.core_s += held["core_s"]

    def add(self, key: str, curve: Curve, *, core_s: float) -> None:
        """Keeps what came of a run."""
        self._write({"key": key, "curve": asdict(curve), "core_s": round(core_s, 2)})
        self.curves[key], self.core_s = curve, self.core_s + core_s

    def add_section(self, title: str, lines: list[str]) -> None:
        """Keeps what another bench has measured."""
        self._write({"section": title, "lines": lines})
        self.sections[title] = lines

    def _write(self, line: Mapping[str, Any]) -> None:
        with self.file.open("a") as out:
            out.write(json.dumps(line) + "\n")


@dataclass(frozen=True, slots=True)
class Bench:
    """Arms, what is known of them, and which data there is."""

    results: Results
    identities: Mapping[str, str]
    """Of each data set: tells it from others."""
    seeds: Sequence[int] = SEEDS

    def settings(self) -> list[Setting]:
        """Those whose data is there."""
        return [setting for setting in SETTINGS if setting.data in self.identities]

    def curve(self, run: Run) -> Curve | None:
        """What came of a run; None: it is not known yet."""
        return self.results.curves.get(run.key(self.identities[run.arm.setting.data]))

    def rate(self, arm: Arm) -> float | None:
        """An arm's best learning rate of training; None: not known yet."""
        if arm.base is not None:
            return self.rate(ARMS[arm.setting.name][arm.base])
        first = self.seeds[0]
        tried = {rate: self.curve(Run(arm, rate, None, first)) for rate in arm.rates}
        return best({rate: c for rate, c in tried.items() if c}, rates=arm.rates)

    def distil_rate(self, arm: Arm) -> float | None:
        """The best one of its distillation, if it distils."""
        rate = self.rate(arm)
        if not arm.distil or rate is None:
            return None
        tried = {soft: self.curve(Run(arm, rate, soft, self.seeds[0])) for soft in arm.rates}
        return best({soft: c for soft, c in tried.items() if c}, rates=arm.rates)

    def tuned(self, arm: Arm) -> BySeed:
        """An arm's runs at its best learning rates, as far as they are known."""
        runs = {run.seed: self.curve(run) for run in self._seeded(arm)}
        return {seed: curve for seed, curve in runs.items() if curve is not None}

    def missing(self) -> Iterator[Run]:
        """What is to be run as far as is known by now, the most important first."""
        for name, arms in ORDER:
            if name in {setting.name for setting in self.settings()}:
                for arm in (ARMS[name][arm] for arm in arms):
                    every = (*self._scan(arm), *self._seeded(arm))
                    yield from (run for run in every if self.curve(run) is None)

    def _scan(self, arm: Arm) -> list[Run]:
        first = self.seeds[0]
        if arm.base is None:
            return [Run(arm, rate, None, first) for rate in arm.rates]
        base = self.rate(arm)
        return [] if base is None else [Run(arm, base, soft, first) for soft in arm.rates]

    def _seeded(self, arm: Arm) -> list[Run]:
        rate, soft = self.rate(arm), self.distil_rate(arm)
        if rate is None or (arm.distil and soft is None):
            return []
        return [Run(arm, rate, soft, seed) for seed in self.seeds]


def carry_out(bench: Bench, play: Callable[[Run], Curve], *, until: float) -> None:
    """Does what is missing, one run after the other, before `time.monotonic()` is `until`."""
    while time.monotonic() < until and (run := next(bench.missing(), None)) is not None:
        began = time.process_time()
        curve = play(run)
        core_s = time.process_time() - began
        bench.results.add(run.key(bench.identities[run.arm.setting.data]), curve, core_s=core_s)
        soft = "" if run.distil_rate is None else f", distillation {run.distil_rate:g}"
        cloud = f", cloud {100 * curve.final_cloud:.2f} %" if curve.cloud else ""
        print(
            f"{run.arm.setting.name}: {run.arm.name}, lr {run.rate:g}{soft}, seed {run.seed}: "
            f"{100 * curve.final:.2f} %{cloud} ({core_s:.0f} s)",
            flush=True,
        )
