"""How every picture looks: colours, dashes and marks, fonts, axes; and the finished Vega-Lite spec.

Used by all modules of pictures here and by whoever draws charts of his own (benches, dashboards).
Invariant: nothing of Altair's global state (themes, counters) is used or changed, so that the same
data gives the same bytes; colours alone never carry meaning: lines differ in dashes too, and a
scale from low to high also goes from dark to light.
"""

from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

Picture = (
    alt.Chart
    | alt.LayerChart
    | alt.FacetChart
    | alt.HConcatChart
    | alt.VConcatChart
    | alt.ConcatChart
)
"""What the functions of this package draw."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Told apart by people who see colours differently (Okabe and Ito), best contrast first."""
DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
RAMP: Literal["cividis"] = "cividis"
"""From low (dark) to high (light): the same for all eyes, and in print."""
INK, QUIET, RULE, PAPER = "#222222", "#666666", "#e3e3e3", "#ffffff"
ALARM = "#d55e00"
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
WIDTH, HEIGHT = 460, 240
"""Of a plot in a file, in pixels; on a page it is as wide as there is room."""
ROW = 15
"""Height of a row of a heat map or of bars, in pixels."""


def config() -> dict[str, Any]:
    """The Vega-Lite configuration of every picture."""
    return {
        "background": PAPER,
        "font": FONT,
        "view": {
            "stroke": None,
            "continuousWidth": WIDTH,
            "continuousHeight": HEIGHT,
            "discreteWidth": WIDTH,
            "discreteHeight": {"step": ROW},
        },
        "axis": {
            "domainColor": "#999999",
            "gridColor": RULE,
            "labelColor": INK,
            "labelFontSize": 11,
            "labelLimit": 130,
            "labelOverlap": True,
            "tickColor": "#999999",
            "titleColor": INK,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "titlePadding": 8,
        },
        "axisBand": {"grid": False},
        "header": {"labelColor": INK, "titleColor": INK, "labelFontSize": 11},
        "legend": {
            "columns": 2,
            "labelColor": INK,
            "labelFontSize": 11,
            "labelLimit": 160,
            "orient": "bottom",
            "symbolLimit": 40,
            "symbolStrokeWidth": 2,
            "titleColor": INK,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "titleLimit": 320,
        },
        "title": {
            "anchor": "start",
            "color": INK,
            "fontSize": 13,
            "fontWeight": "bold",
            "subtitleColor": QUIET,
            "subtitleFontSize": 11,
        },
        "range": {
            "category": list(COLOURS),
            "symbol": list(SHAPES),
            "ramp": {"scheme": RAMP},
            "heatmap": {"scheme": RAMP},
        },
        "line": {"strokeWidth": 1.8, "color": COLOURS[0]},
        "point": {"filled": True, "size": 45, "color": COLOURS[0]},
        "bar": {"color": COLOURS[0]},
        "rule": {"color": QUIET},
        "text": {"color": INK, "fontSize": 11},
    }


def colour_scale(names: Sequence[str]) -> alt.Scale:
    """A colour for each of these names, by its place: the same names look the same everywhere."""
    return alt.Scale(domain=list(names), range=_turns(COLOURS, len(names)))


def dash_scale(names: Sequence[str]) -> alt.Scale:
    """Dashes for each of these names, so that lines differ without colour."""
    return alt.Scale(domain=list(names), range=[list(one) for one in _turns(DASHES, len(names))])


def shape_scale(names: Sequence[str]) -> alt.Scale:
    """A mark for each of these names."""
    return alt.Scale(domain=list(names), range=_turns(SHAPES, len(names)))


def ramp_scale(low: float | None = None, high: float | None = None) -> alt.Scale:
    """From low to high; without bounds from the least value to the greatest."""
    if low is None or high is None:
        return alt.Scale(scheme=RAMP)
    return alt.Scale(scheme=RAMP, domain=[low, high])


def height_of(rows: int) -> int:
    """Height of a picture with so many rows, in pixels."""
    return ROW * max(1, rows)


def spec_of(picture: Picture, *, title: str = "") -> dict[str, Any]:
    """A picture as Vega-Lite, with this look; `title` is the heading of one that has none."""
    spec: dict[str, Any] = picture.to_dict()
    spec["config"] = config()
    if title and not spec.get("title"):
        spec["title"] = title
    return spec


def _turns(looks: Sequence[Any], count: int) -> list[Any]:
    return [looks[place % len(looks)] for place in range(count)]
