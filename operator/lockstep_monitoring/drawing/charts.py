"""Panels that are plots: lines, areas, columns, pairs, heat maps, timelines, bars.

Each takes the figure and what its queries found (legend → series), and gives Altair's chart of that
size. Invariant: a gap in the samples is a gap in the picture.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from lockstep_monitoring.asking import Series, Span
from lockstep_monitoring.drawing import units
from lockstep_monitoring.drawing.board import Figure
from lockstep_pictures import rows, theme

Found = Mapping[str, Series]
Rows = list[dict[str, rows.Value]]
_MOST_NAMED = 16
_TWO_TONES = ("#56b4e9", "#b9dcf2")


@dataclass(frozen=True, slots=True)
class Frame:
    """How large a chart is, in pixels, and which time it shows."""

    width: int
    height: int
    span: Span


def lines(figure: Figure, found: Found, *, frame: Frame) -> theme.Picture:
    samples = [
        row for name, series in found.items() for row in _with_gaps(name, series, frame=frame)
    ]
    return _sized(
        alt.Chart(rows.data(samples))
        .mark_line(strokeWidth=1.5, interpolate="linear", point={"size": 6})
        .encode(
            x=_time(frame),
            y=alt.Y("value:Q", axis=_axis(figure, found), scale=_scale(figure, found)),
            color=_colour(list(found), frame, symbol="stroke"),
            strokeDash=alt.StrokeDash("name:N", scale=theme.dash_scale(list(found)), legend=None),
        ),
        frame,
    )


def areas(figure: Figure, found: Found, *, frame: Frame) -> theme.Picture:
    samples = [
        row for name, series in found.items() for row in _with_gaps(name, series, frame=frame)
    ]
    return _sized(
        alt.Chart(rows.data(samples)).mark_area(opacity=0.75).encode(
            x=_time(frame),
            y=alt.Y("value:Q", axis=_axis(figure, found), stack="zero", scale=_stack_scale(found)),
            color=_colour(list(found), frame),
        ),
        frame,
    )  # fmt: skip


def columns(figure: Figure, found: Found, *, frame: Frame) -> theme.Picture:
    samples = [row for name, series in found.items() for row in _rows(name, series)]
    each = max(1.0, frame.width / max(1, _steps(frame.span)) - 1)
    return _sized(
        alt.Chart(rows.data(samples)).mark_bar(width=each).encode(
            x=_time(frame),
            y=alt.Y("value:Q", axis=_axis(figure, found), stack="zero", scale=_stack_scale(found)),
            color=_colour(list(found), frame),
        ),
        frame,
    )  # fmt: skip


def pairs(figure: Figure, found: Found, *, frame: Frame) -> theme.Picture:
    """Values against those of the first query, joined at the times that both have."""
    x_name, *names = [target.legend for target in figure.targets]
    at = dict(found[x_name].points) if x_name in found else {}
    samples: Rows = []
    for name in names:
        joined = [
            (at[time], value) for time, value in found[name].points if time in at
        ] if name in found else []  # fmt: skip
        samples += [{"name": name, "x": x, "value": y} for x, y in dict.fromkeys(joined)]
    return _sized(
        alt.Chart(rows.data(samples)).mark_line(point={"size": 14}, strokeWidth=1).encode(
            x=alt.X("x:Q", title=x_name, axis=_whole(samples), scale=alt.Scale(zero=False)),
            y=alt.Y("value:Q", axis=_axis(figure, found), scale=_scale(figure, found)),
            color=_colour(names, frame, symbol="stroke"),
        ),
        frame,
    )  # fmt: skip


def heat(figure: Figure, found: Found, *, frame: Frame) -> theme.Picture:
    step = frame.span.step_s
    samples: Rows = [
        {"name": name, "time": _ms(time), "until": _ms(time + step), "value": value}
        for name, series in found.items()
        for time, value in series.points
    ]
    return _sized(
        alt.Chart(rows.data(samples)).mark_rect().encode(
            x=_time(frame),
            x2="until:T",
            y=alt.Y("name:N", title=None, sort=list(found)),
            color=alt.Color(
                "value:Q",
                scale=theme.ramp_scale(),
                legend=alt.Legend(
                    orient="right", title=units.symbol(figure.unit), gradientLength=120
                ),
            ),
        ),
        frame,
    )  # fmt: skip


def timeline(figure: Figure, found: Found, *, frame: Frame) -> theme.Picture:
    """Blocks with their value in them, where there is room."""
    blocks: Rows = []
    for name, series in found.items():
        for number, (begin, end, value) in enumerate(_blocks(series, frame.span)):
            text, colour = _said(figure, value, number=number)
            room = (end - begin) / (frame.span.end_s - frame.span.begin_s) * frame.width
            blocks.append(
                {
                    "name": name, "time": _ms(begin), "until": _ms(end), "colour": colour,
                    "text": text if room > 7 * len(text) + 4 else "",
                    "middle": _ms((begin + end) / 2),
                }
            )  # fmt: skip
    names = alt.Y("name:N", title=None, sort=list(found))
    base = alt.Chart(rows.data(blocks))
    bars = base.mark_bar(stroke=theme.PAPER, strokeWidth=1).encode(
        x=_time(frame), x2="until:T", y=names, color=alt.Color("colour:N", scale=None)
    )
    words = base.mark_text(fontSize=10).encode(x="middle:T", y=names, text="text:N")
    return _sized(bars + words, frame)


def bars(figure: Figure, found: Found, *, frame: Frame) -> theme.Picture:
    """The newest values beside each other."""
    samples: Rows = [
        {"name": name, "value": series.points[-1][1],
         "text": units.told(series.points[-1][1], figure.unit, decimals=_decimals(figure))}
        for name, series in found.items() if series.points
    ]  # fmt: skip
    base = alt.Chart(rows.data(samples)).encode(
        x=alt.X("value:Q", axis=_axis(figure, found)),
        y=alt.Y("name:N", title=None, sort="-x"),
    )
    return _sized(base.mark_bar() + base.mark_text(align="left", dx=4).encode(text="text:N"), frame)


Drawn = Callable[..., theme.Picture]
KINDS: dict[str, Drawn] = {
    "lines": lines,
    "areas": areas,
    "columns": columns,
    "xychart": pairs,
    "heatmap": heat,
    "state-timeline": timeline,
    "bargauge": bars,
}
"""Kind of a panel → what draws it."""


def _sized(picture: theme.Picture, frame: Frame) -> theme.Picture:
    sized: theme.Picture = picture.properties(
        width=frame.width,
        height=frame.height,
        autosize=alt.AutoSizeParams(type="fit", contains="padding"),
    )
    return sized


def _ms(time_s: float) -> float:
    return round(time_s * 1000)


def _time(frame: Frame) -> alt.X:
    bounds = [_ms(frame.span.begin_s), _ms(frame.span.end_s)]
    axis = alt.Axis(format="%H:%M:%S", tickCount=max(2, frame.width // 110), title=None)
    return alt.X("time:T", axis=axis, scale=alt.Scale(domain=bounds, type="utc"))


def _axis(figure: Figure, found: Found) -> alt.Axis:
    if figure.unit == "percentunit":
        return alt.Axis(format=".2~%", title=None, tickCount=5)
    most = max(
        (abs(v) for one in found.values() for _, v in one.points if math.isfinite(v)), default=0
    )
    words = "~s" if most >= 10_000 else ".4~r"
    return alt.Axis(format=words, title=units.symbol(figure.unit) or None, tickCount=5)


def _whole(samples: Rows) -> alt.Axis:
    """Of what is counted: no ticks between two whole numbers."""
    whole = all(isinstance(one["x"], float) and one["x"] == round(one["x"]) for one in samples)
    return alt.Axis(format="~s", tickMinStep=1 if whole else 0)


def _stack_scale(found: Found) -> alt.Scale:
    """From 0; where nothing happened there is still an axis."""
    nothing = all(value == 0 for one in found.values() for _, value in one.points)
    return alt.Scale(domain=[0, 1]) if nothing else alt.Scale(zero=True)


def _scale(figure: Figure, found: Found) -> alt.Scale:
    low, high = (figure.look or {}).get("min"), (figure.look or {}).get("max")
    if low is not None and high is not None:
        return alt.Scale(domain=[low, high], clamp=True)
    if low == 0:
        return _stack_scale(found)
    return alt.Scale(zero=low == 0)


def _decimals(figure: Figure) -> int | None:
    found: int | None = (figure.look or {}).get("decimals")
    return found


def _colour(names: Sequence[str], frame: Frame, *, symbol: str = "square") -> alt.Color:
    """A legend where a person can read it."""
    longest = max((len(name) for name in names), default=1)
    columns = max(1, min(6, frame.width // (7 * longest + 30)))
    legend = alt.Legend(
        title=None, columns=columns, symbolType=symbol, symbolStrokeWidth=3, labelLimit=260
    )
    named = 0 < len(names) <= _MOST_NAMED
    return alt.Color("name:N", scale=theme.colour_scale(names), legend=legend if named else None)


def _steps(span: Span) -> int:
    return round((span.end_s - span.begin_s) / span.step_s)


def _rows(name: str, series: Series) -> Rows:
    return [{"name": name, "time": _ms(time), "value": value} for time, value in series.points]


def _with_gaps(name: str, series: Series, *, frame: Frame) -> Iterator[dict[str, rows.Value]]:
    """The samples, with an empty one wherever some are missing."""
    before = None
    for time, value in series.points:
        if before is not None and time - before > 1.5 * frame.span.step_s:
            yield {"name": name, "time": _ms(before + frame.span.step_s), "value": None}
        yield {"name": name, "time": _ms(time), "value": value}
        before = time


def _blocks(series: Series, span: Span) -> Iterator[tuple[float, float, float]]:
    """(begin, end, value) of each while in which the value was the same."""
    for value, while_so in itertools.groupby(series.points, key=lambda point: point[1]):
        times = [time for time, _ in while_so]
        yield times[0], min(times[-1] + span.step_s, span.end_s), value


def _said(figure: Figure, value: float, *, number: int) -> tuple[str, str]:
    """Text and colour of a block."""
    look: Mapping[str, Any] = figure.look or {}
    for mapping in look.get("mappings", ()):
        if (told := mapping["options"].get(f"{value:g}")) is not None:
            return told["text"], _NAMED.get(told["color"], told["color"])
    return units.told(value, figure.unit), _TWO_TONES[number % 2]


_NAMED = {"green": "#7fbf9f", "orange": "#e69f00", "red": theme.ALARM}
