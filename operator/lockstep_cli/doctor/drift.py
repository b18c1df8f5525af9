"""Where two schemas differ, in words; pure."""

from collections.abc import Iterator
from typing import Any

from lockstep_admission.structural import child

Json = Any
_WORDS = frozenset(("description", "message"))
"""Of no consequence."""


def differences(wanted: Json, found: Json, *, path: str = "") -> Iterator[str]:
    """A few words for each place; texts for people may differ."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in sorted(wanted.keys() | found.keys()):
            if key not in _WORDS or isinstance(wanted.get(key), dict):
                yield from _of_key(wanted, found, key=key, path=path)
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for index, (one, other) in enumerate(zip(wanted, found, strict=True)):
            yield from differences(one, other, path=f"{path}[{index}]")
    elif wanted != found:
        yield f"{_field(path)} is another"


def _of_key(
    wanted: dict[str, Json], found: dict[str, Json], *, key: str, path: str
) -> Iterator[str]:
    below = child(path, key)
    if key not in found:
        yield f"{_field(below)} is missing"
    elif key not in wanted:
        yield f"{_field(below)} is unknown here"
    else:
        yield from differences(wanted[key], found[key], path=below)


def _field(path: str) -> str:
    """As the manifest has it, where that is possible."""
    return path.replace("properties.", "").replace(".items", "[]")
