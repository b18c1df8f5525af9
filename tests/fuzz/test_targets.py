"""Every fuzz target, briefly: its own inputs, damaged, and any bytes; then some runs of Atheris."""

import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import ALL, TARGETS


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60, derandomize=True)
@given(data=st.data())
def test_only_documented_errors_come_out(name: str, data: st.DataObject) -> None:
    target, seeds = TARGETS[name]
    target(data.draw(st.sampled_from(seeds) | st.binary(max_size=300) | damaged(seeds)))


_NASTY = (b"9" * 30, b"-1", b"null", b"[" * 50, b"\xff", b"1e999")


def damaged(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """An input that is in order but for some bytes, or its length."""
    return st.builds(_damage, st.sampled_from(seeds), st.integers(0, 2**32), st.integers(1, 8))


def _damage(seed: bytes, entropy: int, count: int) -> bytes:
    rng = random.Random(entropy)
    data = bytearray(seed)
    for _ in range(count):
        place = rng.randrange(len(data) + 1)
        action = rng.randrange(4)
        if action == 0:
            data[place:place] = rng.randbytes(rng.randint(1, 4))
        elif action == 1:
            del data[place : place + rng.randint(1, 8)]
        elif action == 2:
            data[place : place + 1] = rng.randbytes(1)
        else:
            data[place:place] = rng.choice(
                [b"9" * 30, b"-1", b"null", b"[" * 50, b"\xff", b"1e999"]
            )
    return bytes(data)


def test_atheris_finds_nothing_in_some_thousand_runs() -> None:
    """Of all targets together: to begin takes longer than to run."""
    pytest.importorskip("atheris")
    command = [sys.executable, "-m", "tests.fuzz", "--child", ALL, "-runs=6000", "-seed=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
