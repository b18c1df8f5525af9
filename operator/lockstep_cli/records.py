"""What a job wrote down of its rounds and clients, from its volume or from files.

Commands that draw or explain a job read it here. Invariant: a line that was cut off by a full
volume or is of no known form is passed over, never guessed; so is one that is longer than a cloud
pod writes them.
"""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from lockstep_api.records import (
    CLIENTS_FILE,
    HISTORY_FILE,
    MOST_HISTORY_BYTES,
    ClientsRecord,
    RoundRecord,
    RoundSummary,
)
from lockstep_cli.errors import CliError, NotFound
from lockstep_cli.transfers import showing
from lockstep_cli.volume import NotWritten, Volume

_MOST_LINE = MOST_HISTORY_BYTES // 4
Round = RoundRecord | RoundSummary


@dataclass(frozen=True, slots=True)
class Records:
    """All of it."""

    rounds: tuple[Round, ...] = ()
    """In the order of the file, where a round may stand twice: the later counts."""
    clients: ClientsRecord | None = None

    @property
    def newest(self) -> Round | None:
        """The round that finished last."""
        return self.rounds[-1] if self.rounds else None

    def round(self, number: int) -> Round | None:
        """A round as it came out in the end."""
        return next((one for one in reversed(self.rounds) if one.round == number), None)


def of_volume(volume: Volume) -> Records:
    """What a job's volume has; nothing before its first round.

    Raises:
        CliError: it cannot be read.
    """
    return Records(
        tuple(rounds_of(_lines(_read(volume, HISTORY_FILE)))),
        clients_of(_read(volume, CLIENTS_FILE)),
    )


def of_files(history: Path, clients: Path | None) -> Records:
    """What files have that `model --history` wrote, or a simulation.

    Raises:
        CliError: there is none, or nothing in it is a round.
    """
    rounds = tuple(rounds_of(_lines(read_file(history))))
    if not rounds:
        raise CliError(f"{history} has no round of a job: it should be a history.jsonl")
    return Records(rounds, clients_of(read_file(clients)) if clients else None)


def read_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        CliError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except OSError as error:
        raise CliError(f"{path} cannot be read: {error.strerror}") from error


def _read(volume: Volume, name: str) -> bytes:
    """A file's content; nothing where there is none."""
    try:
        with showing(name) as progress:
            return volume.read(name, progress=progress)
    except NotWritten:
        return b""


def _lines(content: bytes) -> Iterable[bytes]:
    return io.BytesIO(content)


def rounds_of(lines: Iterable[bytes]) -> Iterator[Round]:
    """The rounds of a history: newer ones as whole records, older ones as summaries."""
    for line in lines:
        if len(line) > _MOST_LINE:
            continue
        try:
            content = json.loads(line)
            kind = RoundRecord if "clients" in content else RoundSummary
            yield kind.model_validate(content)
        except (ValueError, TypeError, RecursionError):  # a ValidationError is a ValueError
            continue


def clients_of(content: bytes) -> ClientsRecord | None:
    """The clients of a file; None: it is empty, or of no known form."""
    try:
        return ClientsRecord.model_validate_json(content) if content else None
    except ValidationError:
        return None
