"""Figures as people read them: few digits, a unit, a dash for what is not known.

Used for the facts and tables of pages. Pure.
"""

from lockstep_pictures.rows import finite

UNKNOWN = "–"
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_BYTES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def number(value: float | None, *, digits: int = 4) -> str:
    """A number of at most so many significant digits: 12345.678 is 12,346."""
    told = finite(value)
    if told is None:
        return UNKNOWN
    if told == 0 or abs(told) >= 10 ** (digits - 1):
        return f"{told:,.0f}"
    return f"{told:.{digits}g}"


def share(value: float | None) -> str:
    """An accuracy."""
    told = finite(value)
    return UNKNOWN if told is None else f"{told:.4f}"


def seconds(value: float | None) -> str:
    """A time: 0.43 s, 75 s, 12 min 5 s, 3 h 20 min."""
    told = finite(value)
    if told is None:
        return UNKNOWN
    if told < 120:
        return f"{number(told, digits=3)} s"
    minutes, rest = divmod(round(told), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def joules(value: float | None) -> str:
    """An energy: 8.4 J, 12.3 kJ."""
    told = finite(value)
    if told is None:
        return UNKNOWN
    for size, prefix in _PREFIXES:
        if abs(told) >= 10 * size:
            return f"{number(told / size)} {prefix}J"
    return f"{number(told)} J"


def moment(stamp: str) -> str:
    """A time stamp of Kubernetes: `2026-01-02T03:04:05Z` is 2026-01-02 03:04:05 UTC."""
    return stamp.replace("T", " ").replace("Z", " UTC")


def size(value: int | None) -> str:
    """A number of bytes: 512 B, 1.5 MiB."""
    if value is None:
        return UNKNOWN
    for unit, name in _BYTES:
        if value >= unit:
            return f"{value / unit:.1f} {name}"
    return f"{value} B"


def count(value: int, what: str) -> str:
    """`1 device`, `2 devices`."""
    return f"{value:,} {what}{'' if value == 1 else 's'}"
