"""Owns how the builder runs other programs, and its one error. Called by all of its modules."""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

_STEP = re.compile(r"^(?:(?:\[\d+/\d+\] )?STEP [\d/]+:|#\d+ \[.+\]) ((?:RUN|COPY) .*)")


class ImageError(Exception):
    """Something that the person at the keyboard can mend; the message says how."""


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lockstep"


def answers(command: Sequence[str]) -> bool:
    """Whether a command exists and succeeds, within five seconds."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def build_step(line: str) -> str | None:
    """The step that a line of an engine's output begins, if it is one that takes time."""
    step = _STEP.match(line)
    return None if step is None else " ".join(step[1].split())[:100]


def run(command: Sequence[str], *, log: Path, env: dict[str, str] | None = None) -> None:
    """Run a command with all output in a log; its build steps are shown as they begin."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("a") as file,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **(env or {})},
        ) as child,
    ):
        assert child.stdout is not None
        for line in child.stdout:
            file.write(line)
            file.flush()
            if step := build_step(line):
                print(f"  {step}", flush=True)
        code = child.wait()
    if code != 0:
        tail = "\n  ".join(log.read_text(errors="replace").splitlines()[-20:])
        raise ImageError(f"{command[0]} failed with code {code}; {log} ends with:\n  {tail}")


def output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ImageError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()
