"""Dictionaries that forget what was not put for longest; caches of any caller's doing are such."""

from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def remember(known: dict[Key, Value], key: Key, *, value: Value, most: int) -> None:
    """Puts something last; what comes first goes when there are too many."""
    known.pop(key, None)
    known[key] = value
    while len(known) > most:
        del known[next(iter(known))]
