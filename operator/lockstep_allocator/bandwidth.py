"""Bandwidth traces: how much a link carries as time passes, and which one a client takes. Pure.

Devices replay them, whoever plays rounds without devices draws the same.

A trace is piecewise constant and looped without end. Everything is reckoned from its integral, the
bits carried up to a moment, so nothing adds up to an error, however long or fine the pieces are.
"""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

MAX_ROWS = 1_000_000
_HEADER = ("t_seconds", "bandwidth_mbps")
_MBIT = 1e6
_LEAST_MBPS, MOST_MBPS = 1e-6, 1e6
LEAST_S, MOST_S = 1e-6, 1e10
"""Between two rows, and of a moment: with less nothing that can be reckoned with is carried."""


class InvalidTrace(ValueError):
    """A text that is no bandwidth trace; says where and what to change."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Trace:
    """A looped, piecewise constant bandwidth."""

    starts_s: NDArray[np.float64]
    """(k,) when each piece begins, from 0, rising."""
    mbps: NDArray[np.float64]
    """(k,) Mbit/s in each piece; not all 0."""
    duration_s: float
    """Length of one loop in seconds."""
    _bits: NDArray[np.float64]
    """(k + 1,) bits carried up to the start of each piece, and in a whole loop."""

    @classmethod
    def of(
        cls, starts_s: NDArray[np.float64], mbps: NDArray[np.float64], *, duration_s: float
    ) -> "Trace":
        """A trace from its pieces, which are taken as they are."""
        lengths = np.diff(np.append(starts_s, duration_s))
        bits = np.concatenate([[0.0], np.cumsum(lengths * mbps * _MBIT)])
        return cls(starts_s=starts_s, mbps=mbps, duration_s=duration_s, _bits=bits)

    @classmethod
    def constant(cls, mbps: float) -> "Trace":
        """A link that never changes."""
        return cls.of(np.array([0.0]), np.array([mbps]), duration_s=1.0)

    def bits_until(self, t_s: float) -> float:
        """Bits carried from moment 0 to `t_s` ≥ 0."""
        loops, inside = divmod(t_s, self.duration_s)
        piece = int(np.searchsorted(self.starts_s, inside, side="right")) - 1
        partly = (inside - self.starts_s[piece]) * self.mbps[piece] * _MBIT
        return float(loops * self._bits[-1] + self._bits[piece] + partly)

    def when(self, bits: float) -> float:
        """The first moment at which so many bits have been carried; the inverse of `bits_until`."""
        loops, inside = divmod(bits, self._bits[-1])
        if inside <= 0.0 and loops > 0:  # the end of a loop, not the start of the next
            loops, inside = loops - 1, self._bits[-1]
        piece = max(0, int(np.searchsorted(self._bits, inside, side="left")) - 1)
        piece = min(piece, len(self.mbps) - 1)
        rate = self.mbps[piece] * _MBIT
        partly = (inside - self._bits[piece]) / rate if rate > 0 else 0.0
        return float(loops * self.duration_s + self.starts_s[piece] + partly)

    def mean_mbps(self, until_s: float, window_s: float) -> float:
        """Mean bandwidth over the `window_s` seconds before `until_s`; of what there is of them."""
        since_s = max(0.0, until_s - window_s)
        span_s = until_s - since_s
        if span_s <= 0:
            return float(self.mbps[0])
        return (self.bits_until(until_s) - self.bits_until(since_s)) / span_s / _MBIT


def text_of(content: bytes, source: str) -> str:
    """The text of a trace's file, with or without a byte order mark (Excel writes one).

    Raises:
        InvalidTrace: it is no text.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidTrace(f"{source} is not text in utf-8 (byte {error.start})") from error


def parse_trace(text: str, *, source: str) -> Trace:
    """Reads csv of two columns, `t_seconds,bandwidth_mbps`; the header may be missing.

    Columns may also have a tab between them, or a semicolon: commas are then decimal ones, as
    spreadsheets write them in much of Europe. A row holds from its time to the next one's; the last
    holds as long as the one before it (1 s when it is alone).

    Args:
        text: the csv.
        source: names it in errors.

    Raises:
        InvalidTrace: not numbers, not finite, negative, unsorted, all 0, empty or too long.
    """
    times: list[float] = []
    rates: list[float] = []
    for number, row in _rows(text.removeprefix("\ufeff").splitlines(), source):
        if not row or (number == 1 and tuple(cell.strip().lower() for cell in row) == _HEADER):
            continue
        t_s, mbps = _row(row, f"{source}, line {number}")
        if times and t_s <= times[-1]:
            late = f"{t_s:g} s is not after {times[-1]:g} s"
            raise InvalidTrace(f"{source}, line {number}: {late}: sort the rows")
        if times and t_s - times[-1] < LEAST_S:
            soon = f"{t_s - times[-1]:g} s after the row before it"
            raise InvalidTrace(f"{source}, line {number}: {soon}: give times in seconds")
        if len(times) == MAX_ROWS:
            raise InvalidTrace(f"{source} has more than {MAX_ROWS} rows: cut it")
        times.append(t_s)
        rates.append(mbps)
    if not times:
        raise InvalidTrace(f"{source} has no rows: write {','.join(_HEADER)} and then numbers")
    if not any(rates):
        raise InvalidTrace(f"{source} has bandwidth 0 throughout: nothing would ever arrive")
    last_s = next(iter(b - a for a, b in [*pairwise(times)][-1:]), 1.0)
    starts = np.array(times) - times[0]
    return Trace.of(starts, np.array(rates), duration_s=float(starts[-1] + last_s))


def _rows(lines: list[str], source: str) -> Iterator[tuple[int, list[str]]]:
    """(number, cells) of each line; empty cells at its end, which spreadsheets leave, are none."""
    between = next((one for one in ";\t" if any(one in line for line in lines[:2])), ",")
    rows = csv.reader(lines, delimiter=between)
    try:
        for number, row in enumerate(rows, 1):
            while row and not row[-1].strip():
                row.pop()
            yield number, [cell.replace(",", ".") for cell in row] if between == ";" else row
    except csv.Error as error:
        raise InvalidTrace(f"{source}, line {rows.line_num}: {error}") from error


def _row(row: list[str], where: str) -> tuple[float, float]:
    if len(row) != 2:
        raise InvalidTrace(f"{where}: {len(row)} columns, expected {','.join(_HEADER)}")
    try:
        t_s, mbps = float(row[0]), float(row[1])
    except ValueError as error:
        raise InvalidTrace(f"{where}: {','.join(row)[:80]!r} are not two numbers") from error
    if not (math.isfinite(t_s) and math.isfinite(mbps)):
        raise InvalidTrace(f"{where}: {','.join(row)[:80]} is not finite: leave such rows out")
    if mbps < 0:
        raise InvalidTrace(f"{where}: bandwidth {mbps:g} is negative")
    if mbps > MOST_MBPS or abs(t_s) > MOST_S:
        raise InvalidTrace(f"{where}: {t_s:g} s, {mbps:g} Mbit/s is too large: mind the units")
    if 0 < mbps < _LEAST_MBPS:
        raise InvalidTrace(f"{where}: {mbps:g} Mbit/s is too little: write 0")
    return t_s, mbps


@dataclass(frozen=True, slots=True)
class Drawn:
    """Where a client's link stands when its job begins."""

    trace: int
    """Which of the traces it takes, from 0."""
    share: float
    """Where in that trace it stands, 0 to 1."""

    def offset_s(self, trace: Trace) -> float:
        """The same in seconds from the start of the trace."""
        return self.share * trace.duration_s


def draw_link(*, seed: int, client: int, n_traces: int) -> Drawn:
    """The link of a client, from the job's seed and the client's index: always the same."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, client)))
    return Drawn(int(rng.integers(n_traces)), float(rng.random()))
