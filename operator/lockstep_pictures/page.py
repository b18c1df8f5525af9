"""A page: head with facts, sections of pictures and tables, the manifest; one file, no network.

`report` fills it for a job or for several; whoever serves it may have it follow what it shows.
Invariant: every text is escaped here, whoever wrote it; a page is readable without its pictures
(captions, tables), and its pictures have a text for who does not see them.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lockstep_pictures import embedding, theme
from lockstep_pictures.page_style import LIVE, STYLE

Tone = Literal["good", "bad", "plain"]
Specs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A figure of the head."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A picture on a page."""

    name: str
    """Its own on the page, of letters, digits and dashes."""
    title: str
    caption: str
    """How to read it."""
    picture: theme.Picture
    wide: bool = False
    """Whether it takes the page's whole width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table on a page."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: frozenset[int] = frozenset({0})
    """Columns of words; all others are numbers."""
    texts: frozenset[int] = frozenset()
    """Columns of sentences, which may take several lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a page."""

    name: str
    """Its own on the page, of letters, digits and dashes."""
    title: str
    text: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PageContent:
    """All that a page says."""

    title: str
    state: str = ""
    """In a word."""
    tone: Tone = "plain"
    lead: str = ""
    """What it is about, in a sentence or two."""
    problems: Sequence[str] = ()
    """What people should know first."""
    facts: Sequence[Fact] = ()
    sections: Sequence[Section] = ()
    listings: Mapping[str, str] = field(default_factory=dict)
    """Title → text as it is, such as a manifest."""
    foot: str = ""
    """When and with what it was made."""
    ended: bool = True
    """Whether what it shows changes no more."""


def page(content: PageContent, *, live: bool = False, every_s: float = 5.0) -> str:
    """The page as HTML.

    Args:
        content: all that it says.
        live: it asks for its own address every `every_s` seconds until what it shows has ended, and
            takes over what changed in place: whoever serves it need only answer with the page.
        every_s: seconds between two such questions.
    """
    follows = live and not content.ended
    pictures = {
        figure.name: theme.spec_of(figure.picture)
        for section in content.sections
        for figure in section.figures
    }
    following = f"{LIVE}drawn.then(() => follow({every_s * 1000:.0f}));"
    state = '<p id="live" role="status">live</p>\n' if follows else ""
    body = (
        f'<main id="content">\n{_head(content)}{_contents(content)}'
        f"{''.join(_section(one, pictures) for one in content.sections)}"
        f"{''.join(_listing(title, text) for title, text in content.listings.items())}"
        f"<footer><p>{_text(content.foot)}</p></footer>\n</main>\n{state}"
        f"{embedding.drawing(pictures, script=following if follows else '')}"
    )
    connect = "'self'" if follows else "'none'"
    return embedding.document(content.title, body, style=STYLE, connect=connect)


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _head(content: PageContent) -> str:
    state = f' <span class="state {content.tone}">{_text(content.state)}</span>'
    problems = "".join(f'<p class="problem">{_text(one)}</p>\n' for one in content.problems)
    return (
        f"<header>\n<h1>{_text(content.title)}{state if content.state else ''}</h1>\n"
        f'<p class="lead">{_text(content.lead)}</p>\n{problems}'
        f'<dl class="facts">\n{"".join(map(_fact, content.facts))}</dl>\n</header>\n'
    )


def _fact(fact: Fact) -> str:
    note = f"<small>{_text(fact.note)}</small>" if fact.note else ""
    return f"<div><dt>{_text(fact.name)}</dt><dd>{_text(fact.value)}{note}</dd></div>\n"


def _contents(content: PageContent) -> str:
    links = "".join(
        f'<li><a href="#{_text(one.name)}">{_text(one.title)}</a></li>' for one in content.sections
    )
    return f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n' if content.sections else ""


def _section(section: Section, pictures: Specs) -> str:
    name = _text(section.name)
    text = f"<p>{_text(section.text)}</p>\n" if section.text else ""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">\n'
        f'<h2 id="{name}-title">{_text(section.title)}</h2>\n{text}'
        f"{_grid(section.figures, pictures)}{''.join(map(_table, section.tables))}</section>\n"
    )


def _grid(figures: Sequence[Figure], pictures: Specs) -> str:
    shown = "".join(_figure(one, pictures[one.name]) for one in figures)
    return f'<div class="figures">\n{shown}</div>\n' if figures else ""


def _figure(figure: Figure, spec: Mapping[str, Any]) -> str:
    kind = ' class="wide"' if figure.wide else ""
    text = str(spec.get("description") or figure.title)
    return (
        f"<figure{kind}>\n<h3>{_text(figure.title)}</h3>\n"
        f"{embedding.plot(figure.name, text=text)}\n"
        f"<figcaption>{_text(figure.caption)}</figcaption>\n</figure>\n"
    )


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col"{_kind(place, table)}>{_text(one)}</th>'
        for place, one in enumerate(table.head)
    )
    rows = "".join(f"<tr>{_row(row, table)}</tr>\n" for row in table.rows)
    return (
        f'<div class="table" role="region" tabindex="0" aria-label="{_text(table.caption)}">\n'
        f"<table><caption>{_text(table.caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    )


def _row(row: Sequence[str], table: Table) -> str:
    first = f'<th scope="row"{_kind(0, table)}>{_text(row[0])}</th>'
    return first + "".join(
        f"<td{_kind(place, table)}>{_text(one)}</td>" for place, one in enumerate(row[1:], start=1)
    )


def _kind(place: int, table: Table) -> str:
    if place in table.texts:
        return ' class="word text"'
    return ' class="word"' if place in table.words else ""


def _listing(title: str, text: str) -> str:
    return (
        f"<details><summary>{_text(title)}</summary>\n<pre>{_text(text)}</pre>\n</details>\n"
        if text
        else ""
    )
