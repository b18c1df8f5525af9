"""The pictures of the page: differences to tuned fedavg, and curves of the most important cells."""

from pathlib import Path

from lockstep_pictures.bands import banded
from lockstep_pictures.bars import Bar, bars
from lockstep_pictures.curves import Axis, lines
from lockstep_pictures.files import rendered
from lockstep_pictures.panels import stacked
from lockstep_pictures.theme import Picture
from tests.bench.strategies.cells import FEDAVG, Cell
from tests.bench.strategies.figures import differences, mean, points
from tests.bench.strategies.page import lines as known_lines
from tests.bench.strategies.runs import Bench

CURVES = ("p-ext", "p-extR", "ext", "users")
_COLUMNS, _MOST_CURVES = 4, 6
_LEAST_POINTS = -12.0
"""Bars that go further down are cut: the others would not be seen."""


def draw(bench: Bench, folder: Path) -> None:
    """Both, into a folder."""
    _differences(bench, folder / "strategies-differences.png")
    _curves(bench, folder / "strategies-curves.png")


def _differences(bench: Bench, file: Path) -> None:
    """Bars, one panel a cell; whiskers are standard errors."""
    known = [cell for cell in bench.cells if bench.tuned(cell, FEDAVG) is not None]
    panels = [_bars(bench, cell) for cell in known]
    rows = [panels[begin : begin + _COLUMNS] for begin in range(0, len(panels), _COLUMNS)]
    picture = stacked(*rows, width=240)
    title = "Points of final accuracy against tuned fedavg"
    file.write_bytes(rendered(picture, "png", title=title, scale=1.2))


def _bars(bench: Bench, cell: Cell) -> Picture:
    fedavg = bench.tuned(cell, FEDAVG)
    assert fedavg is not None
    shown = []
    for one in known_lines(bench, cell):
        if one.method != FEDAVG:
            found = mean(differences(one.runs, fedavg[1]).values())
            shown.append(Bar(name=one.method, value=found.value, error=found.error))
    return bars(shown, x=Axis(title="points"), title=cell.name, low=_LEAST_POINTS)


def _curves(bench: Bench, file: Path) -> None:
    """Mean accuracy by round with its spread, one panel a cell."""
    cells = [cell for cell in bench.cells if cell.name in CURVES and known_lines(bench, cell)]
    panels = [_panel(bench, cell) for cell in cells]
    picture = stacked(panels[:2], panels[2:], width=420, height=260)
    file.write_bytes(rendered(picture, "png", title="Accuracy by round", scale=1.2))


def _panel(bench: Bench, cell: Cell) -> Picture:
    series = {
        one.method: banded(
            [
                [(number, points(value)) for number, value in enumerate(curve.accuracy, start=1)]
                for curve in one.runs.values()
            ],
            every=1,
        )
        for one in known_lines(bench, cell)[:_MOST_CURVES]
    }
    picture: Picture = lines(
        series,
        x=Axis(title="round", format="~d"),
        y=Axis(title="accuracy, %"),
        target=points(bench.target(cell)),
    ).properties(title=cell.title)
    return picture
