"""The site of docs/: builds without a warning, and needs nobody else's server."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOADED = re.compile(
    r"""<(?:script|img|iframe)[^>]*\bsrc=["'](?:https?:)?//[^"']+|<link[^>]*\brel=["'](?:stylesheet|preload|preconnect)["'][^>]*//[^"']+"""
)
"""What a browser would fetch from elsewhere by itself."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


def test_the_site_builds_without_a_warning_and_has_every_page(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    assert [page for page in pages if not (site / page.with_suffix(".html")).exists()] == []


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    found = {
        str(path.relative_to(site)): LOADED.findall(path.read_text(encoding="utf-8"))
        for path in site.rglob("*.html")
    }
    assert {where: what for where, what in found.items() if what} == {}


def test_what_is_fetched_from_elsewhere_is_found() -> None:
    assert LOADED.search('<link href="x" rel="stylesheet" href="https://fonts.example/x">')
    assert LOADED.search('<script defer src="https://cdn.example/x.js"></script>')
    assert not LOADED.search('<a href="https://example.org/">elsewhere</a>')
