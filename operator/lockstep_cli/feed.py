"""Several things that are followed at once, in one queue: threads put in, a command takes out.

`watch` and `logs` live from it. Invariant: what a thread cannot do ends in the queue, too, so that
the command hears of it; no thread outlives the program; a source that is faster than the command
waits for it.
"""

import queue
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from lockstep_cli.cluster import Cluster

_PATIENCE_S = 1.0
"""For a thread that waits before it tries again: it ends with the program."""

MOST = 512
"""Things that wait: more than two of each source, as closing makes room for them once."""


@dataclass(frozen=True, slots=True)
class Heard:
    """Something from one source."""

    source: str
    what: Any


@dataclass(frozen=True, slots=True)
class Ended:
    """A source has no more; `error` says why, if it did not end by itself."""

    source: str
    error: Exception | None = None


@dataclass(slots=True)
class Feed:
    """The queue."""

    cluster: Cluster
    items: "queue.Queue[Heard | Ended]" = field(default_factory=lambda: queue.Queue(MOST))
    threads: list[threading.Thread] = field(default_factory=list)
    closed: bool = False

    def add(self, source: str, things: Callable[[], Iterable[Any]]) -> None:
        """Follows one more source, in a thread of its own."""
        thread = threading.Thread(target=self._put, args=(source, things), daemon=True, name=source)
        self.threads.append(thread)
        thread.start()

    def next(self, timeout_s: float | None = None) -> Heard | Ended | None:
        """The next thing; None when there is none in time."""
        try:
            return self.items.get(timeout=timeout_s)
        except queue.Empty:
            return None

    @property
    def waiting(self) -> bool:
        """Whether there is a next thing already."""
        return not self.items.empty()

    def close(self) -> None:
        """Ends the threads: what they read from the cluster ends, too."""
        self.closed = True
        self.cluster.close()
        with suppress(queue.Empty):
            while True:
                self.items.get_nowait()  # whoever waited for room finds that all is closed
        for thread in self.threads:
            thread.join(_PATIENCE_S)

    def _put(self, source: str, things: Callable[[], Iterable[Any]]) -> None:
        try:
            for one in things():
                if self.closed:
                    return
                self.items.put(Heard(source, one))
        except Exception as error:  # noqa: BLE001 - whoever takes from the queue decides
            self.items.put(Ended(source, error))
        else:
            self.items.put(Ended(source))
