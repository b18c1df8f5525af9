"""What dishonest clients do to a job's accuracy, and what honest ones feel of the bounds.

    python -m tests.bench.robust [--data DIR] [--write]

Jobs of ten devices on Fashion-MNIST are simulated (the product's planner, clients, rounds and
server; no pods). Some devices change what their training came to before they send it. `--write`
writes docs/benchmarks/robust.md. `DIR` holds fashion-mnist/; /usr/share/datasets when empty.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lockstep_api.spec import Aggregation, Data, FederatedJobSpec
from lockstep_simulator.emulation import NO_OVERHEADS
from lockstep_simulator.simulation import Crew, Setup, simulation, together
from lockstep_simulator.trainers import Order, Way
from lockstep_simulator.work import given
from lockstep_workers.data import Dataset, load_dataset
from lockstep_workers.errors import JobFailed
from lockstep_workers.learning.client import Client, Trained
from lockstep_workers.learning.clipping import STEPS, wider
from lockstep_workers.learning.strategy import MODEL, Vector

BUILT_IN = Path("/usr/share/datasets")
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "robust.md"
ROUNDS, DEVICES = 20, 10
BAD = (1, 3)
GUARDS: dict[str, dict[str, float]] = {
    "nothing": {"clipNorm": 0, "rollbackLoss": 0},
    "clipNorm": {"rollbackLoss": 0},
    "clipNorm and rollback": {},
}
"""What is left on; the last is what a job has that says nothing."""

Lie = Callable[[Vector, Vector], Vector]
"""(the model received, the honest update) → what is sent."""


def _flipped(model: Vector, update: Vector) -> Vector:
    return model - (update - model)


def _times(factor: float) -> Lie:
    return lambda model, update: model + np.float32(factor) * (update - model)


def _nan(model: Vector, update: Vector) -> Vector:
    return np.full_like(update, np.nan)


LIES: dict[str, Lie] = {
    "flipped": _flipped,
    "flipped × 10": lambda model, update: model - np.float32(10) * (update - model),
    "× 1e3": _times(1e3),
    "× 1e16": _times(1e16),
    "NaN": _nan,
}
PARTITIONS: dict[str, dict[str, Any]] = {"equal mixtures": {"scheme": "iid"}}


@dataclass(frozen=True, slots=True)
class Lying:
    """A way to train whose first clients do not send what they found."""

    way: Way
    lie: Lie
    bad: frozenset[str]

    @property
    def clients(self) -> Mapping[str, Client]:
        """All of them."""
        return self.way.clients

    @property
    def most(self) -> int:
        """As of the way."""
        return self.way.most

    def units(self, orders: Sequence[Order]) -> list[list[int]]:
        """As of the way."""
        return self.way.units(orders)

    def train_unit(self, received: Mapping[str, Vector], orders: Sequence[Order]) -> list[Trained]:
        """As of the way, but for what is sent."""
        return self._told(received, self.way.train_unit(received, orders), orders=orders)

    def train(self, received: Mapping[str, Vector], orders: Sequence[Order]) -> list[Trained]:
        """As of the way, but for what is sent."""
        return self._told(received, self.way.train(received, orders), orders=orders)

    def _told(
        self, received: Mapping[str, Vector], done: Sequence[Trained], *, orders: Sequence[Order]
    ) -> list[Trained]:
        return [
            self._lied(received, one) if order.client in self.bad else one
            for one, order in zip(done, orders, strict=True)
        ]

    def _lied(self, received: Mapping[str, Vector], done: Trained) -> Trained:
        told = self.lie(received[MODEL], done.uploads[MODEL]).astype(np.float32)
        return replace(done, uploads={**done.uploads, MODEL: told})


def spec(
    partition: Mapping[str, Any], strategy: Mapping[str, Any], **more: Any
) -> FederatedJobSpec:
    """A job of ten devices."""
    training = {"rounds": ROUNDS, "learningRate": 0.1, "localSteps": {"fixed": 10}, "seed": 1}
    group = {"frequency": {"minGHz": 0.5, "maxGHz": 2.0}, "cpuAtMax": "1"}
    return FederatedJobSpec.model_validate(
        {
            "model": {"name": "mlp"},
            "data": {"name": "fashion-mnist", "partition": dict(partition)},
            "strategy": dict(strategy),
            "training": training | more.pop("training", {}),
            "devices": [{"name": "d", "replicas": DEVICES, **group}],
            "allocation": {"policy": "max"},
            **more,
        }
    )


def setup(
    job: FederatedJobSpec, dataset: Dataset, *, lie: Lie | None = None, bad: int = 0
) -> Setup:
    """A simulation in which the first `bad` clients lie."""

    def way(crew: Crew) -> Way:
        if lie is None:
            return together(crew)
        return Lying(together(crew), lie, frozenset([*crew.clients][:bad]))

    return Setup(spec=job, dataset=dataset, work=given(0.02), overheads=NO_OVERHEADS, way=way)


def accuracy(made: Setup) -> float | None:
    """After the last round; None: the job has failed."""
    last = 0.0
    try:
        with simulation(made) as job:
            for done in job.rounds():
                last = done.accuracy
    except JobFailed:
        return None
    return last


@dataclass(frozen=True, slots=True)
class Row:
    """An aggregation under one guard, by lie and number of liars."""

    partition: str
    aggregation: str
    guard: str
    honest: float | None
    lying: Mapping[str, list[float | None]]
    """Lie → accuracy with 1 and with 3 liars."""


def rows(dataset: Dataset) -> Iterator[Row]:
    """All of them."""
    for partition, dealt in PARTITIONS.items():
        for aggregation in Aggregation:
            trim = {"trim": 0.3} if aggregation in {"trimmedMean", "krum"} else {}
            for guard, off in GUARDS.items():
                job = spec(dealt, {"aggregation": aggregation.value, **trim, **off})
                yield Row(
                    partition,
                    aggregation.value,
                    guard,
                    accuracy(setup(job, dataset)),
                    {
                        name: [accuracy(setup(job, dataset, lie=lie, bad=bad)) for bad in BAD]
                        for name, lie in LIES.items()
                    },
                )


UNEVEN = {"perDevice": {"distribution": "uniform", "min": 1, "max": 50}}
SHARDS = {"scheme": "shards", "shardsPerClient": 1}
SKEWED = {"scheme": "dirichlet", "alpha": 0.1}
HONEST: dict[str, dict[str, Any]] = {
    "equal mixtures": {"partition": {"scheme": "iid"}},
    "dirichlet 0.1": {"partition": SKEWED},
    "dirichlet 0.1, 1 to 50 steps": {"partition": SKEWED, "training": {"localSteps": UNEVEN}},
    "one shard each, 20 steps, rate 0.2": {
        "partition": SHARDS, "training": {"localSteps": {"fixed": 20}, "learningRate": 0.2},
    },
    "dirichlet 0.1, momentum 0.9": {
        "partition": SKEWED, "training": {"momentum": 0.9, "learningRate": 0.02},
    },
    **{
        f"dirichlet 0.1, 1 to 50 steps, two a round, {name}": {
            "partition": SKEWED, "strategy": {"name": name}, "participation": {"fraction": 0.2},
            "training": {"localSteps": UNEVEN, "rounds": 50, "learningRate": 0.05},
        }
        for name in ("fedavg", "fednova", "scaffold", "calibrated")
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Felt:
    """How near honest training comes to the bounds."""

    case: str
    furthest: float
    """The furthest update, in medians of what was known before its round."""
    worst: float
    """The highest loss, in the larger of that before it and of guessing."""
    accuracy: float


def felt(case: str, how: Mapping[str, Any], dataset: Dataset) -> Felt:
    """An honest job without bounds, measured against them."""
    more = dict(how)
    off = {"clipNorm": 1_000_000, "rollbackLoss": 0}
    job = spec(more.pop("partition"), more.pop("strategy", {}) | off, **more)
    furthest, worst, before, last = 0.0, 0.0, float(np.log(10)), 0.0
    with simulation(setup(job, dataset)) as simulated:
        known = dict(simulated.server.state.reach)
        for done in simulated.rounds():
            for one in done.report.clients:
                more_steps = wider(one.update.steps, known[STEPS], momentum=job.training.momentum)
                furthest = max(furthest, one.distances[0] / known[MODEL] / more_steps)
            worst = max(worst, done.loss / max(before, float(np.log(10))))
            known, before, last = dict(simulated.server.state.reach), done.loss, done.accuracy
    return Felt(case, furthest, worst, last)


# -- the page ------------------------------------------------------------------------------------


def cell(value: float | None) -> str:
    """An accuracy as the page has it."""
    return "failed" if value is None else f"{value:.2f}"


def page(found: Sequence[Row], honest: Sequence[Felt], *, minutes: float) -> str:
    """All in Markdown."""
    lines = [HEAD.format(devices=DEVICES, rounds=ROUNDS)]
    for partition in PARTITIONS:
        lines += [f"\n## {partition[0].upper()}{partition[1:]}\n"]
        lines += ["| aggregation | safeguards | none | " + " | ".join(LIES) + " |"]
        lines += ["| --- " * (3 + len(LIES)) + "|"]
        for row in found:
            if row.partition == partition:
                told = " | ".join(" / ".join(map(cell, row.lying[name])) for name in LIES)
                lines += [f"| {row.aggregation} | {row.guard} | {cell(row.honest)} | {told} |"]
    lines += [BOUNDS]
    for one in honest:
        lines += [f"| {one.case} | {one.furthest:.1f} | {one.worst:.2f} | {one.accuracy:.2f} |"]
    lines += [f"\nIt took {minutes:.0f} minutes of one core. Again: `make bench-robust`."]
    return "\n".join(lines) + "\n"


HEAD = """# Dishonest clients

What does a job of {devices} devices learn when 1 or 3 of them send something else than what they
found? Accuracy on held-out Fashion-MNIST after {rounds} rounds of ten steps (`mlp`, rate 0.1, 6,000
training examples), simulated with the product's own planner, clients, rounds and server. `none`:
all are honest. Then, for 1 / 3 liars: the change of the model with its sign turned; the same ten
times; a thousand and 1e16 times as far as honest; NaN. `trim` is 0.3 for trimmedMean and krum.
"failed": the job ended by itself.

What to read. NaN costs its client's part and nothing else, whatever is on. A plain mean does not
bear one liar that goes far against the others. `clipNorm` makes 1e16 times no worse than ten
medians, and a round that is taken back leaves the liar out; but one that goes ten medians astray in
each round, and so never makes the loss jump, still ruins a mean. The other aggregations bear all of
these, three liars too.
"""
BOUNDS = """
## What honest clients feel

The furthest honest update, in medians of the rounds before it (`clipNorm` is 10 when empty), and
the highest loss after a round, in the larger of the loss before it and that of guessing
(`rollbackLoss` is 5 when empty). Where neither is reached the bounds change nothing.

| job | furthest update | highest loss | accuracy |
| --- | --- | --- | --- |"""


def subset(folder: Path) -> Dataset:
    """6,000 of the training examples, 1,000 of the others."""
    full = load_dataset(Data(name="fashion-mnist"), folder)
    chosen = np.random.default_rng(0).permutation(len(full.train))[:6000]
    return Dataset(full.train.part(chosen), full.test.part(np.arange(1000)), classes=full.classes)


def main() -> None:
    """Measures and tells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=BUILT_IN)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    dataset, began = subset(asked.data), time.process_time()
    honest = [felt(case, how, dataset=dataset) for case, how in HONEST.items()]
    found = []
    for row in rows(dataset):
        print(
            json.dumps([row.partition, row.aggregation, row.guard, row.honest, row.lying]),
            flush=True,
        )
        found.append(row)
    text = page(found, honest, minutes=(time.process_time() - began) / 60)
    print(text)
    if asked.write:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
