"""Rows of data for Altair: what is not finite becomes empty, numbers keep five digits, few rows.

Used by every module of pictures here. Invariant: the rows of a picture are JSON (no NaN), and a
picture's size depends on its bounds here, not on how long or large a job was.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import altair as alt

MOST_POINTS = 300
"""Points of one curve: more than pixels tell apart."""

T = TypeVar("T")
Value = str | float | int | bool | None


def data(rows: Iterable[Mapping[str, Value]]) -> alt.InlineData:
    """Rows as a picture takes them."""
    return alt.InlineData(
        values=[{key: _told(value) for key, value in row.items()} for row in rows]
    )


def finite(value: float | None) -> float | None:
    """A number; None: there is none, or none that could be drawn."""
    return value if value is not None and math.isfinite(value) else None


def few(items: Sequence[T], most: int = MOST_POINTS) -> list[T]:
    """At most so many items, evenly chosen, with the first and the last."""
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[-1]]
    last = len(items) - 1
    return [items[round(place * last / (most - 1))] for place in range(most)]


def shares(count: int, most: int) -> list[tuple[int, int]]:
    """`count` things in at most `most` shares as even as can be: where each begins and ends."""
    number = max(1, min(count, most))
    edges = [round(place * count / number) for place in range(number + 1)]
    return [(begin, end) for begin, end in itertools.pairwise(edges) if end > begin]


def quantile(values: Sequence[float], share: float) -> float:
    """Of sorted values, between neighbours in proportion."""
    place = share * (len(values) - 1)
    low, high = math.floor(place), math.ceil(place)
    return values[low] + (values[high] - values[low]) * (place - low)


def _told(value: Value) -> Value:
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else None
