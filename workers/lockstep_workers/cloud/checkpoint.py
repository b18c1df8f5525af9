"""Checkpoints of a job's rounds: written whole or not at all, checked when read, the newest N kept.

Called by `cloud.store`. A checkpoint is one safetensors file: the server's vectors, and in its
metadata its numbers, its reach, the progress, the job's UID and a SHA-256 over all. No random state
is in it, because none lives from round to round: every draw is seeded by (seed, client, round).
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import FiniteFloat, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from lockstep_workers.errors import CorruptCheckpoint
from lockstep_workers.files import write_whole
from lockstep_workers.learning.rounds import Progress
from lockstep_workers.learning.strategy import ServerState
from lockstep_workers.tensors import Flat, header

FORMAT = "lockstep-checkpoint/1"
_MAX_METADATA_BYTES = 64 << 20  # the report of a round names every client
_NUMBERS = TypeAdapter(dict[str, FiniteFloat])
_NAME = re.compile(r"round-([0-9]{10})\.safetensors")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a job goes on from."""

    progress: Progress
    state: ServerState


def checkpoint_path(folder: Path, number: int) -> Path:
    """The file of the checkpoint after round `number`."""
    return folder / f"round-{number:010}.safetensors"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    names = (path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    return sorted(names, reverse=True)


def write_checkpoint(path: Path, checkpoint: Checkpoint, *, uid: str) -> int:
    """Writes a checkpoint so that after a crash it is there or not, never a part of it.

    Returns:
        Its size in bytes.

    Raises:
        OSError: the volume is full or broken; nothing was changed.
    """
    vectors = checkpoint.state.vectors
    told = {"format": FORMAT, "uid": uid, "progress": checkpoint.progress.to_json()}
    if checkpoint.state.numbers:
        told["numbers"] = json.dumps(dict(checkpoint.state.numbers), allow_nan=False)
    if checkpoint.state.reach:
        told["reach"] = json.dumps(dict(checkpoint.state.reach), allow_nan=False)
    metadata = told | {"sha256": _digest(told, vectors)}
    head = header({name: vector.shape for name, vector in vectors.items()}, metadata)
    write_whole(path, head, *(_bytes(vector) for vector in vectors.values()))
    return len(head) + sum(vector.nbytes for vector in vectors.values())


def read_checkpoint(path: Path, *, uid: str, like: ServerState) -> Checkpoint:
    """Reads and checks a checkpoint.

    Args:
        path: the file.
        uid: UID of the job that it must belong to.
        like: a state of the names and shapes that it must hold.

    Raises:
        CorruptCheckpoint: damaged, cut off, of another job or of another model.
    """
    try:
        allowed = sum(vector.nbytes for vector in like.vectors.values()) + _MAX_METADATA_BYTES
        if (size := path.stat().st_size) > allowed:
            raise CorruptCheckpoint(f"{path.name} has {size} bytes, at most {allowed} are expected")
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            _check_shapes(path, {name: file.get_slice(name) for name in names}, like=like.vectors)
            vectors = {name: file.get_tensor(name) for name in like.vectors}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CorruptCheckpoint(f"{path.name} cannot be read: {error}") from error
    _check(path, metadata, vectors=vectors, uid=uid)
    try:
        progress = Progress.model_validate_json(metadata.get("progress", ""))
        numbers, reach = (
            _NUMBERS.validate_json(metadata.get(name, "{}")) for name in ("numbers", "reach")
        )
    except ValidationError as error:
        raise CorruptCheckpoint(f"{path.name}: its progress cannot be read: {error}") from error
    if numbers.keys() != like.numbers.keys():
        found, expected = sorted(numbers), sorted(like.numbers)
        raise CorruptCheckpoint(f"{path.name} holds the numbers {found}, expected {expected}")
    return Checkpoint(progress, ServerState(vectors, numbers, reach))


def cut_of(path: Path, *, uid: str) -> str | None:
    """Where the job with this UID was cut, as the file says, whose sum is not looked at.

    None: it does not say, or is of another job.
    What the state holds depends on it (`learning.split_server`), so it is read first.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        if metadata.get("uid") != uid:
            return None
        progress = Progress.model_validate_json(metadata.get("progress", ""))
    except (SafetensorError, OSError, ValueError, TypeError):
        return None
    return None if progress.plan is None else progress.plan.cut


def _check_shapes(path: Path, slices: Mapping[str, object], *, like: Mapping[str, Flat]) -> None:
    """The header's names, dtypes and shapes, before anything of that size is allocated."""
    found = {name: (part.get_dtype(), list(part.get_shape())) for name, part in slices.items()}  # type: ignore[attr-defined]
    expected = {name: ("F32", list(vector.shape)) for name, vector in like.items()}
    if found != expected:
        raise CorruptCheckpoint(f"{path.name} holds {found}, expected {expected}")


def _check(
    path: Path, metadata: Mapping[str, str], *, vectors: Mapping[str, Flat], uid: str
) -> None:
    """Whether a checkpoint's format, owner and checksum are right."""
    if metadata.get("format") != FORMAT:
        raise CorruptCheckpoint(f"{path.name} is not in the format {FORMAT}")
    if metadata.get("sha256") != _digest(metadata, vectors):
        raise CorruptCheckpoint(f"{path.name} does not match its checksum")
    if metadata.get("uid") != uid:
        raise CorruptCheckpoint(f"{path.name} belongs to another job")


def _digest(metadata: Mapping[str, str], vectors: Mapping[str, Flat]) -> str:
    """Of all that is told but the digest itself; numbers and reach only where there are some."""
    digest = hashlib.sha256()
    told = [metadata.get(key, "") for key in ("format", "uid", "progress")]
    for text in [*told, *filter(None, [metadata.get("numbers"), metadata.get("reach")])]:
        digest.update(f"{len(text)}:{text}".encode())
    for name in sorted(vectors):
        digest.update(f"{name}:{vectors[name].size}".encode())
        digest.update(_bytes(vectors[name]))
    return digest.hexdigest()


def _bytes(vector: Flat) -> memoryview:
    return np.ascontiguousarray(vector, np.float32).data.cast("B")


def remove_old(folder: Path, *, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints, and what a crash left half written."""
    _remove(checkpoints(folder)[keep:])
    _remove(folder.glob("*.tmp"))


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
