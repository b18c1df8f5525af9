"""Reads the Markdown of docs and README: its blocks, its links, its anchors, its inline code.

Called by the tests of the docs. Invariant: a block that is no fence is found, too.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
TOP = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
_INFO = re.compile(r'(?P<language>[a-z]+)(?: title="(?P<title>[^"]+)")?')
_NOT_IN_ANCHORS = re.compile(r"[^\w\- ]")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code."""

    page: str
    line: int
    language: str
    """Empty: it says none (or is only indented)."""
    title: str
    text: str

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """All pages, as paths from the top of the repository."""
    docs = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
    return [*(name for name in TOP if (ROOT / name).exists()), *docs]


@cache
def tokens(page: str) -> list[Token]:
    """A page, parsed."""
    return parsed((ROOT / page).read_text(encoding="utf-8"))


def parsed(text: str) -> list[Token]:
    """Markdown, parsed."""
    return MarkdownIt("commonmark").enable("table").parse(text)


def blocks() -> list[Block]:
    """All blocks of all pages."""
    return [block for page in pages() for block in blocks_of(tokens(page), page)]


def blocks_of(found: list[Token], page: str) -> Iterator[Block]:
    """The blocks of a page."""
    for token in found:
        if token.type in ("fence", "code_block"):
            said = _INFO.fullmatch(token.info.strip())
            line = (token.map or [0])[0] + 1
            language, title = said.group("language", "title") if said else ("", "")
            yield Block(page, line, language, title or "", token.content)


def links(page: str) -> list[str]:
    """Where the links and pictures of a page point to."""
    return [
        str(child.attrs.get("href") or child.attrs.get("src"))
        for token in tokens(page)
        for child in token.children or ()
        if child.type in ("link_open", "image")
    ]


def inline_code(page: str) -> list[str]:
    """What stands between backticks in the text of a page."""
    return [
        child.content
        for token in tokens(page)
        for child in token.children or ()
        if child.type == "code_inline"
    ]


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings."""
    made: set[str] = set()
    found = tokens(page)
    for place, token in enumerate(found):
        if token.type == "heading_open":
            words = found[place + 1].children or ()
            text = "".join(word.content for word in words).lower()
            made.add(_NOT_IN_ANCHORS.sub("", text).replace(" ", "-"))
    return made
