"""Which pages are made from code, and by what. Called by `python -m tests.docs` and a test."""

from collections.abc import Callable

from tests.docs import cli, federatedjob
from tests.docs.markdown import ROOT

REFERENCES: dict[str, Callable[[], str]] = {
    "docs/reference/cli.md": cli.reference,
    "docs/reference/federatedjob.md": federatedjob.reference,
}


def stale() -> list[str]:
    """Pages that are not what the code says."""
    return [
        page
        for page, written in REFERENCES.items()
        if not (ROOT / page).exists() or (ROOT / page).read_text(encoding="utf-8") != written()
    ]
