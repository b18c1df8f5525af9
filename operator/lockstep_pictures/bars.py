"""Bars with whiskers, and spans of time: figures of arms or devices beside each other.

Called by benches. Invariant: bars stand in the order in which they are given, from above.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt

from lockstep_pictures import theme
from lockstep_pictures.curves import Axis
from lockstep_pictures.rows import Value, data


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A figure."""

    name: str
    value: float
    error: float = math.nan
    """Half of the whisker; not a number: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What something did from `begin` to `end`."""

    name: str
    part: str
    begin: float
    end: float


def bars(shown: Sequence[Bar], *, x: Axis, title: str, low: float | None = None) -> theme.Picture:
    """Bars from 0, one a name.

    Args:
        shown: from above.
        x: what they show.
        title: the heading of this plot.
        low: where the axis begins although bars go on below; None: it shows all.
    """
    names = [one.name for one in shown]
    rows: list[dict[str, Value]] = [
        {
            "name": one.name,
            "value": one.value,
            "from": one.value - one.error,
            "to": one.value + one.error,
        }
        for one in shown
    ]
    least = min((one.value for one in shown), default=0.0)
    scale = alt.Scale() if low is None or least >= low else alt.Scale(domainMin=low, clamp=True)
    base = alt.Chart(data(rows)).encode(
        y=alt.Y("name:N", sort=names, title=None, axis=alt.Axis(labelLimit=180))
    )
    zero = alt.Chart(data([{"zero": 0.0}])).mark_rule(color=theme.INK).encode(x="zero:Q")
    picture: theme.Picture = alt.layer(
        base.mark_bar(height={"band": 0.7}).encode(
            x=alt.X("value:Q", title=x.title, scale=scale),
            tooltip=[alt.Tooltip("name:N", title=" "), alt.Tooltip("value:Q", title=x.title)],
        ),
        base.mark_rule(color=theme.INK).encode(x="from:Q", x2="to:Q"),
        zero,
    ).properties(title=title, description=f"{title}: {x.title} of {len(shown)}")
    return picture


def spans(
    shown: Sequence[Span],
    *,
    parts: Sequence[str],
    x: Axis,
    end: float,
    longest: float,
    title: str,
) -> theme.Picture:
    """A row a name with what it did when.

    Args:
        shown: in any order; rows stand in that of their names' first spans.
        parts: what a span can be.
        x: the time.
        end: where a rule stands: the end of all.
        longest: where the axis ends, the same for plots that are to be compared.
        title: the heading of this plot.
    """
    names = list(dict.fromkeys(one.name for one in shown))
    rows: list[dict[str, Value]] = [
        {"name": one.name, "part": one.part, "begin": one.begin, "end": one.end} for one in shown
    ]
    picture: theme.Picture = alt.layer(
        alt.Chart(data(rows))
        .mark_bar(height={"band": 0.75})
        .encode(
            x=alt.X("begin:Q", title=x.title, scale=alt.Scale(domain=[0, longest])),
            x2="end:Q",
            y=alt.Y("name:N", sort=names, title=None),
            color=alt.Color(
                "part:N",
                scale=alt.Scale(
                    domain=list(parts), range=[theme.COLOURS[0], theme.COLOURS[5]][: len(parts)]
                ),
                legend=alt.Legend(title=None),
            ),
        ),
        alt.Chart(data([{"end": end}])).mark_rule(color=theme.INK).encode(x="end:Q"),
    ).properties(title=title, description=f"{title}: what {len(names)} did when")
    return picture
