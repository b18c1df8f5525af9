"""Sets of bandwidth traces: read from a folder tree, kept on one cumulative axis, split by trace.

Four formats are told apart by their content: csv of `t_seconds,bandwidth_mbps`, Mahimahi packet
files, Ghent 4G logs and Pensieve's cooked traces. A file that is one of them with a wrong line is
refused, one that is none is passed over and told. Everything looks up the integral, the Mbit
carried up to a moment.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lockstep_allocator.bandwidth import (
    LEAST_S,
    MAX_ROWS,
    MOST_MBPS,
    MOST_S,
    InvalidTrace,
    Trace,
    parse_trace,
    text_of,
)
from lockstep_allocator.devices import Array

Index = NDArray[np.int64]

logger = logging.getLogger(__name__)

_SUFFIXES = {".csv", ".log", ".txt", ".trace", ".up", ".down"}
"""Of names: all others belong to a name, like those of web pages that a trace was taken from."""
_SHOWN = 3
_COLUMNS = {1, 2, 6}
_PACKET_BITS = 1500 * 8
"""What one line of a Mahimahi file lets pass."""
_MBIT = 1e6
_MOST_MS = 1000 * MAX_ROWS
"""A piece for each second is made of them."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class NamedTrace:
    """A trace, where it came from and what it is."""

    family: str
    """Name of its folder."""
    name: str
    """Name of its file, without a suffix that only says what it is."""
    sha256: str
    """Of its file."""
    trace: Trace
    """The bandwidth."""


# -- files -----------------------------------------------------------------------------------


def read_traces(
    folder: Path,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    tell: Callable[[str], None] = logger.warning,
) -> list[NamedTrace]:
    """All traces under a folder, by family (the folder that holds them) and name.

    Args:
        folder: a tree of trace files; what they are called does not matter.
        include: families to read (globs); all when empty.
        exclude: families to leave out (globs).
        tell: hears which files are no traces.

    Raises:
        InvalidTrace: a trace has a wrong line, or there are none.
    """
    if not folder.is_dir():
        raise InvalidTrace(f"{folder} is not a folder: give one with trace files")
    found: list[NamedTrace] = []
    others: list[str] = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or not _wanted(path.parent, include, exclude=exclude):
            continue
        try:
            found.append(_named(path))
        except _NoTrace as error:
            others.append(str(error))
    if not found:
        why = f": {_some(others)}" if others else ""
        raise InvalidTrace(f"{folder} has no trace files{why}")
    if others:
        tell(f"{len(others)} files under {folder} are no traces: {_some(others)}")
    return found


class _NoTrace(InvalidTrace):
    """A file that nobody would take for a trace."""


def _some(items: Sequence[str]) -> str:
    return "; ".join(items[:_SHOWN]) + ("; …" if len(items) > _SHOWN else "")


def _wanted(family: Path, include: Sequence[str], *, exclude: Sequence[str]) -> bool:
    wanted = not include or any(family.match(glob) for glob in include)
    return wanted and not any(family.match(glob) for glob in exclude)


def _named(path: Path) -> NamedTrace:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidTrace(f"{path} cannot be read: {error.strerror}") from error
    try:
        text = text_of(content, str(path))
    except InvalidTrace as error:
        raise _NoTrace(str(error)) from error
    if not _looks_like_a_trace(text):
        raise _NoTrace(_none_of(text, str(path)))
    return NamedTrace(
        family=path.parent.name,
        name=path.stem if path.suffix in _SUFFIXES else path.name,
        sha256=hashlib.sha256(content).hexdigest(),
        trace=parse(text, source=str(path)),
    )


def _looks_like_a_trace(text: str) -> bool:
    """Whether one of its first lines has as many numbers as a trace's: the first may be a header.

    Of two columns, so that prose and lists of single words or numbers amid them are none.
    """
    return any(_are_numbers(_cells(line)) for line in _lines(text)[:2])


def _lines(text: str) -> list[str]:
    """Those that are not empty."""
    return [line for line in text.splitlines() if line.strip()]


def _cells(line: str) -> list[str]:
    between = next((one for one in ";," if one in line), None)
    cells = [cell.strip().strip('"') for cell in line.split(between)]
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _are_numbers(cells: Sequence[str]) -> bool:
    try:
        _ = [float(cell.replace(",", ".")) for cell in cells]
    except ValueError:
        return False
    return len(cells) in _COLUMNS


def parse(text: str, *, source: str) -> Trace:
    """A trace in any of the formats; the first line that has data tells which it is.

    Raises:
        InvalidTrace: not a trace; names the line.
    """
    text = text.removeprefix("\ufeff")
    first = next(iter(_lines(text)), "")
    if any(one in first for one in ",;"):
        return parse_trace(text, source=source)
    match len(first.split()):
        case 1:
            return _parse_mahimahi(text, source)
        case 2 if "\t" in first:
            return parse_trace(text, source=source)
        case 2:
            return _parse_pensieve(text, source)
        case 6:
            return _parse_ghent(text, source)
    raise InvalidTrace(_none_of(text, source))


def _none_of(text: str, source: str) -> str:
    first = next(iter(_lines(text)), "")
    return (
        f"{source}, line 1: {first[:60]!r} is none of: t_seconds,bandwidth_mbps (csv); one "
        "millisecond a line (Mahimahi); seconds and Mbit/s (Pensieve); six columns (Ghent)"
    )


def _numbers(text: str, source: str, *, columns: int) -> Iterable[tuple[str, list[float]]]:
    """(place, numbers) of each line that is not empty."""
    for number, line in enumerate(text.splitlines(), 1):
        cells = line.split()
        if not cells:
            continue
        where = f"{source}, line {number}"
        if len(cells) != columns:
            raise InvalidTrace(f"{where}: {len(cells)} columns, expected {columns}")
        try:
            values = [float(cell) for cell in cells]
        except ValueError as error:
            raise InvalidTrace(f"{where}: {line[:60]!r} are not numbers") from error
        if not np.isfinite(values).all():
            raise InvalidTrace(f"{where}: {line[:60]} is not finite: leave such rows out")
        yield where, values


def _parse_pensieve(text: str, source: str) -> Trace:
    """Seconds and Mbit/s; a row holds until the next."""
    rows = [f"{t},{mbps}" for _, (t, mbps) in _numbers(text, source, columns=2)]
    return parse_trace("\n".join(rows), source=source)


def _parse_mahimahi(text: str, source: str) -> Trace:
    """Milliseconds at which a packet of 1500 bytes may pass; the file repeats after the last one.

    Means over whole seconds, and over what is left of the last.
    """
    times: list[int] = []
    for where, (t_ms,) in _numbers(text, source, columns=1):
        if t_ms < 0 or t_ms != int(t_ms):
            raise InvalidTrace(f"{where}: {t_ms:g} is no whole millisecond (Mahimahi)")
        if times and t_ms < times[-1]:
            raise InvalidTrace(f"{where}: {t_ms:g} ms is before the line above: sort the lines")
        times.append(int(t_ms))
    if not 0 < times[-1] <= _MOST_MS:
        raise InvalidTrace(f"{source} ends at {times[-1]:g} ms: are these milliseconds?")
    starts_ms = np.arange(0, times[-1], 1000)
    # A packet passes at the end of its millisecond.
    packets = np.bincount(np.maximum(np.array(times) - 1, 0) // 1000, minlength=len(starts_ms))
    lengths_s = np.diff(np.append(starts_ms, times[-1])) / 1000
    mbps = packets * _PACKET_BITS / _MBIT / lengths_s
    return _checked(starts_ms / 1000, mbps, duration_s=times[-1] / 1000, source=source)


def _parse_ghent(text: str, source: str) -> Trace:
    """Time (ms), ms since the start, latitude, longitude, bytes and ms of the sample before it."""
    starts, rates = [], []
    at_s = 0.0
    for where, values in _numbers(text, source, columns=6):
        received, span_ms = values[4], values[5]
        if received < 0 or span_ms < 0:
            raise InvalidTrace(f"{where}: bytes or milliseconds are negative")
        if span_ms == 0:
            continue
        span_s = span_ms / 1000
        if not (span_s >= LEAST_S and at_s + span_s <= MOST_S):
            raise InvalidTrace(
                f"{where}: {span_ms:g} ms is too little, or too much: mind the units"
            )
        starts.append(at_s)
        rates.append(received * 8 / span_s / _MBIT)
        at_s += span_s
    if not starts:
        raise InvalidTrace(f"{source} has no sample that lasts")
    return _checked(np.array(starts), np.array(rates), duration_s=at_s, source=source)


def _checked(starts_s: Array, mbps: Array, *, duration_s: float, source: str) -> Trace:
    if not mbps.any():
        raise InvalidTrace(f"{source} has bandwidth 0 throughout: nothing would ever arrive")
    if not mbps.max() <= MOST_MBPS:
        raise InvalidTrace(f"{source} has {mbps.max():g} Mbit/s, too much: mind the units")
    return Trace.of(starts_s, mbps, duration_s=float(duration_s))


# -- many traces at once ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TraceSet:
    """Looped traces on one axis, so that one search serves a whole batch.

    `carried` and `when` say of many what `Trace.bits_until` and `Trace.when` say of one (a property
    test holds them together), but that no link stands still here: bandwidths are clipped.
    """

    starts_s: Array
    """(P + 1,) when each piece begins on the common axis."""
    mbit: Array
    """(P + 1,) Mbit carried up to there."""
    mbps: Array
    """(P,) bandwidth of each piece."""
    first: Index
    """(K + 1,) index of each trace's first piece."""
    step_s: float | None
    """Length of every piece, when all are alike."""

    @classmethod
    def of(cls, traces: Sequence[Trace], *, least_mbps: float, most_mbps: float) -> "TraceSet":
        """The traces with their bandwidth clipped (a link that stands still never delivers)."""
        lengths = [np.diff(np.append(t.starts_s, t.duration_s)) for t in traces]
        pieces = np.concatenate(lengths)
        mbps = np.clip(np.concatenate([t.mbps for t in traces]), least_mbps, most_mbps)
        alike = np.ptp(pieces) < 1e-9 * pieces[0]
        counts = [len(one) for one in lengths]
        return cls(
            starts_s=np.concatenate([[0.0], np.cumsum(pieces)]),
            mbit=np.concatenate([[0.0], np.cumsum(pieces * mbps)]),
            mbps=mbps,
            first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            step_s=float(pieces[0]) if alike else None,
        )

    @property
    def durations_s(self) -> Array:
        """(K,) lengths of the loops."""
        return self.starts_s[self.first[1:]] - self.starts_s[self.first[:-1]]

    @property
    def totals_mbit(self) -> Array:
        """(K,) Mbit of a loop."""
        return self.mbit[self.first[1:]] - self.mbit[self.first[:-1]]

    def changes_s(self, which: int, begin_s: float, *, end_s: float) -> Array:
        """When a looped trace goes from one piece to the next, from `begin_s` to `end_s`."""
        pieces = slice(self.first[which], self.first[which + 1])
        starts = self.starts_s[pieces] - self.starts_s[pieces.start]
        length = self.durations_s[which]
        loops = np.arange(np.floor(begin_s / length), np.floor(end_s / length) + 1)
        every = (loops[:, None] * length + starts).ravel()
        return np.asarray(every[(every >= begin_s) & (every <= end_s)])

    def carried(self, which: Index, at_s: Array) -> Array:
        """Mbit carried from moment 0 to `at_s` >= 0; arrays of one shape."""
        length = self.durations_s[which]
        loops = np.floor(at_s / length)
        begin = self.first[which]
        inside = at_s - loops * length
        if self.step_s is not None:
            piece = begin + (inside / self.step_s).astype(np.int64)
        else:
            piece = np.searchsorted(self.starts_s, inside + self.starts_s[begin], side="right") - 1
        piece = np.clip(piece, begin, self.first[which + 1] - 1)
        partly = self.mbps[piece] * (inside + self.starts_s[begin] - self.starts_s[piece])
        return loops * self.totals_mbit[which] + self.mbit[piece] - self.mbit[begin] + partly

    def when(self, which: Index, mbit: Array) -> Array:
        """The first moment at which so much has been carried; the inverse of `carried`."""
        total = self.totals_mbit[which]
        loops = np.floor(mbit / total)
        begin = self.first[which]
        wanted = mbit - loops * total + self.mbit[begin]
        piece = np.searchsorted(self.mbit, wanted, side="right") - 1
        piece = np.clip(piece, begin, self.first[which + 1] - 1)
        partly = (wanted - self.mbit[piece]) / self.mbps[piece]
        return (
            loops * self.durations_s[which] + self.starts_s[piece] - self.starts_s[begin] + partly
        )


# -- splits ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Split:
    """Disjoint parts of a list of traces."""

    train: list[NamedTrace]
    validation: list[NamedTrace]
    test: list[NamedTrace]


def split_by_trace(traces: Sequence[NamedTrace], *, seed: int) -> Split:
    """A third of each family for testing, 8 % (at least one) for validation, the rest to train.

    Pieces of one trace never land in two parts: a policy could know the rest of its own trace.
    """
    random = np.random.default_rng(seed)
    parts = Split([], [], [])
    for family in sorted({trace.family for trace in traces}):
        members = [trace for trace in traces if trace.family == family]
        order = [members[i] for i in random.permutation(len(members))]
        tests = round(len(order) / 3)
        validations = max(1, round(len(order) * 0.08)) if len(order) > 1 else 0
        parts.test.extend(order[:tests])
        parts.validation.extend(order[tests : tests + validations])
        parts.train.extend(order[tests + validations :])
    return parts


def without(parts: Split, families: Sequence[str]) -> Split:
    """The split without some families (globs)."""
    kept = (
        [trace for trace in part if not any(fnmatchcase(trace.family, glob) for glob in families)]
        for part in (parts.train, parts.validation, parts.test)
    )
    return Split(*kept)


def reversed_in_time(named: NamedTrace) -> NamedTrace:
    """The trace run backwards: another trace with the same statistics."""
    trace = named.trace
    lengths = np.diff(np.append(trace.starts_s, trace.duration_s))[::-1]
    starts = np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
    backwards = Trace.of(starts, trace.mbps[::-1].copy(), duration_s=trace.duration_s)
    return NamedTrace(
        family=named.family, name=f"{named.name} reversed", sha256=named.sha256, trace=backwards
    )
