"""The page docs/benchmarks/strategies.md: numbers to reach, a table for each cell, conditions."""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.bench.strategies.cells import (
    BATCH,
    CALIBRATED,
    CELLS,
    CLIENTS,
    FEDAVG,
    LINK_MBPS,
    METHODS,
    WORK_PER_STEP,
    Cell,
)
from tests.bench.strategies.figures import (
    LAST,
    PROMISING,
    BySeed,
    cost_to,
    differences,
    mean,
    points,
)
from tests.bench.strategies.goals import goals, signed
from tests.bench.strategies.runs import Bench

NOTES = Path(__file__).with_name("notes.md")
"""What was tried beside the cells, written by hand."""


@dataclass(frozen=True, slots=True)
class Line:
    """A method in a cell, at its best learning rate."""

    method: str
    rate: float
    at_edge: bool
    """Its best learning rate is the smallest or the largest of its grid."""
    runs: BySeed


def lines(bench: Bench, cell: Cell) -> list[Line]:
    """The methods that are known in a cell, the best first."""
    found = []
    for name in cell.methods:
        tuned = bench.tuned(cell, name)
        if tuned is not None:
            rate, runs = tuned
            tried = sorted(bench.known(cell, METHODS[name]))
            found.append(Line(name, rate, rate in (tried[0], tried[-1]), runs))
    return sorted(found, key=lambda one: -mean(c.final for c in one.runs.values()).value)


def table(bench: Bench, cell: Cell) -> Iterator[str]:
    """The rows of a cell."""
    against = bench.tuned(cell, FEDAVG)
    target = bench.target(cell)
    to = f"{points(target):g} %"
    yield f"| method | lr | accuracy, % | against fedavg, points | rounds to {to} | s | J | MB |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for one in lines(bench, cell):
        accuracy = mean(points(curve.final) for curve in one.runs.values())
        if against is None or one.method == FEDAVG:
            difference = ""
        else:
            difference = signed(mean(differences(one.runs, against[1]).values()))
        rate = f"{one.rate:g}{'†' if one.at_edge else ''}"
        yield f"| {one.method} | {rate} | {accuracy} | {difference} | {_cost(one.runs, target)} |"


def _cost(runs: BySeed, target: float) -> str:
    cost = cost_to(target, runs)
    if cost is None:
        return "never | | | "
    share = "" if cost.reached == len(runs) else f" ({cost.reached} of {len(runs)})"
    return (
        f"{cost.rounds:.0f}{share} | {cost.seconds:.0f} | {cost.joules:.0f} | {cost.megabytes:.0f}"
    )


def page(bench: Bench, command: str) -> str:
    """The whole page."""
    parts = ["# The strategies, measured\n", _head(bench, command), "## Numbers to reach\n"]
    parts += ["\n".join(_goals(bench)) + "\n", _legend()]
    parts += ["![differences](strategies-differences.png)\n", "![curves](strategies-curves.png)\n"]
    empty = [cell.name for cell in bench.cells if not lines(bench, cell)]
    if empty:
        parts.append(f"Cells that have not been run yet: {', '.join(empty)}.\n")
    for cell in (cell for cell in bench.cells if cell.name not in empty):
        parts.append(f"## {cell.name}: {cell.title}\n")
        parts.append(f"{cell.rounds} rounds, {_missing(bench, cell)}\n")
        parts.append("\n".join(table(bench, cell)) + "\n")
    parts += ["## Learning rates that were tried\n", "\n".join(_grids()) + "\n"]
    return "\n".join([*parts, NOTES.read_text(encoding="utf-8")])


def _goals(bench: Bench) -> Iterator[str]:
    yield "| setting | wanted | measured | |"
    yield "| --- | --- | --- | --- |"
    for goal in goals(bench):
        yield f"| {goal.setting} | {goal.wanted} | {goal.measured} | {goal.verdict} |"


def _missing(bench: Bench, cell: Cell) -> str:
    known = {one.method for one in lines(bench, cell)}
    missing = [name for name in cell.methods if name not in known]
    return f"not run yet: {', '.join(missing)}." if missing else "complete."


def _head(bench: Bench, command: str) -> str:
    data = "; ".join(f"{role}: {source.identity}" for role, source in bench.sources.items())
    there = {cell.name for cell in bench.cells}
    left_out = [cell.name for cell in CELLS if cell.name not in there]
    return (
        f"Written by `{command}` on {os.cpu_count()} cores ({platform.machine()}), Python "
        f"{platform.python_version()}, torch {torch.__version__}, one thread a run; "
        f"{len(bench.results.curves)} runs took {bench.results.wall_s / 60:.0f} core-minutes. "
        f"Data (name, then the file's SHA-256): {data}."
        + (
            f" Left out, as their data is not given or does not fit: {', '.join(left_out)}."
            * bool(left_out)
        )
        + f"\n\nEvery run is a FederatedJob in `lockstep simulate`'s simulator: {CLIENTS} clients "
        f"of one speed (2 GHz, κ 2e-28, {WORK_PER_STEP:g} core-seconds a step, links of "
        f"{LINK_MBPS:g} Mbit/s), batches of {BATCH}, {len(bench.seeds)} seeds; partition, initial "
        "weights, sampling, local steps and mini-batches all change with the seed. Accuracy is the "
        f"mean of the last {LAST} rounds on the held-out examples; ± is one standard error over "
        "seeds; differences are paired by seed. Each method stands at the learning rate of its "
        f"grid (below) with the best mean; a rate that was more than {points(PROMISING):g} points "
        "behind with the first seed was not run with the others. With so few seeds and so coarse "
        "grids differences below about a point are noise.\n"
    )


def _legend() -> str:
    return (
        "In names m is `serverMomentum`, s `serverLearningRate`, w `calibrationWeight`. † marks a "
        "best learning rate at an edge of its grid. Ratios of rounds are judged with each method "
        "at the learning rate that reaches the target soonest. Rounds, simulated seconds, joules "
        "of all devices, and megabytes of updates are to the first round at the target, in the "
        "mean over the seeds that reached it.\n"
    )


def _grids() -> Iterator[str]:
    yield "| method | full participation | 20 % |"
    yield "| --- | --- | --- |"
    for method in METHODS.values():
        yield f"| {method.name} | {_rates(method.full)} | {_rates(method.part)} |"
    yield ""
    yield (
        f"With local momentum 0.9 a tenth of these. {CALIBRATED} was also run at a third of "
        "fedavg's best learning rate of the cell, and both at 0.05."
    )


def _rates(rates: tuple[float, ...]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)
