"""Owns that one build runs at a time, and that one whose starter has gone does not go on.

Called by `cli` and at the start. Who must wait is told once for whom. Invariant: the note in the
lock's file is of who holds the lock; one that could not be read names nobody.
"""

import ctypes
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Holder:
    pid: int
    command: str
    began: float
    """Seconds since 1970."""
    starter: int
    """Its parent's process, as it was at its start."""

    @property
    def is_orphan(self) -> bool:
        """Whether what started it has ended."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return False
        return int(stat.rpartition(")")[2].split()[1]) != self.starter


@contextmanager
def alone(cache: Path) -> Iterator[None]:
    """One builder at a time: a second one says whom it waits for, then finds nothing to do."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "images.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            told = waiting(_holder(file.read()), now=time.time(), logs=cache / "logs")
            print(told, file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        holder = Holder(os.getpid(), " ".join(sys.argv), time.time(), os.getppid())
        file.write(json.dumps(asdict(holder)))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _holder(note: str) -> Holder | None:
    try:
        return Holder(**json.loads(note))
    except (TypeError, ValueError):
        return None


def waiting(holder: Holder | None, *, now: float, logs: Path) -> str:
    if holder is None:
        return f"images: waiting for another build; its logs are in {logs}"
    since = time.strftime("%H:%M:%S", time.localtime(holder.began))
    orphan = f"; what started it has ended: kill {holder.pid} ends it" if holder.is_orphan else ""
    return (
        f"images: waiting for the build of process {holder.pid} ({holder.command}), which runs "
        f"since {since} ({now - holder.began:.0f} s); its logs are in {logs}{orphan}"
    )


def end_with_starter() -> None:
    """A build that make began ends with make, also when nobody else tells it to."""
    signal.signal(signal.SIGTERM, _end)
    if "MAKELEVEL" in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(signum: int, _: object) -> None:
    signal.signal(signum, signal.SIG_IGN)  # a starter with threads is said to end once for each
    raise SystemExit(128 + signum)
