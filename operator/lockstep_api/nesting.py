"""How deep values may be nested in each other.

Free fields of a spec have no schema: an apiserver stores whatever is nested 10,000 deep in them,
and Python's readers of JSON give up after 1,000. Programs that read jobs of a cluster call
`read_whatever_is_kept` first, so that one job keeps nobody from reading others. Invariant: no spec
that was read is deeper than `MOST_LEVELS`.
"""

import sys
from typing import Any

MOST_LEVELS = 32
"""Of a free field, itself included."""
_STACK_LEVELS = 30_000
"""Three times what an apiserver keeps, and no more than 8 MiB of stack hold."""


def read_whatever_is_kept() -> None:
    """Has this process read all that an apiserver stores."""
    sys.setrecursionlimit(max(sys.getrecursionlimit(), _STACK_LEVELS))


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
