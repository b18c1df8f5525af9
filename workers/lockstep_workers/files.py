"""Writes a file so that it appears whole or not at all: checkpoints, a device's memory."""

import os
from pathlib import Path


def write_whole(path: Path, *pieces: bytes | memoryview) -> None:
    """Writes a file so that after a crash the old or the new one is there, never a part.

    Raises:
        OSError: the volume is full or broken; the old file is untouched and no part is left.
    """
    temporary = path.with_suffix(path.suffix + ".tmp")
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
