"""Text for people, kept short: both planes make messages, conditions and refusals with it."""

from collections.abc import Sequence


def few(items: Sequence[str], most: int, *, comma: str = ", ") -> str:
    """The first items, and how many more there are."""
    more = len(items) - most
    listed = comma.join(items[:most])
    return f"{listed} and {more} more" if more > 0 else listed


def cut(text: str, most: int) -> str:
    """The text, or its beginning and an ellipsis when it has more characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
