"""Runners that play on a cluster take away what they have made, however they are ended."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENDED_WHILE_INSTALLED = """
import contextlib, importlib, signal, sys

module, number = importlib.import_module(sys.argv[1]), int(sys.argv[2])

@contextlib.contextmanager
def installed(namespace):
    try:
        signal.raise_signal(number)
        yield namespace
    finally:
        print(f"{namespace} is taken away")

module.installed, sys.argv = installed, sys.argv[:1]
sys.exit(module.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("runner", ["chaos", "soak", "long_faults"])
def test_a_runner_that_is_ended_takes_away_what_it_has_made(runner: str, number: int) -> None:
    argv = [sys.executable, "-c", ENDED_WHILE_INSTALLED, f"tests.{runner}", str(int(number))]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.endswith(" is taken away\n"), done.stderr
    assert done.returncode == -signal.SIGINT
