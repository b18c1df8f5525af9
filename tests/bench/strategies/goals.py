"""The numbers to reach, each with what was measured and whether that is enough. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.strategies.cells import CALIBRATED, DAMPED, DOUBLED, FEDAVG, SCAFFOLD, Cell
from tests.bench.strategies.figures import (
    BySeed,
    Mean,
    Ratio,
    differences,
    mean,
    points,
    rounds_ratio,
)
from tests.bench.strategies.runs import SAME_RATE, Bench

MOST_BEHIND = -3.0
"""Points that no seed may be under tuned fedavg, at a third of its learning rate."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A number to reach."""

    setting: str
    wanted: str
    measured: str
    reached: bool | None
    """None: it has not been measured."""

    @property
    def verdict(self) -> str:
        """In a word."""
        return {True: "reached", False: "**missed**", None: "not measured"}[self.reached]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A floor for a method against another one in a cell."""

    cell: str
    method: str
    against: str
    points: float
    ratio: float | None = None
    """Of rounds to the cell's target, at most."""


FLOORS = (
    Wanted("p-ext", CALIBRATED, FEDAVG, 6.0, 0.5),
    Wanted("p-ext", CALIBRATED, DAMPED, 3.0),
    Wanted("p-extR", CALIBRATED, FEDAVG, 5.0),
    Wanted("p-extR", CALIBRATED, SCAFFOLD, 5.0),
    Wanted("ext", CALIBRATED, FEDAVG, 0.5, 0.75),
    Wanted("ext", DOUBLED, FEDAVG, 1.5, 0.6),
    Wanted("users", CALIBRATED, FEDAVG, 2.0),
)


def goals(bench: Bench) -> Iterator[Goal]:
    """All of them."""
    cells = {cell.name: cell for cell in bench.cells}
    for wanted in FLOORS:
        if wanted.cell in cells:
            yield from _floor(bench, cells[wanted.cell], wanted)
    if {"p-ext", "p-equal"} <= cells.keys():
        yield _unequal(bench, cells["p-ext"], cells["p-equal"])
    yield _same_rate(bench)
    yield _no_seed(bench)


def _floor(bench: Bench, cell: Cell, wanted: Wanted) -> Iterator[Goal]:
    title = f"{cell.title}: {wanted.method} against {wanted.against}"
    pair = bench.tuned(cell, wanted.method), bench.tuned(cell, wanted.against)
    yield _points(title, wanted, *pair)
    if wanted.ratio is not None:
        yield _rounds(bench, cell, wanted)


Tuned = tuple[float, BySeed] | None


def _points(title: str, wanted: Wanted, of: Tuned, against: Tuned) -> Goal:
    text = f"{wanted.points:+g} points"
    if of is None or against is None:
        return Goal(title, text, "", None)
    found = mean(differences(of[1], against[1]).values())
    return Goal(title, text, signed(found), found.value >= wanted.points)


def _rounds(bench: Bench, cell: Cell, wanted: Wanted) -> Goal:
    """Judged at the learning rates that reach the target soonest; tells the others' ratio, too."""
    title = f"{cell.title}: {wanted.method} against {wanted.against}"
    target, most = bench.target(cell), wanted.ratio or 0.0
    text = f"≤ {most:g} × the rounds to {points(target):g} %"
    names = wanted.method, wanted.against
    fast = _pair([bench.fastest(cell, name) for name in names])
    best = _pair([bench.tuned(cell, name) for name in names])
    if fast is None or best is None:
        return Goal(title, text, "", None)
    found = rounds_ratio(*fast[1], target=target)
    usual = rounds_ratio(*best[1], target=target)
    measured = f"{_told(found)} ({fast[0]}); at the most accurate {best[0]}: {_told(usual)}"
    return Goal(title, text, measured, found is not None and found.value <= most)


def _pair(found: list[Tuned]) -> tuple[str, tuple[BySeed, BySeed]] | None:
    """Two methods' learning rates in words, and their runs; None: one is not known yet."""
    of, against = found
    if of is None or against is None:
        return None
    return f"lr {of[0]:g} and {against[0]:g}", (of[1], against[1])


def _told(ratio: Ratio | None) -> str:
    return "not every seed reached it" if ratio is None else str(ratio)


def signed(of: Mean) -> str:
    """A difference with its sign."""
    return f"{'+' if of.value >= 0 else ''}{of}"


def _unequal(bench: Bench, extreme: Cell, equal: Cell) -> Goal:
    """What unequal steps cost calibrated."""
    pair = bench.tuned(extreme, CALIBRATED), bench.tuned(equal, CALIBRATED)
    title = f"{extreme.title}: calibrated against itself with 10 steps each"
    if pair[0] is None or pair[1] is None:
        return Goal(title, "within 1 point", "", None)
    found = mean(differences(pair[0][1], pair[1][1]).values())
    return Goal(title, "within 1 point", signed(found), found.value >= -1.0)


def _same_rate(bench: Bench) -> Goal:
    """Rounds of calibrated against fedavg at one small learning rate, wherever it got there."""
    title = f"all cells, both at lr {SAME_RATE:g}: rounds to the target"
    found: dict[str, Ratio] = {}
    for cell in bench.cells:
        if cell.momentum:
            continue
        pair = [bench.at(cell, name, SAME_RATE) for name in (CALIBRATED, FEDAVG)]
        if pair[0] and pair[1]:
            ratio = rounds_ratio(pair[0], pair[1], target=bench.target(cell))
            if ratio is not None:
                found[cell.name] = ratio
    told = ", ".join(f"{name} {ratio}" for name, ratio in found.items())
    reached = all(ratio.value <= 0.5 for ratio in found.values()) if found else None
    return Goal(title, "≤ 0.5 ×", told, reached)


def _no_seed(bench: Bench) -> Goal:
    """How far the worst seed of any cell is behind fedavg."""
    title = "every cell: calibrated at a third of fedavg's best lr against fedavg, seed by seed"
    worst: list[tuple[float, str]] = []
    for cell in bench.cells:
        third, fedavg = bench.third(cell), bench.tuned(cell, FEDAVG)
        runs = None if third is None else bench.at(cell, CALIBRATED, third)
        if runs is not None and fedavg is not None:
            each = differences(runs, fedavg[1])
            worst += [(each[seed], f"{cell.name} seed {seed}") for seed in each]
    wanted = f"no seed more than {-MOST_BEHIND:g} points behind"
    if not worst:
        return Goal(title, wanted, "", None)
    behind = sorted(one for one in worst if one[0] < MOST_BEHIND) or [min(worst)]
    told = ", ".join(f"{points:+.2f} ({where})" for points, where in behind)
    return Goal(title, wanted, f"{told}; {len(worst)} runs", min(worst)[0] >= MOST_BEHIND)
