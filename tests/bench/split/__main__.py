"""Measures split training beside federated averaging; writes docs/benchmarks/split.md with plots.

    python -m tests.bench.split [--data IMAGES.npz] [--budget MINUTES] [--results FILE]

A run that is known from the file of results is not done again. The most important arms come first,
and the page says what is missing, so that the bench may be stopped, and go on, at any time.
"""

import argparse
import math
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lockstep_api.spec import Data
from lockstep_workers.data import Dataset, load_dataset
from tests.bench.split.arms import IMAGES, SEEDS, SHAPES
from tests.bench.split.page import write_page
from tests.bench.split.playing import play
from tests.bench.split.runs import Bench, Results, carry_out
from tests.bench.split.sections import SECTIONS
from tests.bench.strategies.examples import find, load

OUT = Path(__file__).parents[3] / "docs/benchmarks"
TRAIN, TEST = 8000, 2000
"""Images of each set that are used: the first ones."""


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="images; the built-in Fashion-MNIST when empty")
    parser.add_argument("--budget", type=float, default=math.inf, help="minutes")
    parser.add_argument("--results", type=Path, default=Path("build/split.jsonl"))
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--out", type=Path, default=OUT, help="where the page goes")
    return parser.parse_args()


def _few(data: Dataset) -> Dataset:
    """The first images of each part."""
    return replace(
        data,
        train=data.train.part(np.arange(min(TRAIN, len(data.train)))),
        test=data.test.part(np.arange(min(TEST, len(data.test)))),
    )


def _shapes() -> Dataset:
    return load_dataset(Data(name="shapes32", args={"train": TRAIN, "test": TEST}), Path())


def main() -> None:
    """Runs what is missing, within the budget, and writes the page."""
    given = _given()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    given.results.parent.mkdir(parents=True, exist_ok=True)
    given.out.mkdir(parents=True, exist_ok=True)
    sets = {IMAGES: _few(load(given.data)), SHAPES: _shapes()}
    identities = {
        IMAGES: f"{find(given.data).identity}, {TRAIN} and {TEST} images",
        SHAPES: f"{SHAPES}, {TRAIN} and {TEST} images",
    }
    bench = Bench(Results(given.results).read(), identities, tuple(range(given.seeds)))
    until = time.monotonic() + 60 * given.budget
    for title, measure in SECTIONS.items():
        if title not in bench.results.sections and time.monotonic() < until:
            bench.results.add_section(title, measure())
    carry_out(bench, lambda run: play(run, sets[run.arm.setting.data]), until=until)
    print(write_page(bench, given.out))


if __name__ == "__main__":
    main()
