"""docs/metrics.md: the prose of metrics_page.md around tables of `lockstep_api.series`.

Invariant: the page lists every series of the catalogue, and says nothing of one that is not there.
"""

from pathlib import Path

from lockstep_api import series
from lockstep_api.series import Kind, Owner, Series, Where

PATH = "docs/metrics.md"
_PROSE = Path(__file__).with_suffix(".md")
_COLUMNS = ("name", "type", "unit", "labels", "meaning", "example")


def text() -> str:
    """What stands in the file."""
    page = _PROSE.read_text(encoding="utf-8")
    page = page.replace("{{planned}}", "`, `".join(one.queried for one in series.PLANNED))
    for owner in Owner:
        page = page.replace(f"{{{{{owner}}}}}", _table(owner))
    return page


def _table(owner: Owner) -> str:
    return "\n".join(
        [_row(_COLUMNS), _row(("---",) * len(_COLUMNS)), *map(_series, series.of(owner))]
    )


def _series(one: Series) -> str:
    name = one.name if one.kind is Kind.HISTOGRAM else one.queried
    where = "" if one.where is Where.ALL else f"Only with {one.where}."
    meaning = " ".join(part for part in (one.text, where, one.more) if part)
    return _row((f"`{name}`", one.kind, one.unit, _labels(one), meaning, f"`{one.example}`"))


def _labels(one: Series) -> str:
    names = [f"`{label}`" for label in one.labels]
    if one.values:
        names[-1] += f" ({', '.join(f'`{value}`' for value in one.values)})"
    return ", ".join(names)


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
