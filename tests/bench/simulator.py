"""Measures the simulator's speed, if asked beside Flower's simulation engine on the same work.

    python -m tests.bench.simulator [--flower PYTHON] [--repeats 3] [--digits FILE.npz]

PYTHON is that of an environment with `flwr[simulation]`; the file holds the digits of 8 × 8 pixels
that peers' benches like, as `lockstep simulate --data` takes them. All ways to run take turns, so
that each shares the machine's better and worse moments; times are compared within one run of this
bench.
Writes docs/benchmarks/simulator.md.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from threading import Event, Thread

import numpy as np
import torch

from lockstep_api.spec import FederatedJobSpec
from lockstep_simulator.examples import load_examples, npz
from lockstep_simulator.simulation import Setup, WayOf, one_by_one, settings_of, simulate, together
from lockstep_simulator.work import given
from lockstep_workers.data import Dataset, Examples
from lockstep_workers.learning.client import deal
from lockstep_workers.models import build_model

PAGE = Path(__file__).parents[2] / "docs/benchmarks/simulator.md"
FLOWER = Path(__file__).parent / "flower"
RATE, BATCH, ALPHA = 0.05, 32, 0.5


@dataclass(frozen=True)
class Work:
    """A job that everybody runs."""

    name: str
    clients: int
    steps: int
    rounds: int
    slow_rounds: int
    """Rounds where they take longer: one by one, and of the peer."""
    shrink: int = 1
    """Side of the squares of pixels that become one."""
    hidden: int = 128
    file: Path | None = None
    """Examples instead of Fashion-MNIST; their inputs have 64 values."""

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.clients} clients, {self.name}, {self.steps} steps of {BATCH} a round"

    @property
    def inputs(self) -> int:
        """Pixels of an image."""
        return 64 if self.file else (28 // self.shrink) ** 2

    def spec(self) -> FederatedJobSpec:
        """The job."""
        return FederatedJobSpec.model_validate(
            {
                "model": {"name": "mlp", "args": {"hidden": self.hidden, "inputs": self.inputs}},
                "data": {
                    "name": "fashion-mnist",
                    "partition": {"scheme": "dirichlet", "alpha": ALPHA},
                },
                "training": {
                    "rounds": self.rounds, "learningRate": RATE, "batchSize": BATCH,
                    "localSteps": {"fixed": self.steps}, "seed": 0,
                },
                "allocation": {"policy": "max"},
                "devices": [{"name": "d", "replicas": self.clients}],
            }
        )  # fmt: skip


WORKS = (
    Work("MLP 784-128-10", 100, steps=10, rounds=50, slow_rounds=8),
    Work("MLP 49-256-10", 100, steps=5, rounds=50, slow_rounds=8, shrink=4, hidden=256),
    Work("MLP 49-256-10", 10, steps=5, rounds=200, slow_rounds=20, shrink=4, hidden=256),
)


def digits(file: Path) -> tuple[Work, ...]:
    """The same on the digits of a file, of which there are few: rounds are short."""
    name = "digits, MLP 64-256-10"
    return (
        Work(name, 10, steps=5, rounds=200, slow_rounds=20, hidden=256, file=file),
        Work(name, 100, steps=5, rounds=100, slow_rounds=8, hidden=256, file=file),
    )


class Meter:
    """The CPU seconds of processes, while it is open: of those with a mark in their environment,
    and of this one if that is asked for."""

    def __init__(self, mark: str, *, this_too: bool) -> None:
        """`mark` is what their environment has."""
        self._mark, self._spent = mark.encode(), dict[int, float]()
        self._own = os.getpid() if this_too else 0
        self._at: list[tuple[float, float]] = []
        self._over = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Meter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def between(self, begin_s: float, end_s: float) -> float:
        """CPU seconds from one moment to another."""
        times, totals = zip(*self._at, strict=True)
        begin, end = np.interp([begin_s, end_s], times, totals)
        return float(end - begin)

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            for folder in Path("/proc").glob("[0-9]*"):
                pid = int(folder.name)
                try:
                    if pid == self._own or self._mark in (folder / "environ").read_bytes():
                        fields = (folder / "stat").read_text().rpartition(")")[2].split()
                        self._spent[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
                except OSError:
                    continue  # it has ended; what it spent stays
            self._at.append((time.monotonic(), sum(self._spent.values())))


_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Run:
    """What a run took."""

    ends_s: Sequence[float]
    """When each round ended."""
    accuracies: Sequence[float]
    cpu_s: float
    """CPU seconds of all processes, from the first round's end to the last one's."""
    whole_s: float
    """From the start to the end, with everything that has to be started."""

    @property
    def round_s(self) -> float:
        """Median seconds of a round but the first, which has to wait for what is started."""
        return median(after - before for before, after in pairwise(self.ends_s))

    @property
    def round_cpu_s(self) -> float:
        """CPU seconds of a round: their mean, since they are sampled."""
        return self.cpu_s / (len(self.ends_s) - 1)


def shrunk(examples: Examples, by: int) -> Examples:
    """Smaller images: the mean of each square of pixels."""
    if by == 1:
        return examples
    side = examples.inputs.shape[-1] // by
    squares = examples.inputs.reshape(-1, 1, side, by, side, by).mean(axis=(3, 5))
    return replace(examples, inputs=squares.astype(np.float32))


def dataset_of(work: Work) -> Dataset:
    """Fashion-MNIST as the work wants it, or what its file holds."""
    if work.file is not None:
        return npz(str(work.file))
    whole = load_examples(work.spec(), say=print)
    return replace(
        whole, train=shrunk(whole.train, work.shrink), test=shrunk(whole.test, work.shrink)
    )


def simulated(work: Work, dataset: Dataset, *, way: WayOf, processes: int) -> Run:
    """A run of ours."""
    setup = Setup(spec=work.spec(), dataset=dataset, work=given(0.01), way=way, processes=processes)
    began, ends, accuracies = time.monotonic(), [], []
    with Meter(f"{_MARK}={_OURS}", this_too=True) as meter:
        for done in simulate(setup):
            ends.append(time.monotonic())
            accuracies.append(done.accuracy)
    cpu_s = meter.between(ends[0], ends[-1])
    return Run(ends, accuracies, cpu_s, time.monotonic() - began)


def told(work: Work, dataset: Dataset, file: Path) -> None:
    """Writes what the peer needs to do the same: data, shares, initial weights."""
    spec = work.spec()
    setup = Setup(spec=spec, dataset=dataset, work=given(0.01))
    parts = deal(settings_of(setup), dataset.train)
    order, train, test = np.concatenate(parts), dataset.train, dataset.test
    module = build_model(spec.model, seed=spec.training.seed)
    arrays = {f"weights_{i}": p.detach().numpy() for i, p in enumerate(module.parameters())}
    np.savez(
        file, allow_pickle=False, **arrays,
        x=train.inputs[order], y=train.labels[order], sizes=[len(part) for part in parts],
        x_test=test.inputs, y_test=test.labels, mean=train.mean, scale=train.scale,
        seed=spec.training.seed, rounds=work.slow_rounds, steps=work.steps, batch_size=BATCH,
        learning_rate=RATE,
    )  # fmt: skip


def flowered(python: Path, file: Path) -> Run:
    """A run of the peer."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rounds.jsonl"
        environment = os.environ | {
            _MARK: _ITS, "BENCH_WORK": str(file), "BENCH_OUT": str(out),
            "BENCH_CORES": str(os.cpu_count()),
            "PYTHONPATH": str(FLOWER), "FLWR_HOME": folder, "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        }  # fmt: skip
        began = time.monotonic()
        with Meter(f"{_MARK}={_ITS}", this_too=False) as meter:
            done = subprocess.run(
                [str(python), "-c", "import federated; federated.main()"],
                env=environment, cwd=folder, capture_output=True, text=True, check=False,
            )  # fmt: skip
        took = time.monotonic() - began
        if done.returncode or not out.exists():
            raise SystemExit(f"Flower failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        lines = [json.loads(line) for line in out.read_text().splitlines()]
    rounds = [line for line in lines if line["round"] > 0]
    ends = [line["at_s"] for line in rounds]
    cpu_s = meter.between(ends[0], ends[-1])
    return Run(ends, [line["accuracy"] for line in rounds], cpu_s, took)


@dataclass(frozen=True)
class Measured:
    """All runs of a work, by way."""

    work: Work
    runs: Mapping[str, Sequence[Run]]

    def table(self) -> list[str]:
        """A row for each way."""
        peer = self.runs.get(PEER)
        rows = [f"## {self.work.title}", "", *_HEAD]
        for way, runs in self.runs.items():
            round_s = median(run.round_s for run in runs)
            whole = f"{median(run.whole_s for run in runs):.1f} ({len(runs[0].ends_s)})"
            cpu_s = median(run.round_cpu_s for run in runs)
            cells = [way, f"{1000 * round_s:.1f}", f"{1000 * cpu_s:.1f}", whole]
            if peer is None:
                cells += ["-", "-", "-"]
            else:
                pairs = list(zip(peer, runs, strict=True))
                times = median(its.round_s / run.round_s for its, run in pairs)
                cpu = median(its.round_cpu_s / run.round_cpu_s for its, run in pairs)
                cells += [f"{times:.1f}", f"{cpu:.1f}", f"{_apart(runs[0], peer[0]):.4f}"]
            rows.append(f"| {' | '.join(cells)} |")
        return [*rows, ""]


PEER, _MARK, _OURS, _ITS = "Flower", "LOCKSTEP_BENCH", "ours", "its"
_HEAD = (
    "| way | ms/round | CPU ms/round | whole run, s (rounds) | × Flower | × its CPU | apart |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)


def _apart(run: Run, peer: Run) -> float:
    """How far two accuracy curves are apart where both have rounds."""
    return max(abs(a - b) for a, b in zip(run.accuracies, peer.accuracies, strict=False))


def measured(work: Work, *, flower: Path | None, repeats: int) -> Measured:
    """All ways, in turns."""
    dataset = dataset_of(work)
    slow, cores = replace(work, rounds=work.slow_rounds), os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[], Run]] = {
            "one by one": lambda: simulated(slow, dataset, way=one_by_one, processes=1),
            "in groups": lambda: simulated(work, dataset, way=together, processes=1),
            f"in groups, {cores} processes": lambda: simulated(
                work, dataset, way=together, processes=cores
            ),
        }
        if flower is not None:
            file = Path(folder) / "work.npz"
            told(work, dataset, file)
            ways[PEER] = lambda: flowered(flower, file)
        runs: dict[str, list[Run]] = {way: [] for way in ways}
        for number in range(repeats):
            for way, run in ways.items():
                runs[way].append(run())
                took = 1000 * runs[way][-1].round_s
                print(f"{work.title}, {way}, run {number + 1}: {took:.1f} ms/round", flush=True)
    return Measured(work, runs)


def page(measurements: Sequence[Measured], *, repeats: int, command: str) -> str:
    """What stands in the docs."""
    head = [
        "# How fast a job is simulated",
        "",
        f"`{command}` on {os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}, "
        f"load {os.getloadavg()[0]:.0f} at the end.",
        "",
        f"Fashion-MNIST, Dirichlet {ALPHA}, FedAvg with all clients, SGD {RATE}, evaluation on all "
        "10,000 test images (of the digits 360) after each round; the smaller images are means of "
        "4 × 4 pixels. The time of a round is the median over a run's rounds but the first, then "
        f"over {repeats} run(s); CPU time is that of all processes. A whole run has all in it "
        "that must be started. × Flower says how many rounds are done in the time of one of its, "
        "× its CPU in its CPU time, both as the median of the ratios of runs that took turns: on a "
        "machine that is shared the second one is less noisy, since more processes get more of it. "
        "Apart is how far the accuracies of a round are from Flower's, at most. With a load above "
        "the number of cores, wall times say little: measure again on an idle machine.",
        "",
        "Flower's simulation engine (Ray) has one actor a core, and its clients train in NumPy, "
        "which takes less time a step than torch does. It starts from the same weights with the "
        "same shares and the same mini-batches, so both curves are the same but for float error.",
        "",
    ]
    return "\n".join([*head, *(row for one in measurements for row in one.table())])


def main() -> None:
    """Measures, prints, writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flower", type=Path, help="Python of an environment with Flower")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--digits", type=Path, help="an npz file of digits of 8 × 8 pixels")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    os.environ[_MARK] = _OURS  # processes that are started from now on have it
    flower = None if options.flower is None else options.flower.absolute()
    works = (*WORKS, *(digits(options.digits) if options.digits else ()))
    done = [measured(work, flower=flower, repeats=options.repeats) for work in works]
    command = "make bench-simulator" + (" FLOWER=…" if flower else "")
    text = page(done, repeats=options.repeats, command=command)
    options.page.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
