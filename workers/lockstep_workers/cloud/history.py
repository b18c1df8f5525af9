"""The history of a job's rounds: a file of one JSON line a round, whose size is bounded.

Owned by the store. Invariant: each finished round is in it once, in order, and none after the one
that a resumed job goes on from. The newest rounds are whole, with their plans; before the file
outgrows its bound, older ones become summaries, without the figures of each client. Summaries
alone may take half of the bound (some 50,000 rounds): beyond that the oldest go.
"""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from lockstep_api.base import WireModel
from lockstep_api.records import MOST_HISTORY_BYTES, RoundRecord, RoundSummary
from lockstep_api.wire import RoundReport
from lockstep_workers.files import write_whole

_LEAST_BYTES = 1 << 20
_SHARE_OF_VOLUME = 16
_BLOCK = 1 << 16


class _Numbered(WireModel):
    """What every line has."""

    round: int


def most_bytes(folder: Path) -> int:
    """How large a history may become: a sixteenth of its volume, from 1 to 32 MiB."""
    volume = os.statvfs(folder)
    share = volume.f_blocks * volume.f_frsize // _SHARE_OF_VOLUME
    return max(_LEAST_BYTES, min(MOST_HISTORY_BYTES, share))


@dataclass(slots=True)
class History:
    """The file of one job."""

    path: Path
    most_bytes: int
    _bytes: int = 0
    """Bytes of whole lines; what comes after them was cut off by a full volume or a crash."""

    def add(self, record: RoundRecord) -> None:
        """Appends a round; one that takes a quarter of the bound is only summed up.

        Raises:
            OSError: the volume is full; a part of a line that was written is cut off next time.
        """
        line = record.to_json().encode() + b"\n"
        if len(line) > self.most_bytes // 4:
            line = _summary(record)
        if self._bytes + len(line) > self.most_bytes:
            self._shrink()
        with self.path.open("ab") as file:
            file.truncate(self._bytes)
            file.write(line)
        self._bytes += len(line)

    def cut(self, last_round: int) -> int:
        """Drops the rounds after `last_round`; returns the newest one that was there."""
        kept, newest = 0, 0
        if self.path.exists():
            with self.path.open("rb+") as file:
                for end, line in _from_the_end(file):
                    number = _round_of(line)
                    if number is None:  # cut off by a crash
                        continue
                    newest = max(newest, number)
                    if number <= last_round:
                        kept = end
                    if kept or last_round == 0:
                        break
                file.truncate(kept)
        self._bytes = kept
        return newest

    def _shrink(self) -> None:
        """The newest rounds keep a quarter of the bound, the others are summed up."""
        summaries: deque[bytes] = deque()
        size, position = 0, 0
        with self.path.open("rb") as file:
            while position < self._bytes - self.most_bytes // 4:
                line = file.readline()
                position += len(line)
                summaries.append(_shortened(line))
                size += len(summaries[-1])
                while size > self.most_bytes // 2:
                    size -= len(summaries.popleft())
            newest = file.read(self._bytes - position)
        write_whole(self.path, *summaries, newest)
        self._bytes = size + len(newest)


def _shortened(line: bytes) -> bytes:
    """A line of the history as a summary, which it may be already."""
    try:
        return _summary(RoundReport.model_validate_json(line))
    except ValidationError:
        return line


def _summary(report: RoundReport) -> bytes:
    summary = RoundSummary(
        round=report.round,
        planned=report.planned,
        seconds=report.seconds,
        elapsed_seconds=report.elapsed_seconds,
        updates=len(report.clients),
        missing=len(report.lost),
        refused=report.refused,
        accuracy=report.accuracy,
        loss=report.loss,
        energy_joules=report.energy_joules,
        taken_back=0 if report.mistrusted is None else len(report.mistrusted.taken_back),
        privacy=report.privacy,
    )
    return summary.to_json().encode() + b"\n"


def _from_the_end(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines from the last to the first, each with where it ends; reads a block at a time."""
    start, data = file.seek(0, os.SEEK_END), b""
    while start > 0:
        block = min(start, _BLOCK)
        start -= block
        file.seek(start)
        data = file.read(block) + data
        while (before := data.rfind(b"\n", 0, -1)) >= 0:
            yield start + len(data), data[before + 1 :]
            data = data[: before + 1]
    if data:
        yield len(data), data


def _round_of(line: bytes) -> int | None:
    """The round of a whole line of the history."""
    if not line.endswith(b"\n"):
        return None
    try:
        return _Numbered.model_validate_json(line).round
    except ValidationError:
        return None
