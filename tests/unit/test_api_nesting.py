"""Jobs nested as deep as an apiserver keeps them are read, whichever Python reads them."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from lockstep_api.nesting import read_whatever_is_kept


class Bounded(json.JSONDecoder):
    """Gives up where C's stack is bounded, whatever limit is set (Python 3.12 and later)."""

    def __init__(self) -> None:
        super().__init__()
        quick = self.scan_once  # type: ignore[has-type]

        def scan_once(text: str, at: int) -> Any:
            if text.count("[") + text.count("{") > 9_990:
                raise RecursionError
            return quick(text, at)

        self.scan_once = scan_once


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    limit, usual = sys.getrecursionlimit(), json._default_decoder  # type: ignore[attr-defined]
    monkeypatch.setattr(json, "JSONDecoder", Bounded)
    monkeypatch.setattr(usual, "scan_once", usual.scan_once)
    read_whatever_is_kept()
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a": ', "}")])
@pytest.mark.parametrize("depth", [10, 9_990, 10_002])
def test_it_is_read(bounded: None, opens: str, closes: str, depth: int) -> None:
    read, levels = json.loads(opens * depth + "null" + closes * depth), 0
    while read is not None:
        (read,) = read.values() if isinstance(read, dict) else read
        levels += 1
    assert levels == depth


def test_what_is_no_json_is_refused_as_ever(bounded: None) -> None:
    for broken in ("[" * 10_002, "[1, " + "[" * 10_000 + "]" * 10_000, "{"):
        with pytest.raises(json.JSONDecodeError):
            json.loads(broken)
