"""`make bench-joint`: plans of frequency and steps beside each other → docs/benchmarks/joint.md.

What came of a run is kept in --results: a bench that was stopped goes on, and the page is written
from what there is.
"""

import argparse
import time
from pathlib import Path

import torch

from lockstep_workers.models import mlp
from tests.bench.joint.page import write
from tests.bench.joint.plans import HIDDEN, SEEDS, SETTINGS, Run, plans, read_traces
from tests.bench.joint.runs import Results, World, carry_out, pooled
from tests.bench.strategies.examples import find, load

DOCS = Path(__file__).resolve().parents[3] / "docs" / "benchmarks"


def main() -> None:
    """Runs what is missing, and writes page and plot."""
    parser = argparse.ArgumentParser(prog="make bench-joint", description=__doc__)
    parser.add_argument("--data", type=Path, help="npz file; the built-in Fashion-MNIST when empty")
    parser.add_argument("--traces", type=Path, help="folder of bandwidth traces, one a family")
    parser.add_argument("--results", type=Path, default=Path("joint.jsonl"))
    parser.add_argument("--budget", type=float, default=1e9, help="minutes")
    parser.add_argument("--only", nargs="*", help="names of settings")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    until = time.monotonic() + 60 * asked.budget
    world = _world(asked.data, asked.traces)
    results = Results(asked.results)
    settings = [
        one
        for one in SETTINGS
        if (world.traces or not one.traces) and (not asked.only or one.name in asked.only)
    ]
    runs = [Run(one, plan, seed) for one in settings for seed in SEEDS for plan in plans(one)]
    carry_out(runs, world, results=results, until=until)
    write(settings, results=results, world=world, folder=DOCS)


def _world(data: Path | None, traces: Path | None) -> World:
    dataset = pooled(load(data))
    inputs = int(dataset.train.inputs[0].size)
    values = sum(one.numel() for one in mlp(hidden=HIDDEN, inputs=inputs).parameters())
    vector_mb = values * 4 / 1e6
    found = {} if traces is None else read_traces(traces, vector_mb)
    return World(dataset, find(data).identity, vector_mb, found)


if __name__ == "__main__":
    main()
