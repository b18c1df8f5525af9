"""Text from elsewhere, made fit for a line that people read; pure.

Logs, conditions and events pass through it: nobody forges a second line in them, or colours a
terminal.
"""

import re

# Control characters, line and paragraph separators, and what turns the direction of writing.
UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def printable(text: str) -> str:
    """The text on one line, with what is no character for people written as its code."""
    return UNFIT.sub(lambda found: ascii(found[0])[1:-1], text)
