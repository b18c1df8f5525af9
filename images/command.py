"""Owns how the builder runs other programs, and its one error. Called by all of its modules."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
            process_group=0,
        ) as child,
        _ended_with_us(child),
    ):
        assert child.stdout is not None
        for line in child.stdout:
            file.write(line)
            file.flush()
            if step := build_step(line):
                print(f"  {step}", flush=True)
        code = child.wait()
    if code != 0:
        raise _failed(command, code, log)


@contextmanager
def _ended_with_us(child: "subprocess.Popen[str]") -> Iterator[None]:
    """An interrupted builder takes the program and all that it started along."""
    try:
        yield
    except BaseException:
        os.killpg(child.pid, signal.SIGTERM)
        raise


def output(command: Sequence[str], *, env: dict[str, str] | None = None) -> str:
    """What a command prints, within 20 seconds; its failure is the last line that it said."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, **(env or {})},
            timeout=20,
            check=False,
        )
    except FileNotFoundError:
        raise ImageError("not installed") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"does not answer: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ImageError(said[0] if said else f"{' '.join(command)} fails ({done.returncode})")
    return done.stdout


def unpack(command: Sequence[str], folder: Path, *, log: Path) -> None:
    """Run a command that prints a tar archive, and unpack it as it comes."""
    log.parent.mkdir(parents=True, exist_ok=True)
    # The program tar: tarfile has its safe filter in no Python before 3.11.4, Debian 12's neither.
    with (
        log.open("a") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file) as archive,
        subprocess.Popen(
            ["tar", "--extract", "--directory", str(folder)], stdin=archive.stdout, stderr=file
        ) as tar,
    ):
        assert archive.stdout is not None
        archive.stdout.close()  # tar alone reads: when it ends, the command ends, too
        codes = (archive.wait(), tar.wait())
    if codes != (0, 0):
        raise _failed(command, codes[0] or codes[1], log)


def _failed(command: Sequence[str], code: int, log: Path) -> ImageError:
    tail = "\n  ".join(log.read_text(errors="replace").splitlines()[-20:])
    return ImageError(f"{command[0]} failed with code {code}; {log} ends with:\n  {tail}")
