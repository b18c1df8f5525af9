"""Pictures of simulations: one run's curves and devices, or a sweep's curves with bands.

`cli` and `sweep_shown` call it at the end. Invariant: the same rounds give the same bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lockstep_pictures import curves, groups, rounds
from lockstep_pictures.bands import banded
from lockstep_pictures.curves import Axis, Point
from lockstep_pictures.files import kind_of, rendered
from lockstep_pictures.model import JobFigures
from lockstep_pictures.panels import progress, stacked
from lockstep_pictures.theme import Picture
from lockstep_simulator.rows import Row
from lockstep_workers.files import write_whole

_WIDTH, _HEIGHT = 300, 190
_ACROSS = (
    ("round", Axis(title="round", format="~d"), 1.0),
    ("time_s", Axis(title="simulated time, s"), None),
    ("energy_j", Axis(title="modelled energy, J"), None),
)
_UP = {"accuracy": Axis(title="accuracy"), "loss": Axis(title="loss, nats")}
Curve = Sequence[Row]
"""The rounds of a run."""


def plot_run(job: JobFigures, path: Path, *, title: str) -> None:
    """Draws a run: accuracy and loss by round, time and energy; how rounds and devices fared.

    Args:
        job: of at least one round.
        path: a file of a kind that pictures have.
        title: the heading.

    Raises:
        OSError: it cannot be written.
    """
    picture = stacked(
        *progress([job], source="model"),
        [rounds.durations(job), groups.frequencies(job), groups.steps(job)],
        width=_WIDTH,
        height=_HEIGHT,
    )
    _write(picture, path, title=title)


def plot_sweep(series: Mapping[str, Sequence[Curve]], path: Path, *, title: str) -> None:
    """Draws a sweep: the mean over the seeds of each setting, within one standard deviation.

    Args:
        series: setting → its runs, one a seed; those of one seed have no band.
        path: a file of a kind that pictures have.
        title: the heading.

    Raises:
        OSError: it cannot be written.
    """
    rows = [
        [_swept(series, up, axis=axis, place=place) for place in range(len(_ACROSS))]
        for up, axis in _UP.items()
    ]
    picture = stacked(*rows, width=_WIDTH, height=_HEIGHT, one_legend=True)
    _write(picture, path, title=title)


def _swept(series: Mapping[str, Sequence[Curve]], up: str, *, axis: Axis, place: int) -> Picture:
    across, x, every = _ACROSS[place]
    points = {
        name: banded(
            [[(getattr(row, across), getattr(row, up)) for row in run] for run in runs],
            every=every,
        )
        for name, runs in series.items()
    }
    if up == "loss" and curves.is_wide(points):
        axis = Axis(title=axis.title, log=True)
        points = {name: [_above_zero(one) for one in found] for name, found in points.items()}
    return curves.lines(points, x=x, y=axis)


def _above_zero(point: Point) -> Point:
    """A log axis has no place for a band that reaches below it."""
    if point.low is None or point.y is None or point.low > 0:
        return point
    return Point(x=point.x, y=point.y, low=point.y, high=point.high, round=point.round)


def _write(picture: Picture, path: Path, *, title: str) -> None:
    write_whole(path, rendered(picture, kind_of(path), title=title))
