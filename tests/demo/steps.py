"""Runs the steps of the demo, or before the tests, alone or beside each other, and times each.

Called by `__main__`, with the standard library only: it begins before anything is installed; and by
`tests.run`. Invariant: when a step fails or somebody interrupts them, no other step goes on.
"""

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

QUIET_S = 30.0
"""A step that says nothing for so long is said to go on."""


class StepFailed(Exception):
    """A step ended with an error, which it has told itself."""


@dataclass(frozen=True, slots=True)
class Step:
    """A command of the demo."""

    title: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Took:
    """How long a step ran."""

    title: str
    seconds: float
    beside: tuple[str, ...] = ()
    """Steps that ran at the same time."""


Lane = Sequence[Step]
"""Steps that run one after the other."""


def run_alone(step: Step) -> Took:
    """Runs a step that has the terminal for itself."""
    began = time.monotonic()
    code = subprocess.run(step.words, check=False).returncode
    if code != 0:
        raise StepFailed(f"{step.title} failed ({code}): {' '.join(step.words)}")
    return Took(step.title, time.monotonic() - began)


@dataclass(slots=True)
class Beside:
    """Lanes that run at the same time; each line that is printed names its step."""

    lanes: Sequence[Lane]
    quiet_s: float = QUIET_S
    children: "list[subprocess.Popen[str]]" = field(default_factory=list)
    said: "queue.Queue[tuple[Step, str] | Took | StepFailed]" = field(default_factory=queue.Queue)
    running: set[str] = field(default_factory=set)
    ended: bool = False
    beginning: threading.Lock = field(default_factory=threading.Lock)
    """Held while a child begins, so that the end of all misses none."""

    def run(self) -> list[Took]:
        """Runs all lanes to their end, or to the first failure."""
        threads = [
            threading.Thread(target=self._lane, args=(lane,), daemon=True) for lane in self.lanes
        ]
        with self._none_left():
            for thread in threads:
                thread.start()
            took = list(self._follow(sum(len(lane) for lane in self.lanes)))
        for thread in threads:
            thread.join()
        return took

    def _lane(self, lane: Lane) -> None:
        for step in lane:
            began = time.monotonic()
            self.running.add(step.title)
            code = self._step(step)
            self.running.discard(step.title)
            if code != 0:
                words = " ".join(step.words)
                self.said.put(StepFailed(f"{step.title} failed ({code}): {words}"))
                return
            self.said.put(Took(step.title, time.monotonic() - began, self._others(lane)))

    def _others(self, lane: Lane) -> tuple[str, ...]:
        return tuple(step.title for other in self.lanes if other is not lane for step in other)

    def _step(self, step: Step) -> int:
        with self._begin(step) as child:
            assert child.stdout is not None
            for line in child.stdout:
                self.said.put((step, line.rstrip()))
            return child.wait()

    def _begin(self, step: Step) -> "subprocess.Popen[str]":
        with self.beginning:
            if self.ended:
                raise SystemExit  # of this lane's thread
            child = subprocess.Popen(
                step.words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                process_group=0,
            )
            self.children.append(child)
            return child

    def _follow(self, steps: int) -> Iterator[Took]:
        while steps:
            match self._next():
                case Took() as took:
                    steps -= 1
                    print(f"[{took.title}] took {took.seconds:.0f} s", flush=True)
                    yield took
                case StepFailed() as failure:
                    raise failure
                case step, line:
                    print(f"[{step.title}] {line}", flush=True)

    def _next(self) -> tuple[Step, str] | Took | StepFailed:
        waited = 0.0
        while True:
            try:
                return self.said.get(timeout=self.quiet_s)
            except queue.Empty:
                waited += self.quiet_s
                names = ", ".join(sorted(self.running))
                print(f"… {waited:.0f} s without news, still at it: {names}", flush=True)

    @contextmanager
    def _none_left(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with self.beginning:
                self.ended = True
                for child in self.children:
                    if child.poll() is None:
                        os.killpg(child.pid, signal.SIGTERM)
            raise


def table(took: Sequence[Took], *, seconds: float) -> str:
    """How long each step ran, those side by side marked, and all of it."""
    width = max((len(each.title) for each in took), default=0)
    lines = [f"  {each.title:<{width}} {each.seconds:8.1f} s{_beside(each)}" for each in took]
    return "\n".join(["where the time went:", *lines, f"  {'in all':<{width}} {seconds:8.1f} s"])


def _beside(took: Took) -> str:
    return f"   beside {', '.join(took.beside)}" if took.beside else ""
