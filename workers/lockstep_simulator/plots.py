"""Pictures of simulations: one run's curves and devices, or a sweep's curves with bands.

`cli` and `sweep` call it at the end. Invariant: the same rounds give the same bytes, and nothing of
matplotlib's global state is used or left changed.
"""

import html
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lockstep_simulator.rows import Row, row_of
from lockstep_simulator.simulation import SimulatedRound
from lockstep_workers.files import write_whole

SUFFIXES = (".png", ".svg", ".html")

_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777")
"""Told apart by people who see colours differently (Tol's bright scheme)."""
_DASHES = ("-", "--", ":", "-.")
_INK, _GRID = "#333333", "#e5e5e5"
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#999999",
    "axes.labelcolor": _INK,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "font.family": "DejaVu Sans",
    "legend.fontsize": 8,
    "legend.frameon": False,
    "svg.hashsalt": "lockstep",
    "text.color": _INK,
    "xtick.color": _INK,
    "xtick.labelsize": 8,
    "ytick.color": _INK,
    "ytick.labelsize": 8,
}
_POINTS = 200
Curve = Sequence[Row]
"""The rounds of a run."""

_MOST_LABELLED = 12
_FEW_DEVICES = 16
_LEGEND_LETTERS = 160
_WIDE_RANGE = 30.0


_ACROSS = (("round", "round"), ("time_s", "simulated time, s"), ("energy_j", "modelled energy, J"))
_UP = (("accuracy", "accuracy"), ("loss", "loss, nats"))


def check_file(path: Path) -> str | None:
    """What is wrong with the name of a picture; None: it can be written."""
    if path.suffix in SUFFIXES:
        return None
    return f"--plot {path}: the name must end in one of {', '.join(SUFFIXES)}"


def plot_run(
    rounds: Sequence[SimulatedRound], path: Path, *, title: str, target: float | None = None
) -> None:
    """Draws a run: accuracy and loss by round, time and energy; how rounds and devices fared.

    Args:
        rounds: at least one.
        path: a file that `check_file` allows.
        title: the heading.
        target: the accuracy that the job was to reach.

    Raises:
        OSError: it cannot be written.
    """
    with _styled():
        figure = Figure(figsize=(12.5, 9), layout="constrained")
        panels = figure.subplots(3, 3)
        _curves(panels[:2], {"": [list(map(row_of, rounds))]}, target=target)
        _times(panels[2][0], rounds)
        _devices(panels[2][1], rounds, what="frequency_ghz", label="CPU frequency, GHz")
        _devices(panels[2][2], rounds, what="steps", label="local steps")
        _write(figure, path, title=title)


def plot_sweep(series: Mapping[str, Sequence[Curve]], path: Path, *, title: str) -> None:
    """Draws a sweep: the mean over the seeds of each setting, within one standard deviation.

    Args:
        series: setting → its runs, one a seed; those of one seed have no band.
        path: a file that `check_file` allows.
        title: the heading.

    Raises:
        OSError: it cannot be written.
    """
    with _styled():
        figure = Figure(figsize=(12.5, 7 + 0.2 * len(series)), layout="constrained")
        panels = figure.subplots(2, 3)
        _curves(panels, series)
        handles, labels = panels[0][0].get_legend_handles_labels()
        across = max(1, min(4, _LEGEND_LETTERS // max(map(len, labels), default=1)))
        figure.legend(handles, labels, loc="outside lower center", ncols=across)
        _write(figure, path, title=title)


@contextmanager
def _styled() -> Iterator[None]:
    with mpl.rc_context(_STYLE):
        yield


def _curves(
    panels: NDArray[Any], series: Mapping[str, Sequence[Curve]], *, target: float | None = None
) -> None:
    """Two rows of three panels: accuracy and loss, over rounds, time and energy."""
    for row, (up, up_label) in zip(panels, _UP, strict=True):
        for axes, (across, across_label) in zip(row, _ACROSS, strict=True):
            for place, (name, runs) in enumerate(series.items()):
                _band(axes, runs, across=across, up=up, look=_look(place, label=name or None))
            _labelled(axes, across=across_label, up=up_label)
        if up == "loss":
            runs = [one for each in series.values() for one in each]
            _log_if_wide(row, [one.loss for rows in runs for one in rows])
        elif target is not None:
            for axes in row:
                axes.axhline(target, color="#999999", linewidth=1, linestyle="--")


def _look(place: int, *, label: str | None = None) -> dict[str, Any]:
    """Colour and dashes of one of many lines."""
    turn, colour = divmod(place, len(_COLOURS))
    return {
        "color": _COLOURS[colour],
        "linestyle": _DASHES[turn % len(_DASHES)],
        "label": label,
        "linewidth": 1.6,
    }


def _band(
    axes: Axes, runs: Sequence[Curve], *, across: str, up: str, look: Mapping[str, Any]
) -> None:
    """The mean of runs, between their standard deviations where there are several."""
    points = [(_values(one, across), _values(one, up)) for one in runs]
    points = [(x, y) for x, y in points if len(x)]
    if not points:
        return
    if len(points) == 1:
        x, y = points[0]
        axes.plot(x, y, marker="o" if len(x) == 1 else None, markersize=4, **look)
        return
    begin, end = max(x[0] for x, _ in points), min(x[-1] for x, _ in points)
    count = _POINTS if across != "round" else max(2, round(end - begin) + 1)
    shared = np.linspace(begin, max(begin, end), count)
    values = np.stack([np.interp(shared, x, y) for x, y in points])  # (seeds, points)
    mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=1)
    axes.plot(shared, mean, **look)
    axes.fill_between(
        shared, mean - deviation, mean + deviation, color=look["color"], alpha=0.18, linewidth=0
    )


def _values(curve: Curve, name: str) -> NDArray[np.float64]:
    """A figure of each round; what is not finite leaves a gap."""
    found = np.asarray([getattr(row, name) for row in curve], np.float64)
    return np.where(np.isfinite(found), found, np.nan)


def _labelled(axes: Axes, *, across: str, up: str) -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.02)


def _log_if_wide(row: Sequence[Axes], values: Sequence[float]) -> None:
    """A log axis where one run's loss would flatten all the others."""
    found = [one for one in values if math.isfinite(one) and one > 0]
    if found and max(found) > _WIDE_RANGE * min(found):
        for axes in row:
            axes.set_yscale("log")


def _times(axes: Axes, rounds: Sequence[SimulatedRound]) -> None:
    """How long each round took, and when half of its updates were in: the rest is waiting."""
    numbers = [one.round for one in rounds]
    arrived = [
        float(np.median([client.arrived_seconds for client in one.report.clients] or [math.nan]))
        for one in rounds
    ]
    seconds = [one.report.seconds for one in rounds]
    axes.plot(numbers, seconds, color=_COLOURS[0], linewidth=1.6, label="round", **_dot(numbers))
    axes.plot(numbers, arrived, color=_COLOURS[1], linewidth=1.2, label="half of the updates")
    axes.set_ylim(bottom=0)
    _labelled(axes, across="round", up="duration, s")
    axes.legend(loc="best")


def _dot(numbers: Sequence[int]) -> dict[str, Any]:
    """One round alone is a dot: a line would not be seen."""
    return {"marker": "o", "markersize": 4} if len(numbers) == 1 else {}


def _devices(axes: Axes, rounds: Sequence[SimulatedRound], *, what: str, label: str) -> None:
    """Few devices: a line for each, in its group's colour; many: dots, and the group's medians.

    A line has gaps where its device gave no update.
    """
    of_device: dict[str, dict[int, float]] = {}
    for one in rounds:
        for client in one.report.clients:
            values = of_device.setdefault(client.update.client, {})
            values[one.round] = float(getattr(client.update, what))
    groups = sorted({device.rpartition("-")[0] for device in of_device})
    few = len(of_device) <= _FEW_DEVICES
    for place, group in enumerate(groups):
        members = [of_device[one] for one in sorted(of_device) if one.rpartition("-")[0] == group]
        look = _look(place, label=group if len(groups) <= _MOST_LABELLED else None)
        _group(axes, members, look=look, few=few)
    axes.set_ylim(bottom=0)
    _labelled(axes, across="round", up=label)
    if 1 < len(groups) <= _MOST_LABELLED:
        axes.legend(loc="best")


def _group(
    axes: Axes, members: Sequence[Mapping[int, float]], *, look: Mapping[str, Any], few: bool
) -> None:
    """The devices of a group: round → value of each."""
    if few:
        for place, values in enumerate(members):
            shown = {**look, "linewidth": 1.2, "marker": ".", "markersize": 4}
            shown["label"] = look["label"] if place == 0 else None
            numbers = range(min(values), max(values) + 1)
            axes.plot(numbers, [values.get(one, math.nan) for one in numbers], **shown)
        return
    dots = [(number, value) for values in members for number, value in values.items()]
    axes.plot(*zip(*dots, strict=True), ".", color=look["color"], markersize=3, alpha=0.3)
    by_round: dict[int, list[float]] = {}
    for number, value in sorted(dots):
        by_round.setdefault(number, []).append(value)
    medians = [float(np.median(values)) for values in by_round.values()]
    axes.plot(list(by_round), medians, **{**look, "linewidth": 1.2})


def _write(figure: Figure, path: Path, *, title: str) -> None:
    figure.suptitle(title, fontsize=11)
    if path.suffix == ".png":
        write_whole(path, _drawn(figure, "png"))
    elif path.suffix == ".svg":
        write_whole(path, _drawn(figure, "svg"))
    else:
        write_whole(path, _page(_drawn(figure, "svg").decode(), title=title).encode())


def _drawn(figure: Figure, kind: str) -> bytes:
    drawn = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(drawn, format=kind, dpi=120, metadata=metadata)
    return drawn.getvalue()


def _page(svg: str, *, title: str) -> str:
    """One file with the picture in it, which fits the width of the window."""
    picture = svg[svg.index("<svg") :]
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(title)}'
        "</title>\n<style>body{margin:2rem auto;max-width:80rem;padding:0 1rem}"
        f"svg{{width:100%;height:auto}}</style>\n{picture}\n</html>\n"
    )
