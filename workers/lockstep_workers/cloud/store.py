"""The cloud pod's volume: model, history, outcome. A file appears whole or not at all."""

import os
from pathlib import Path

from lockstep_api.base import WireModel
from lockstep_api.wire import Outcome, RoundReport
from lockstep_workers.learning.parameters import FlatModel, shapes
from lockstep_workers.wire import header

MODEL_FILE = "model.safetensors"
HISTORY_FILE = "history.jsonl"
OUTCOME_FILE = "outcome.json"


class EndedJob(WireModel):
    """How the job with this UID ended."""

    uid: str
    """UID of the job: a volume that was used before does not end a new job."""
    outcome: Outcome
    """How it ended."""


def write_whole(path: Path, *pieces: bytes | memoryview) -> None:
    """Writes a file so that after a crash the old or the new one is there, never a part."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    with temporary.open("wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Store:
    """The files of one job."""

    def __init__(self, folder: Path, uid: str) -> None:
        """`folder` is made if missing."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._uid = uid

    def begin(self) -> None:
        """Forgets what an earlier, unfinished run of the job left."""
        (self._folder / HISTORY_FILE).unlink(missing_ok=True)

    def add(self, report: RoundReport) -> None:
        """Appends a round to the history."""
        with (self._folder / HISTORY_FILE).open("a", encoding="utf-8") as file:
            file.write(report.to_json() + "\n")

    def save_model(self, model: FlatModel) -> None:
        """Writes the model as safetensors with its parameters' names, straight from its vector."""
        values = model.vector.numpy().data.cast("B")
        write_whole(self._folder / MODEL_FILE, header(shapes(model)), values)

    def outcome(self) -> Outcome | None:
        """How the job ended, when it has."""
        path = self._folder / OUTCOME_FILE
        if not path.exists():
            return None
        ended = EndedJob.model_validate_json(path.read_text(encoding="utf-8"))
        return ended.outcome if ended.uid == self._uid else None

    def end(self, outcome: Outcome) -> None:
        """Writes down how the job ended."""
        ended = EndedJob(uid=self._uid, outcome=outcome)
        write_whole(self._folder / OUTCOME_FILE, ended.to_json().encode())
