"""A dashboard as one picture: every panel where the JSON's grid says, with its title.

Called by the command. Invariant: a panel without data says so, or its row does where no panel of
it has any; it is never left out silently.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import vl_convert

from lockstep_monitoring.asking import Ask, Series, Span, filled, newest, over
from lockstep_monitoring.drawing import charts, plain
from lockstep_monitoring.drawing.board import Board, Figure, Target
from lockstep_pictures import embedding, files, theme

COLUMN, LINE, GAP = 50, 33, 6
"""Pixels of a column and of a line of Grafana's grid, and between panels."""
_HEAD = 40
_TITLE = 24
_BACK = "#f4f5f5"
_AT_ONCE = 6
"""Queries that Prometheus answers side by side."""

Answers = Sequence[tuple[Target, Sequence[Series]]]
"""What each query of a panel found."""
Drawn = tuple[Figure, Answers]


@dataclass(frozen=True, slots=True)
class Source:
    """Where figures come from, and which time and variables."""

    ask: Ask
    span: Span
    values: Mapping[str, str]
    """Of the dashboard's variables."""


def drawn(board: Board, source: Source, *, scale: float = 1.5) -> bytes:
    """PNG of a dashboard."""
    return files.smaller(vl_convert.svg_to_png(svg(board, source), scale=scale))


def svg(board: Board, source: Source) -> str:
    """SVG of a dashboard."""
    width = 24 * COLUMN + GAP
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = list(pool.map(lambda one: _answers(one, source), board.figures))
    shown = _without_empty_rows(list(zip(board.figures, answers, strict=True)))
    height = _HEAD + LINE * max(one.place.y + one.place.height for one, _ in shown) + GAP
    chosen = ", ".join(
        f"{name} {value}" for name, value in source.values.items() if name in board.names
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">',
        f'<rect width="{width}" height="{height}" fill="{_BACK}"/>',
        plain.text(board.title, (GAP + 4, 26), size=18, bold=True),
        plain.text(chosen, (width - GAP - 4, 26), size=12, colour=theme.QUIET, anchor="end"),
        *(
            _panel(one, found, span=source.span, number=number)
            for number, (one, found) in enumerate(shown)
        ),
        "</svg>",
    ]
    return "\n".join(parts)


def _without_empty_rows(drawn: Sequence[Drawn]) -> list[Drawn]:
    """A row of which no panel has data is its heading alone; what is below moves up."""
    heads = [i for i, (figure, _) in enumerate(drawn) if figure.kind == "row"]
    shown, up = list(drawn[: heads[0] if heads else len(drawn)]), 0
    for begin, end in itertools.pairwise([*heads, len(drawn)]):
        (head, none), *panels = drawn[begin:end]
        empty = not any(series for _, found in panels for _, series in found)
        title = f"{head.title}: no data" if empty else head.title
        shown.append((_moved(replace(head, title=title), up), none))
        if empty and panels:
            up += max(one.place.y + one.place.height for one, _ in panels) - head.place.y - 1
        else:
            shown += [(_moved(one, up), found) for one, found in panels]
    return shown


def _moved(figure: Figure, up: int) -> Figure:
    return replace(figure, place=replace(figure.place, y=figure.place.y - up))


def _size(figure: Figure) -> tuple[int, int]:
    """Width and height of a panel, in pixels."""
    return figure.place.width * COLUMN - GAP, figure.place.height * LINE - GAP


def _answers(figure: Figure, source: Source) -> Answers:
    span = _span(source.span, _size(figure)[0])
    return [(target, _found(target, source, span=span)) for target in figure.targets]


def _panel(figure: Figure, found: Answers, *, span: Span, number: int) -> str:
    place = figure.place
    x, y = GAP + place.x * COLUMN, _HEAD + place.y * LINE
    width, height = _size(figure)
    frame = charts.Frame(width - 8, height - _TITLE - 4, _span(span, width))
    if figure.kind == "row":
        inner = plain.text(figure.title, (4, 20), size=14, bold=True)
    else:
        inner = (
            f'<rect width="{width}" height="{height}" rx="3" fill="{theme.PAPER}" '
            f'stroke="{theme.RULE}"/>'
            + plain.text(figure.title, (8, 17), size=12, bold=True)
            + f'<g transform="translate(4,{_TITLE})">'
            + _content(figure, found, frame=frame, number=number)
            + "</g>"
        )
    return f'<g transform="translate({x},{y})">{inner}</g>'


def _content(figure: Figure, found: Answers, *, frame: charts.Frame, number: int) -> str:
    width, height = frame.width, frame.height
    if not any(series for _, series in found):
        words = "no data"
        return plain.text(words, (width / 2, height / 2), colour=theme.QUIET, anchor="middle")
    if figure.kind == "table":
        columns = {target.legend: series for target, series in found}
        return plain.table(figure, columns, width=width, height=height)
    named = _named(found)
    if figure.kind == "stat":
        return plain.numbers(figure, named, width=width, height=height)
    return _embedded(charts.KINDS[figure.kind](figure, named, frame=frame), number=number)


def _found(target: Target, source: Source, *, span: Span) -> list[Series]:
    rate = {"__rate_interval": f"{max(15, round(4 * span.step_s))}s"}
    query = filled(target.expr, {**source.values, **rate})
    if target.instant:
        return newest(source.ask, query, at_s=source.span.end_s)
    return over(source.ask, query, span=span)


def _span(span: Span, width: int) -> Span:
    """As coarse as the panel is narrow: a sample each three pixels, as Grafana does about."""
    step = max(span.step_s, round((span.end_s - span.begin_s) / (width / 3)))
    return Span(span.begin_s - span.begin_s % step, span.end_s, step)


def _named(found: Answers) -> dict[str, Series]:
    named: dict[str, Series] = {}
    for target, several in found:
        for series in sorted(several, key=lambda one: one.named(target.legend)):
            named[series.named(target.legend)] = series
    return named


def _embedded(picture: theme.Picture, *, number: int) -> str:
    """The chart's SVG, with names of its own: one file has them all."""
    made = vl_convert.vegalite_to_svg(theme.spec_of(picture), vl_version=embedding.VEGA_LITE)
    made = re.sub(r'id="(\w+)"', rf'id="p{number}-\1"', made)
    return re.sub(r"url\(#(\w+)\)", rf"url(#p{number}-\1)", made)
