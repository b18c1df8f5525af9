"""Values with their units, as Grafana shows them."""

import math

_SI = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))
_BINARY = ((2.0**40, "Ti"), (2.0**30, "Gi"), (2.0**20, "Mi"), (2.0**10, "Ki"), (1.0, ""))
_SCALED = {"joule": "J", "watt": "W", "Bps": "B/s", "reqps": "req/s", "ops": "ops/s"}
_PLAIN = {"Mbits": "Mbit/s", "s": "s", "short": "", "none": ""}


def symbol(unit: str) -> str:
    """What stands at an axis."""
    if unit.startswith("suffix:"):
        return unit.removeprefix("suffix:").strip()
    if unit == "bytes":
        return "B"
    return _SCALED.get(unit) or _PLAIN.get(unit, "")


def told(value: float, unit: str, *, decimals: int | None = None) -> str:
    """A value in words: `1.25 kJ`, `3 min 20 s`, `87.5 %`."""
    if not math.isfinite(value):
        return "–"
    if unit == "percentunit":
        return f"{value * 100:.{1 if decimals is None else decimals}f} %"
    if unit == "s":
        return _seconds(value, decimals)
    if unit == "bytes":
        return _scaled(value, "B", steps=_BINARY)
    if unit in _SCALED:
        return _scaled(value, _SCALED[unit], steps=_SI)
    return f"{_number(value, decimals)} {symbol(unit)}".strip()


def _number(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:,.{decimals}f}"
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"


def _seconds(value: float, decimals: int | None) -> str:
    if abs(value) < 1 and value:
        return _scaled(value, "s", steps=_SI)
    if abs(value) < 120:
        return f"{_number(value, decimals)} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _scaled(value: float, unit: str, *, steps: tuple[tuple[float, str], ...]) -> str:
    size = abs(value)
    factor, prefix = next((step for step in steps if size >= step[0]), (1.0, ""))
    return f"{value / factor:.3g} {prefix}{unit}" if size else f"0 {unit}"
