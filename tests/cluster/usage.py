"""What the processes of a container use, as the machine that they run on sees it.

`faults` finds them, `tests.soak` asks. A process that ends while it is looked at counts as nothing.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_HELD = re.compile(r"^(?:RssAnon|RssShmem):\s+(\d+) kB$", re.MULTILINE)
_THREADS = re.compile(r"^Threads:\s+(\d+)$", re.MULTILINE)
_VOLUME = "var/lib/lockstep"
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all processes of a container together."""

    memory_bytes: int = 0
    """What they hold beside files: programs and what is mapped of disks can be read again."""
    descriptors: int = 0
    threads: int = 0
    tmp_files: int = 0
    tmp_bytes: int = 0
    volume_bytes: int = 0
    """Of a cloud pod's files; 0 elsewhere."""


def usage_of(pids: Iterable[int], *, proc: Path = PROC) -> Usage:
    """What these processes, all of one container, use now."""
    folders = [folder for pid in pids if (folder := proc / str(pid)).is_dir()]
    texts = [_text(folder / "status") for folder in folders]
    tmp, volume = _sizes(folders, "tmp"), _sizes(folders, _VOLUME)
    return Usage(
        memory_bytes=sum(1024 * int(kib) for text in texts for kib in _HELD.findall(text)),
        descriptors=sum(_entries(folder / "fd") for folder in folders),
        threads=sum(int(count) for text in texts for count in _THREADS.findall(text)),
        tmp_files=len(tmp),
        tmp_bytes=sum(tmp),
        volume_bytes=sum(volume),
    )


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _entries(folder: Path) -> int:
    try:
        return len(os.listdir(folder))
    except OSError:
        return 0


def _sizes(folders: list[Path], below: str) -> list[int]:
    """The sizes of all files of a folder of the container, which any of its processes shows."""
    return list(_files(folders[0] / "root" / below)) if folders else []


def _files(folder: Path) -> Iterator[int]:
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                yield (Path(path) / name).lstat().st_size
