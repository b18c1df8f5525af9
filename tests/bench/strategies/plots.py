"""The pictures of the page: differences to tuned fedavg, and curves of the most important cells."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench.strategies.cells import FEDAVG, METHODS, Cell
from tests.bench.strategies.figures import differences, mean, points
from tests.bench.strategies.page import lines
from tests.bench.strategies.runs import Bench

CURVES = ("p-ext", "p-extR", "ext", "users")
_COLORS = {name: f"C{number % 10}" for number, name in enumerate(METHODS)}
_COLUMNS = 4


def draw(bench: Bench, folder: Path) -> None:
    """Both, into a folder."""
    _differences(bench, folder / "strategies-differences.png")
    _curves(bench, folder / "strategies-curves.png")


def _differences(bench: Bench, file: Path) -> None:
    """Bars, one panel a cell; whiskers are standard errors."""
    known = [cell for cell in bench.cells if bench.tuned(cell, FEDAVG) is not None]
    rows = max(1, -(-len(known) // _COLUMNS))
    figure = Figure(figsize=(4.0 * _COLUMNS, 2.9 * rows), layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(rows, _COLUMNS)).flat)
    for axes, cell in zip(panels, known, strict=False):
        _bars(axes, bench, cell)
    for axes in panels[len(known) :]:
        axes.set_axis_off()
    figure.supxlabel("points of final accuracy against tuned fedavg")
    figure.savefig(file, dpi=90)


def _bars(axes: Axes, bench: Bench, cell: Cell) -> None:
    fedavg = bench.tuned(cell, FEDAVG)
    assert fedavg is not None
    for one in reversed(lines(bench, cell)):
        if one.method == FEDAVG:
            continue
        found = mean(differences(one.runs, fedavg[1]).values())
        axes.barh(one.method, found.value, xerr=found.error, color=_COLORS[one.method])
    axes.axvline(0, color="k", lw=0.8)
    axes.set_xlim(left=max(axes.get_xlim()[0], -12))
    axes.set_title(cell.name, fontsize=9)
    axes.tick_params(labelsize=7)


def _curves(bench: Bench, file: Path) -> None:
    """Mean accuracy by round with its spread, one panel a cell."""
    figure = Figure(figsize=(12, 8), layout="constrained")
    cells = [cell for cell in bench.cells if cell.name in CURVES and lines(bench, cell)]
    panels = list(figure.subplots(2, 2).flat)
    for axes in panels[len(cells) :]:
        axes.set_axis_off()
    for axes, cell in zip(panels, cells, strict=False):
        for one in lines(bench, cell)[:6]:
            every = points(1) * np.array([curve.accuracy for curve in one.runs.values()])
            rounds = np.arange(1, every.shape[1] + 1)
            middle, spread = every.mean(axis=0), every.std(axis=0)
            axes.plot(rounds, middle, lw=1.2, color=_COLORS[one.method], label=one.method)
            axes.fill_between(
                rounds, middle - spread, middle + spread, alpha=0.12, color=_COLORS[one.method]
            )
        axes.axhline(points(bench.target(cell)), color="k", lw=0.6, ls=":")
        axes.set(title=cell.title, xlabel="round", ylabel="accuracy, %")
        axes.set_ylim(bottom=max(axes.get_ylim()[0], 30))
        axes.title.set_fontsize(9)
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=90)
