"""Several plots in one picture, in rows.

Called by the CLI, the simulator and benches, whose pictures are files; a page has each plot for
itself.
"""

from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

from lockstep_pictures import curves
from lockstep_pictures.curves import Across
from lockstep_pictures.model import JobFigures
from lockstep_pictures.theme import Picture


def stacked(
    *rows: Sequence[Picture], width: int, height: int | None = None, one_legend: bool = False
) -> Picture:
    """Rows of plots of one size.

    Args:
        rows: plots from left to right, of each row from above.
        width: of each plot, in pixels.
        height: of each; None: its own.
        one_legend: names mean the same everywhere, and are told once.
    """
    size: dict[str, Any] = {"width": width} | ({} if height is None else {"height": height})
    how: Literal["shared", "independent"] = "shared" if one_legend else "independent"
    scales = {"color": how, "strokeDash": how, "shape": how}
    lines = [
        alt.hconcat(*(_part(one).properties(**size) for one in row)).resolve_scale(**scales)
        for row in rows
        if row
    ]
    picture: alt.VConcatChart = alt.vconcat(*lines).resolve_scale(**scales)
    return picture


def progress(jobs: Sequence[JobFigures], *, source: str) -> list[list[Picture]]:
    """Rows for `stacked`: accuracy and loss of jobs, by round, time and energy of a source."""
    return [
        [plot(jobs, across, source=source) for across in Across]
        for plot in (curves.accuracy, curves.loss)
    ]


def _part(one: Picture) -> Picture:
    """A plot without what only a whole picture has."""
    part = one.copy()
    part.usermeta = alt.Undefined
    return part
