"""Two costs of plans against each other, each a mark; those that differ in a price are joined.

Called by benches.
"""

from collections.abc import Mapping, Sequence

import altair as alt

from lockstep_pictures import theme
from lockstep_pictures.curves import Axis, Point
from lockstep_pictures.rows import data


def trade_offs(
    series: Mapping[str, Sequence[Point]],
    *,
    joined: Sequence[str],
    x: Axis,
    y: Axis,
    title: str,
) -> theme.Picture:
    """Marks on logarithmic axes.

    Args:
        series: name → its plans; those of one name look alike.
        joined: names whose marks are joined in their order.
        x: the first cost.
        y: the second.
        title: the heading of this plot.
    """
    names = list(series)
    rows = [
        {"name": name, "place": place, "x": one.x, "y": one.y}
        for name, points in series.items()
        for place, one in enumerate(points)
    ]
    legend = alt.Legend(title=None)
    across = alt.X("x:Q", title=x.title, scale=alt.Scale(type="log", nice=False, padding=12))
    up = alt.Y("y:Q", title=y.title, scale=alt.Scale(type="log", nice=False, padding=12))
    colour = alt.Color("name:N", scale=theme.colour_scale(names), legend=legend)
    marks = (
        alt.Chart(data(rows))
        .mark_point(filled=True, size=55)
        .encode(
            x=across,
            y=up,
            color=colour,
            shape=alt.Shape("name:N", scale=theme.shape_scale(names), legend=legend),
            tooltip=[
                alt.Tooltip("name:N", title=" "),
                alt.Tooltip("x:Q", title=x.title),
                alt.Tooltip("y:Q", title=y.title),
            ],
        )
    )
    through = (
        alt.Chart(data(row for row in rows if row["name"] in joined))
        .mark_line(strokeWidth=1.2)
        .encode(x=across, y=up, color=colour, order="place:Q")
    )
    picture: theme.Picture = alt.layer(through, marks).properties(title=title, description=title)
    return picture
