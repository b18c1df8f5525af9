"""Text for people: kept short, and what comes from elsewhere made fit for a line that people read.

Both planes make messages, conditions and refusals with it, the CLI its screens. Invariant: what is
`printable` forges no second line, and colours no terminal.
"""

import re
from collections.abc import Sequence

# Control characters, line and paragraph separators, and what turns the direction of writing.
UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def printable(text: str) -> str:
    """The text on one line, with what is no character for people written as its code."""
    return UNFIT.sub(lambda found: ascii(found[0])[1:-1], text)


def few(items: Sequence[str], most: int, *, comma: str = ", ") -> str:
    """The first items, and how many more there are."""
    more = len(items) - most
    listed = comma.join(items[:most])
    return f"{listed} and {more} more" if more > 0 else listed


def cut(text: str, most: int) -> str:
    """The text, or its beginning and an ellipsis when it has more characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
