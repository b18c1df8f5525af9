"""Pages of docs and README: blocks have a language, lists show as lists, links lead somewhere."""

import re
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT, anchors, blocks, blocks_of, links, pages, parsed

LANGUAGES = {
    "console": "a command after `$`, and what it prints: is run, and must print that",
    "csv": "data",
    "dockerfile": "an image",
    "python": "is run",
    "promql": "a query",
    "sh": "commands",
    "text": "formulas, drawings, what programs print",
    "yaml": "manifests, or parts of them",
}
ITEM = re.compile(r"(- |\d+\. )")


def test_every_block_says_its_language() -> None:
    odd = [(block.where, block.language) for block in blocks() if block.language not in LANGUAGES]
    assert odd == []


def test_blocks_are_found_whatever_they_look_like() -> None:
    plain = "a\n\n    indented\n\n"
    text = plain + '```yaml title="values.yaml"\nb: 1\n```\n\n- c\n\n    ```sh\n    d\n    ```\n'
    found = [(b.line, b.language, b.title, b.text) for b in blocks_of(parsed(text), "page.md")]
    assert found == [
        (3, "", "", "indented\n"),
        (5, "yaml", "values.yaml", "b: 1\n"),
        (11, "sh", "", "d\n"),
    ]


@pytest.mark.parametrize("page", pages())
def test_lists_begin_after_an_empty_line(page: str) -> None:
    """The site would show them as one paragraph."""
    before, fenced, odd = "", False, []
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        starts = ITEM.match(line) and before and not ITEM.match(before.lstrip())
        if not fenced and starts and not before.startswith("  "):
            odd.append(number)
        before = line
    assert odd == []


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    here = ROOT / page
    local = [link for link in links(page) if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not leads_somewhere(link, here)] == []


def leads_somewhere(link: str, page: Path) -> bool:
    """Whether there is such a file, with such a heading."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not anchor:
        return target.is_file()
    return target.is_file() and anchor in anchors(str(target.relative_to(ROOT)))


def test_links_that_lead_nowhere_are_found() -> None:
    page = ROOT / "docs" / "split.md"
    assert leads_somewhere("allocation.md#policies", page)
    assert leads_somewhere("#a-round", page)
    assert not leads_somewhere("allocation.md#politics", page)
    assert not leads_somewhere("nowhere.md", page)
