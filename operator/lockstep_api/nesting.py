"""How deep values may be nested in each other, and how many there may be.

Free fields of a spec have no schema: an apiserver stores objects that are nested 10,000 deep, and
Python's reader of JSON gives up after 1,000, since Python 3.12 after some 9,990 whatever limit is
set. Programs that read jobs of a cluster call `read_whatever_is_kept` first, so that one job keeps
nobody from reading others. Nor is a spec kept of whose megabyte Python makes thirty. Invariant: no
spec that was read is deeper than `MOST_LEVELS` or larger than `MOST_VALUES` and `MOST_CHARACTERS`.
"""

import json
import sys
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from typing import Any

MOST_LEVELS = 32
"""Of a free field, itself included."""
MOST_VALUES, MOST_CHARACTERS = 24_000, 256 << 10
"""Of a spec: 64 groups of devices with a power table each have 17,000, and a pod may have no more
annotations."""
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


def not_too_large(spec: Any) -> Any:
    """The same.

    Raises:
        ValueError: it has too many values, or texts that are too long together.
    """
    values, characters, waiting = 0, 0, [spec]
    while waiting:
        one = waiting.pop()
        values += 1
        if isinstance(one, dict):
            characters += sum(map(len, one))
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, str):
            characters += len(one)
        if values + len(waiting) > MOST_VALUES or characters > MOST_CHARACTERS:
            raise ValueError(
                f"a spec may have {MOST_VALUES} values with {MOST_CHARACTERS} characters together,"
                " and this one has more: put large data into the image"
            )
    return spec


def _within(value: Any) -> list[Any]:
    """The lists and mappings in another."""
    values = value.values() if isinstance(value, dict) else value
    return [one for one in values if isinstance(one, (dict, list))]
