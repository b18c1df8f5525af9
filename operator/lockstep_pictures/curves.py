"""Curves: accuracy, loss and energy of one job or of several over rounds, time and joules.

Called by `report` and by whoever compares runs (benches, sweeps). Invariant: a curve has at most
`rows.MOST_POINTS` points, goes through them in the order of its rounds, has a gap where a figure
is missing, and has colour and dashes of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import altair as alt

from lockstep_pictures import theme
from lockstep_pictures.model import JobFigures, RoundFigures
from lockstep_pictures.rows import MOST_POINTS, Value, data, few, finite

_WHOLE = "~d"
_MARKED = 40
"""Points up to which each has a mark."""
_WIDE_RANGE = 30.0
"""A log axis where one curve would flatten all the others."""
LINES = alt.Legend(title=None, symbolType="stroke", symbolSize=300, symbolOpacity=1)
"""Of curves: a piece of each."""
ZOOM = {"zoom": ["x", "y"]}
"""What a page lets people move and enlarge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """An axis."""

    title: str
    """With its unit."""
    log: bool = False
    zero: bool = False
    """Whether it begins at 0."""
    format: str = ""
    """Of its labels, as d3-format has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A point of a curve."""

    x: float | None
    y: float | None
    low: float | None = None
    """Of a band around the curve."""
    high: float | None = None
    round: int | None = None


class Across(StrEnum):
    """What curves of jobs go over."""

    ROUND = "round"
    TIME = "time"
    ENERGY = "energy"


def lines(
    series: Mapping[str, Sequence[Point]], *, x: Axis, y: Axis, target: float | None = None
) -> theme.Picture:
    """Curves with their bands.

    Args:
        series: name → its points in order; a single one has no legend.
        x: what they go over.
        y: what they show.
        target: a level that is marked.
    """
    names = list(series)
    kept = {name: _thinned(points) for name, points in series.items()}
    values = [row for name in names for row in _rows(name, kept[name])]
    most = max(map(len, kept.values()), default=0)
    base = alt.Chart(data(values))
    layers = [_line(base, names, x=x, y=y, most=most)]
    if any(point.low is not None for points in kept.values() for point in points):
        layers.insert(0, _band(base, names, x=x, y=y))
    if target is not None:
        layers.append(_level(target, y))
    text = f"{y.title} over {x.title}" + (f" of {', '.join(names[:8])}" if len(names) > 1 else "")
    return alt.layer(*layers).properties(description=text, usermeta=ZOOM)


def accuracy(jobs: Sequence[JobFigures], across: Across, *, source: str = "") -> theme.Picture:
    """Accuracy on held-out data; of a job that distils also that of the cloud's model."""
    series = {
        _name(job, jobs): _points(job, across, figure=lambda one: one.accuracy, source=source)
        for job in jobs
    }
    for job in jobs:
        if any(one.cloud_accuracy is not None for one in job.rounds):
            series[f"{_name(job, jobs)} (cloud's model)"] = _points(
                job, across, figure=lambda one: one.cloud_accuracy, source=source
            )
    targets = {job.target[1] for job in jobs if job.target and job.target[0] == "accuracy"}
    return lines(
        series,
        x=_across(across, source),
        y=Axis(title="accuracy on held-out data", format=".2~f"),
        target=targets.pop() if len(targets) == 1 else None,
    )


def loss(jobs: Sequence[JobFigures], across: Across, *, source: str = "") -> theme.Picture:
    """Loss on held-out data; on a log axis where it spans more than a factor of 30."""
    series = {
        _name(job, jobs): _points(job, across, figure=lambda one: one.loss, source=source)
        for job in jobs
    }
    targets = {job.target[1] for job in jobs if job.target and job.target[0] == "loss"}
    return lines(
        series,
        x=_across(across, source),
        y=Axis(title="loss on held-out data, nats", log=is_wide(series)),
        target=targets.pop() if len(targets) == 1 else None,
    )


def energy(job: JobFigures) -> theme.Picture:
    """Energy of all devices since round 1, a line a source: sources are never added up."""
    series = {
        source_title(source): [
            Point(x=one.round, y=one.energy.get(source), round=one.round) for one in job.rounds
        ]
        for source in job.sources()
    }
    return lines(
        series, x=_across(Across.ROUND, ""), y=Axis(title="energy of all devices, J", zero=True)
    )


def compared(jobs: Sequence[JobFigures], *, what: str) -> theme.Picture:
    """Seconds of each round (`seconds`), or energy by a source, of several jobs."""
    seconds = what == "seconds"
    title = "seconds of the round" if seconds else f"energy ({source_title(what)}), J"
    series = {
        _name(job, jobs): _points(
            job,
            Across.ROUND,
            figure=lambda one: one.seconds if seconds else one.energy.get(what),
            source="",
        )
        for job in jobs
    }
    return lines(series, x=_across(Across.ROUND, ""), y=Axis(title=title, zero=True))


def is_wide(series: Mapping[str, Sequence[Point]]) -> bool:
    """Whether values are so far apart that only a log axis shows all, and can."""
    told = [point.y for points in series.values() for point in points if finite(point.y)]
    found = [y for y in told if y is not None]
    return bool(found) and min(found) > 0 and max(found) > _WIDE_RANGE * min(found)


def points(count: int) -> alt.OverlayMarkDef:
    """Marks on a line of so many points; on a dense one they are only there to be pointed at."""
    return alt.OverlayMarkDef(size=28) if count <= _MARKED else alt.OverlayMarkDef(opacity=0)


def source_title(source: str) -> str:
    """A source of energy as people read it."""
    titles = {"model": "modelled", "cpu": "CPU seconds", "measured": "measured"}
    return titles.get(source, source)


def _name(job: JobFigures, jobs: Sequence[JobFigures]) -> str:
    same = sum(other.name == job.name for other in jobs)
    return f"{job.namespace}/{job.name}" if same > 1 else job.name


def _across(across: Across, source: str) -> Axis:
    match across:
        case Across.ROUND:
            return Axis(title="round", format=_WHOLE)
        case Across.TIME:
            return Axis(title="time since round 1 began, s")
        case Across.ENERGY:
            return Axis(title=f"energy of all devices ({source_title(source)}), J")


def _points(job: JobFigures, across: Across, *, figure: Any, source: str) -> list[Point]:
    def place(one: RoundFigures) -> float | None:
        match across:
            case Across.ROUND:
                return one.round
            case Across.TIME:
                return one.elapsed_s
            case Across.ENERGY:
                return one.energy.get(source)

    return [Point(x=place(one), y=figure(one), round=one.round) for one in job.rounds]


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Few points, with the highest and the lowest among them."""
    if len(points) <= MOST_POINTS:
        return list(points)
    places = {int(place) for place in few(range(len(points)), MOST_POINTS - 2)}
    heights = [(finite(one.y), place) for place, one in enumerate(points)]
    told = [(y, place) for y, place in heights if y is not None]
    if told:
        places |= {min(told)[1], max(told)[1]}
    return [points[place] for place in sorted(places)]


def _rows(name: str, points: Sequence[Point]) -> list[dict[str, Value]]:
    return [
        {
            "name": name,
            "place": place,
            "x": one.x,
            "y": one.y,
            **({"low": one.low, "high": one.high} if one.low is not None else {}),
            **({"round": one.round} if one.round is not None else {}),
        }
        for place, one in enumerate(points)
        if finite(one.x) is not None
    ]


def _place(axis: Axis) -> dict[str, Any]:
    scale = alt.Scale(zero=axis.zero, nice=True)
    if axis.log:
        scale = alt.Scale(type="log", nice=True)
    elif axis.format == _WHOLE:
        scale = alt.Scale(zero=False, nice=False, padding=6)
    shown = alt.Axis(format=axis.format, tickMinStep=1) if axis.format == _WHOLE else None
    if shown is None:
        shown = alt.Axis(format=axis.format) if axis.format else alt.Axis()
    return {"title": axis.title, "scale": scale, "axis": shown}


def _line(base: alt.Chart, names: Sequence[str], *, x: Axis, y: Axis, most: int) -> alt.Chart:
    tips = [
        *([alt.Tooltip("name:N", title="curve")] if len(names) > 1 else []),
        alt.Tooltip("round:Q", title="round"),
        alt.Tooltip("x:Q", title=x.title),
        alt.Tooltip("y:Q", title=y.title),
    ]
    legend = LINES if len(names) > 1 else None
    chart: alt.Chart = base.mark_line(point=points(most)).encode(
        x=alt.X("x:Q", **_place(x)),
        y=alt.Y("y:Q", **_place(y)),
        order=alt.Order("place:Q"),
        color=alt.Color("name:N", scale=theme.colour_scale(names), legend=legend),
        strokeDash=alt.StrokeDash("name:N", scale=theme.dash_scale(names), legend=legend),
        tooltip=tips,
    )
    return chart


def _band(base: alt.Chart, names: Sequence[str], *, x: Axis, y: Axis) -> alt.Chart:
    chart: alt.Chart = base.mark_area(opacity=0.18, line=False).encode(
        x=alt.X("x:Q", **_place(x)),
        y=alt.Y("low:Q", **_place(y)),
        y2="high:Q",
        color=alt.Color(
            "name:N", scale=theme.colour_scale(names), legend=LINES if len(names) > 1 else None
        ),
    )
    return chart


def _level(target: float, y: Axis) -> alt.Chart:
    rule: alt.Chart = (
        alt.Chart(data([{"y": target, "text": f"target {target:g}"}]))
        .mark_rule(strokeDash=[2, 3], color=theme.QUIET)
        .encode(y=alt.Y("y:Q", title=y.title), tooltip=alt.Tooltip("text:N", title=" "))
    )
    return rule
