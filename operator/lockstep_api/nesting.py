"""How deep values may be nested in each other.

Free fields of a spec have no schema: an apiserver stores objects that are nested 10,000 deep, and
Python's reader of JSON gives up after 1,000, since Python 3.12 after some 9,990 whatever limit is
set. Programs that read jobs of a cluster call `read_whatever_is_kept` first, so that one job keeps
nobody from reading others. Invariant: no spec that was read is deeper than `MOST_LEVELS`.
"""

import json
import sys
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from typing import Any

MOST_LEVELS = 32
"""Of a free field, itself included."""
_STACK_LEVELS = 30_000
"""Three times what an apiserver keeps, and no more than 8 MiB of stack hold."""


def read_whatever_is_kept() -> None:
    """Has `json` read, everywhere in this process, all that an apiserver stores."""
    sys.setrecursionlimit(max(sys.getrecursionlimit(), _STACK_LEVELS))
    usual = json._default_decoder  # type: ignore[attr-defined]  # what json.loads reads with
    usual.scan_once = _patient(json.JSONDecoder())


def _patient(decoder: Any) -> Any:
    """A reader of JSON, and behind it Python's own, much slower one for what is too deep."""
    quick, slow = decoder.scan_once, py_make_scanner(decoder)

    def scan_once(text: str, at: int) -> Any:
        try:
            return quick(text, at)
        except RecursionError:
            return slow(text, at)

    return scan_once


def not_too_deep(value: dict[str, Any]) -> dict[str, Any]:
    """The same.

    Raises:
        ValueError: it is nested too deep.
    """
    level: list[Any] = [value]
    for _ in range(MOST_LEVELS):
        level = [inner for one in level for inner in _within(one)]
        if not level:
            return value
    raise ValueError(f"values may be nested in each other {MOST_LEVELS} deep, and these are deeper")


def _within(value: Any) -> list[Any]:
    """The lists and mappings in another."""
    values = value.values() if isinstance(value, dict) else value
    return [one for one in values if isinstance(one, (dict, list))]
