"""Panels that are words: large numbers and tables, as SVG."""

import html
from collections.abc import Mapping, Sequence

from lockstep_monitoring.asking import Series
from lockstep_monitoring.drawing import units
from lockstep_monitoring.drawing.board import Figure
from lockstep_pictures import theme

_COLOURS = {"green": "#009e73", "orange": "#b87800", "red": theme.ALARM}
_LINE = 20
"""Height of a table's row, in pixels."""


def text(
    words: str, at: tuple[float, float], *, size: int = 12, bold: bool = False,
    colour: str = theme.INK, anchor: str = "start",
) -> str:  # fmt: skip
    """One line of SVG."""
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" font-size="{size}"{weight} fill="{colour}" '
        f'text-anchor="{anchor}" font-family="{theme.FONT}">{html.escape(words)}</text>'
    )


def numbers(figure: Figure, found: Mapping[str, Series], *, width: float, height: float) -> str:
    """The newest values in large, beside each other."""
    look = figure.look or {}
    each = width / max(1, len(found))
    drawn = []
    for place, (name, series) in enumerate(found.items()):
        value = series.points[-1][1]
        words = units.told(value, figure.unit, decimals=look.get("decimals"))
        size = max(11, min(30, int(1.7 * each / max(4, len(words)))))
        middle = each * (place + 0.5)
        colour = _coloured(value, look.get("thresholds"))
        drawn.append(
            text(
                words, (middle, height * 0.55), size=size, bold=True, colour=colour, anchor="middle"
            )
        )
        if len(found) > 1:
            drawn.append(
                text(name, (middle, height * 0.85), size=11, colour=theme.QUIET, anchor="middle")
            )
    return "".join(drawn)


def _coloured(value: float, thresholds: Mapping[str, Sequence[Mapping[str, object]]] | None) -> str:
    colour = theme.INK
    for step in (thresholds or {}).get("steps", ()):
        bound = step["value"]
        if bound is None or (isinstance(bound, int | float) and value >= bound):
            colour = _COLOURS.get(str(step["color"]), theme.INK)
    return colour


def table(
    figure: Figure, columns: Mapping[str, Sequence[Series]], *, width: float, height: float
) -> str:
    """A row for each combination of the figure's labels; `columns` is query → what it found."""
    lines: dict[tuple[str, ...], dict[str, float]] = {}
    for column, found in columns.items():
        for series in found:
            key = tuple(series.labels.get(label, "") for label in figure.columns)
            lines.setdefault(key, {})[column] = series.points[-1][1]
    heads = [*figure.columns, *columns]
    each = width / len(heads)
    drawn = [text(head, (8 + each * i, 14), bold=True, size=11) for i, head in enumerate(heads)]
    room = int((height - _LINE) / _LINE)
    for row, (key, values) in enumerate(sorted(lines.items())[:room]):
        y = 14 + _LINE * (row + 1)
        cells = [*key, *(_cell(figure, column, values=values) for column in columns)]
        drawn += [text(cell, (8 + each * i, y), size=11) for i, cell in enumerate(cells)]
    if len(lines) > room:
        drawn.append(text(f"{len(lines) - room} more rows", (width - 8, 14), size=10, anchor="end"))
    return "".join(drawn)


def _cell(figure: Figure, column: str, *, values: Mapping[str, float]) -> str:
    unit = (figure.units or {}).get(column, figure.unit)
    return units.told(values[column], unit) if column in values else "–"
