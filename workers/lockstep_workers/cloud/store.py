"""The cloud pod's volume: checkpoints, history, clients, ledger, the final model, the outcome.

Owned by the journal, but for the ledger, which the account has.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from lockstep_api.base import WireModel
from lockstep_api.records import (
    CLIENTS_FILE,
    HISTORY_FILE,
    MODEL_FILE,
    ClientsRecord,
    RoundRecord,
)
from lockstep_api.wire import Outcome
from lockstep_workers.cloud.checkpoint import (
    Checkpoint,
    checkpoint_path,
    checkpoints,
    cut_of,
    read_checkpoint,
    remove_old,
    write_checkpoint,
)
from lockstep_workers.cloud.history import History, most_bytes
from lockstep_workers.errors import CorruptCheckpoint
from lockstep_workers.files import write_whole
from lockstep_workers.learning.ledger import Ledger
from lockstep_workers.learning.parameters import FlatModel
from lockstep_workers.learning.saving import model_file
from lockstep_workers.learning.strategy import ServerState

OUTCOME_FILE = "outcome.json"
LEDGER_FILE = "privacy.json"
CHECKPOINT_FOLDER = "checkpoints"


class EndedJob(WireModel):
    """How the job with this UID ended."""

    uid: str
    """UID of the job: a volume that was used before does not end a new job."""
    outcome: Outcome
    """How it ended."""


class OwnLedger(WireModel):
    """The ledger of the job with this UID."""

    uid: str
    """UID of the job."""
    ledger: Ledger
    """What its clients have shown."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a restarted cloud pod finds on its volume."""

    checkpoint: Checkpoint | None
    """The newest one that can be read; None: the job starts at round 1."""
    corrupt: tuple[str, ...]
    """What was wrong with newer ones."""
    finished: int
    """Rounds that had finished; those after the checkpoint are done again."""
    written: float = 0.0
    """When the checkpoint was written, in seconds since the epoch."""


class Store:
    """The files of one job."""

    def __init__(self, folder: Path, uid: str, *, keep: int = 2) -> None:
        """Makes `folder` if missing; `keep` checkpoints stay."""
        self._checkpoints = folder / CHECKPOINT_FOLDER
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        self._folder, self._uid, self._keep = folder, uid, keep
        self._constants = folder / f"constants-{uid}.safetensors"
        self._history = History(folder / HISTORY_FILE, most_bytes(folder))

    # -- checkpoints -----------------------------------------------------------------------------

    def resume(self, like: ServerState) -> Found:
        """The newest readable checkpoint, whose state must be `like` this; cuts the history."""
        corrupt: list[str] = []
        checkpoint: Checkpoint | None = None
        written = 0.0
        for path in checkpoints(self._checkpoints):
            try:
                checkpoint = read_checkpoint(path, uid=self._uid, like=like)
                written = path.stat().st_mtime
                break
            except CorruptCheckpoint as error:
                corrupt.append(str(error))
        finished = self._history.cut(checkpoint.progress.round if checkpoint else 0)
        return Found(checkpoint, tuple(corrupt), finished, written)

    def cut(self) -> str | None:
        """Where the job's model was cut, as the newest checkpoint says that says it."""
        cuts = (cut_of(path, uid=self._uid) for path in checkpoints(self._checkpoints))
        return next(filter(None, cuts), None)

    def save(self, checkpoint: Checkpoint) -> int:
        """Writes a checkpoint and removes old ones; returns its bytes.

        Raises:
            OSError: the volume is full or broken; the checkpoints before are untouched.
        """
        path = checkpoint_path(self._checkpoints, checkpoint.progress.round)
        written = write_checkpoint(path, checkpoint, uid=self._uid)
        remove_old(self._checkpoints, keep=self._keep)
        return written

    def add(self, record: RoundRecord) -> None:
        """Appends a round to the history.

        Raises:
            OSError: the volume is full; a part of a line that was written is cut off next time.
        """
        self._history.add(record)

    # -- clients ---------------------------------------------------------------------------------

    def clients(self) -> ClientsRecord:
        """The clients that the job had in its lives before, as far as that can be read."""
        try:
            return ClientsRecord.model_validate_json((self._folder / CLIENTS_FILE).read_bytes())
        except (OSError, ValidationError):
            return ClientsRecord(clients=[])

    def save_clients(self, clients: ClientsRecord) -> None:
        """Writes them down; without their labels, where these take as much as a large round.

        Raises:
            OSError: the volume is full or broken.
        """
        told = clients.to_json().encode()
        if len(told) > self._history.most_bytes // 4:
            told = clients.without_labels().to_json().encode()
        write_whole(self._folder / CLIENTS_FILE, told)

    # -- privacy ---------------------------------------------------------------------------------

    def ledger(self) -> Ledger:
        """What the job's clients have shown in its lives before, as far as that can be read."""
        try:
            own = OwnLedger.model_validate_json((self._folder / LEDGER_FILE).read_bytes())
        except (OSError, ValidationError):
            return Ledger()
        return own.ledger if own.uid == self._uid else Ledger()

    def save_ledger(self, ledger: Ledger) -> None:
        """Writes it down.

        Raises:
            OSError: the volume is full or broken; the ledger before is untouched.
        """
        own = OwnLedger(uid=self._uid, ledger=ledger)
        write_whole(self._folder / LEDGER_FILE, own.to_json().encode())

    # -- constants -------------------------------------------------------------------------------

    def first_constants(self) -> bytes | None:
        """The constants that the model was built with in the job's first life, if it had any."""
        try:
            return self._constants.read_bytes()
        except FileNotFoundError:
            return None

    def save_constants(self, packed: bytes) -> None:
        """Writes them down for the lives to come.

        Raises:
            OSError: the volume is full or broken.
        """
        write_whole(self._constants, packed)

    # -- the end ---------------------------------------------------------------------------------

    def save_model(self, model: FlatModel, name: str = MODEL_FILE) -> None:
        """Writes the model's state_dict as safetensors, straight from its tensors.

        On a volume without room for it the older checkpoints go first.

        Raises:
            OSError: there is still no room.
        """
        file, path = model_file(model.module), self._folder / name
        try:
            write_whole(path, file.head, *file.values)
        except OSError:
            remove_old(self._checkpoints, keep=1)
            write_whole(path, file.head, *file.values)

    def outcome(self) -> Outcome | None:
        """How the job ended, when it has."""
        path = self._folder / OUTCOME_FILE
        try:
            ended = EndedJob.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return ended.outcome if ended.uid == self._uid else None

    def end(self, outcome: Outcome) -> None:
        """Writes down how the job ended.

        Raises:
            OSError: the volume is full or broken.
        """
        ended = EndedJob(uid=self._uid, outcome=outcome)
        write_whole(self._folder / OUTCOME_FILE, ended.to_json().encode())
