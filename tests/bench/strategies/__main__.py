"""Measures all strategies beside each other; writes docs/benchmarks/strategies.md with plots.

    python -m tests.bench.strategies [--data IMAGES.npz] [--users WINDOWS.npz] [--jobs 2]
                                     [--budget MINUTES] [--results FILE] [--cells …] [--methods …]

A run that is known from the file of results is not done again. The most important cells come
first, and the page says what is missing, so that a bench may be stopped, and go on, at any time.
"""

import argparse
import math
import os
import time
from dataclasses import replace
from pathlib import Path

from tests.bench.strategies.cells import CELLS, METHODS, SEEDS, Cell
from tests.bench.strategies.examples import Source, find
from tests.bench.strategies.page import page
from tests.bench.strategies.plots import draw
from tests.bench.strategies.runs import Bench, Results, carry_out

OUT = Path(__file__).parents[3] / "docs/benchmarks"
COMMAND = "make bench-strategies"


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="images; the built-in Fashion-MNIST when empty")
    parser.add_argument("--users", type=Path, help="examples of users; their cells need it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once")
    parser.add_argument("--budget", type=float, default=math.inf, help="minutes")
    parser.add_argument("--results", type=Path, default=Path("build/strategies.jsonl"))
    parser.add_argument("--cells", nargs="+", choices=[cell.name for cell in CELLS])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--out", type=Path, default=OUT, help="where the page goes")
    return parser.parse_args()


def _fits(cell: Cell, source: Source | None) -> bool:
    """Whether a cell can be run with what is given."""
    if source is None:
        return False
    return cell.model["name"] != "cnn" or source.shape == (1, 28, 28)


def _asked(name: str, methods: list[str] | None) -> bool:
    return methods is None or name in methods


def main() -> None:
    """Runs what is missing, within the budget, and writes the page."""
    given = _given()
    given.results.parent.mkdir(parents=True, exist_ok=True)
    sources = {"images": find(given.data)}
    if given.users is not None:
        sources["users"] = find(given.users)
    wanted = [cell for cell in CELLS if given.cells is None or cell.name in given.cells]
    cells = [
        replace(cell, methods=tuple(name for name in cell.methods if _asked(name, given.methods)))
        for cell in wanted
        if _fits(cell, sources.get(cell.data))
    ]
    bench = Bench(cells, sources, Results(given.results).read(), tuple(range(given.seeds)))
    os.environ["OMP_NUM_THREADS"] = "1"
    carry_out(bench, jobs=given.jobs, until=time.monotonic() + 60 * given.budget)
    given.out.mkdir(parents=True, exist_ok=True)
    draw(bench, given.out)
    (given.out / "strategies.md").write_text(page(bench, COMMAND), encoding="utf-8")
    print(given.out / "strategies.md")


if __name__ == "__main__":
    main()
