"""The workers' program with a wall clock of its own, which a file sets: libfaketime, Debian's.

    python -m tests.support.clocked cloud|edge|device

Monotonic clocks, and with them all waits, are the machine's. The first that asks installs the
library where the machine lacks it, by apt-get where that can be done here.
"""

import os
import sys
from pathlib import Path

from tests.support.debian import ensure

_LIBRARY = "faketime/libfaketimeMT.so.1"


def library() -> Path:
    """libfaketime.

    Raises:
        RuntimeError: it is not there and cannot be installed here; says what to install.
    """
    ensure(lambda: [] if _found() else ["libfaketime"], why="clocks that jump are tested with it")
    return _found()[0]


def _found() -> list[Path]:
    return sorted(Path("/usr/lib").glob(f"*/{_LIBRARY}"))


def set_clock(folder: Path, name: str, *, ahead_s: int = 0) -> None:
    """Sets the wall clock of a job's pod, running or to come: so far ahead of the machine's."""
    new = folder / f"{name}.clock.new"
    new.write_text(f"{ahead_s:+d}\n")
    new.replace(folder / f"{name}.clock")


def main() -> None:
    """Becomes the worker; its clock is that of its pod, or of the cloud pod."""
    folder = Path(os.environ["LOCKSTEP_SETTINGS"]).parent
    name = os.environ.get("LOCKSTEP_POD", "cloud").partition("-device-")
    clock = folder / f"{name[2] or 'cloud'}.clock"
    env = {
        **os.environ,
        "LD_PRELOAD": str(library()),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    os.execve(sys.executable, [sys.executable, "-m", "lockstep_workers", *sys.argv[1:]], env)


if __name__ == "__main__":
    main()
