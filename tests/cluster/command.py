"""Runs other programs to their end; every module here that calls one does it through `run`.

A failure becomes one `ClusterError` line: the program, and the last line of what it said.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Sequence  # noqa: UP035 -- as Python 3.8 has it, by which `preflight` may run

from tests.cluster.errors import ClusterError


def run(
    *words: str | Path, stdin: str | None = None, timeout_s: float = 120, check: bool = True
) -> str:
    """Run a program and return what it printed; without `check`, failure is no error."""
    command = [str(word) for word in words]
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except FileNotFoundError as error:
        raise ClusterError(
            f"{command[0]} is not installed: run `python -m tests.cluster deps`"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{_title(command)} did not end within {timeout_s:g} s") from error
    if check and done.returncode != 0:
        raise ClusterError(f"{_title(command)} failed: {last_line(done.stderr or done.stdout)}")
    return done.stdout


def _title(command: Sequence[str]) -> str:
    return " ".join(command[:6])


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]
