"""Every fuzz target, briefly: its own inputs, damaged, and any bytes; then some runs of Atheris."""

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import MEASURED, counting
from tests.fuzz.large import LARGE
from tests.fuzz.mutating import mutator, with_another_value
from tests.fuzz.shaping import framed, unframed
from tests.fuzz.stages import Target, told
from tests.fuzz.targets import ALL, NAMES, found_before, target_of
from tests.support.patience import PATIENCE_S


@pytest.mark.parametrize("name", NAMES)
def test_a_target_takes_its_own_inputs_and_refuses_those_that_broke_it(name: str) -> None:
    target = target_of(name)
    assert any(target.stage_of(seed).startswith(("taken", "PUT 200")) for seed in target.seeds)
    for once in found_before(name):
        assert target.measured(once).startswith(("refused", "nothing", "as it is"))


@pytest.mark.parametrize("name", LARGE)
def test_a_large_file_takes_memory_in_proportion(name: str) -> None:
    large = LARGE[name]
    target = target_of(large.target)
    _read_once(target)
    stage = target.measured(b"\0" + large.make())
    assert stage == "taken" if large.is_taken else stage.startswith("refused")


def _read_once(target: Target) -> None:
    """So that what is made at the first input is there."""
    for seed in target.seeds:
        target.stage_of(seed)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, derandomize=True)
@given(data=st.data())
def test_only_documented_errors_come_out(name: str, data: st.DataObject) -> None:
    target = target_of(name)
    mine = list(target.seeds)
    _read_once(target)
    target.measured(data.draw(st.sampled_from(mine) | st.binary(max_size=300) | damaged(mine)))


@pytest.mark.parametrize("name", NAMES)
def test_only_documented_errors_come_out_where_values_are_others(name: str) -> None:
    target, rng = target_of(name), random.Random(name)
    _read_once(target)
    for _ in range(60):
        data = rng.choice(target.seeds)
        for _ in range(rng.randint(1, 3)):
            data = with_another_value(data, rng)
        target.measured(data)


def test_a_value_is_changed_and_all_around_it_stays() -> None:
    rng, data = random.Random(0), b'\1{"a": 1, "b": [2, {"c": "\xc3\xa4"}]}\0{x{"d": 3}\xff'
    made = {with_another_value(data, rng) for _ in range(300)}
    assert len(made) > 100
    assert all(one.startswith(b"\1{") and one.endswith(b"}\xff") for one in made)
    assert all(b"\0{x{" in one for one in made)
    assert any(b'{"d"' in one for one in made)
    assert with_another_value(b"no document", rng) == b"no document"


def test_in_a_text_without_documents_a_figure_is_changed_or_a_line_moved() -> None:
    rng, data = random.Random(0), b"t,mbps\n0,1\n1,2.5e0\n\xff"
    made = {with_another_value(data, rng) for _ in range(300)}
    assert b"t,mbps\n0,1\n1,nan\n\xff" in made
    assert b"t,mbps\n1,2.5e0\n0,1\n\xff" in made
    assert b"t,mbps\n0,1\n\xff" in made


def test_a_change_is_no_longer_than_it_may_be() -> None:
    change = mutator(lambda data, most: data[:1] + b"blind", [b'{"s": 1}'])
    data = b'{"a": 1}'
    made = {change(data, 12, seed) for seed in range(300)}
    assert b"{blind" in made
    assert any(b'"a"' in one for one in made)
    assert any(b'"s"' in one for one in made)
    assert max(map(len, made)) <= 12


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


def test_what_is_framed_is_a_file_as_it_was() -> None:
    file = b"\x04\0\0\0\0\0\0\0{} \n\0\1\2"
    assert framed(unframed(file)) == b"\x02\0\0\0\0\0\0\0{}\0\1\2"


def test_inputs_are_counted_by_how_far_they_come(tmp_path: Path) -> None:
    def small(data: bytes) -> str | None:
        return None if int(data) > 9 else "small"

    read = counting(Target(small, (), (ValueError,)), tmp_path / "counts")
    for number in range(2000):
        read(b"x" if number % 2 else str(number).encode())
    counts = Counter(json.loads((tmp_path / "counts").read_text()))
    assert counts == {"refused: small": 1000, "small": 5, "taken": 995}
    assert told(counts).splitlines()[-1].split() == ["5", "0.25%", "small"]


def test_an_input_that_takes_more_memory_than_its_size_allows_is_kept(tmp_path: Path) -> None:
    def expanding(data: bytes) -> str:
        return f"of {len(data * 2_000_000)}"

    target = Target(expanding, (b"",), (ValueError,))
    read = counting(target, tmp_path / "counts")
    for _ in range(MEASURED - 1):
        read(b"")
    with pytest.raises(AssertionError, match="2 bytes take 4"):
        read(b"ab")
    assert (tmp_path / "counts.broken").read_bytes() == b"ab"


def test_an_error_that_is_not_documented_comes_out_and_its_input_is_kept(tmp_path: Path) -> None:
    read = counting(Target(lambda data: str(1 // data[0]), (), (ValueError,)), tmp_path / "counts")
    with pytest.raises(ZeroDivisionError):
        read(b"\0ab")
    assert (tmp_path / "counts.broken").read_bytes() == b"\0ab"


def test_atheris_finds_nothing_in_some_thousand_runs() -> None:
    """Of all targets together: to begin takes longer than to run."""
    pytest.importorskip("atheris")
    words = ["-runs=6000", "-seed=1", f"-timeout={PATIENCE_S:.0f}"]
    command = [sys.executable, "-m", "tests.fuzz", "--child", ALL, *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=2 * PATIENCE_S
    )
    assert done.returncode == 0, done.stderr[-3000:]
