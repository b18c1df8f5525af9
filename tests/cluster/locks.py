"""Locks between processes: one at a time, and one that waits says for whom.

The files stay: removing them would be a race.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.layout import cache_folder


@contextmanager
def locked(name: str, doing: str) -> Iterator[None]:
    """Do something that only one process may do at a time."""
    folder = cache_folder() / "lock"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            print(f"waiting for another process ({holder}) {doing}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"pid {os.getpid()}")
        file.flush()
        yield
