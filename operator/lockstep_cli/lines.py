"""Lines of a stream whose sender may have no end; pure.

`cluster` cuts its answers here. Invariant: no more is held than a piece and the longest line that
is wanted, and each byte is copied a bounded number of times.
"""

from collections.abc import Iterable, Iterator

CUT = b" ... (cut)"
"""How a line ends whose rest was dropped."""


def lines_of(pieces: Iterable[bytes], *, most: int | None = None) -> Iterator[bytes]:
    """The lines of pieces as they come; of one longer than `most` bytes the rest is dropped."""
    line, cut = bytearray(), False
    for piece in pieces:
        *ended, rest = piece.split(b"\n")
        for part, ends in (*((one, True) for one in ended), (rest, False)):
            if not cut:
                line += part
            if most is not None and len(line) > most:
                yield bytes(line[:most]) + CUT
                line.clear()
                cut = True
            if ends:
                if not cut:
                    yield bytes(line)
                line.clear()
                cut = False
    if line:
        yield bytes(line)
