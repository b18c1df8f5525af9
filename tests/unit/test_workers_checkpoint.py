"""Checkpoints: whole or not at all, checked when read; a corrupt one is passed over."""

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from lockstep_api.wire import RoundReport
from lockstep_workers.cloud.checkpoint import (
    Checkpoint,
    checkpoint_path,
    checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from lockstep_workers.cloud.store import CHECKPOINT_FOLDER, Store
from lockstep_workers.errors import CorruptCheckpoint
from lockstep_workers.learning.strategy import ServerState
from lockstep_workers.tensors import Flat
from tests.support.checkpoints import LIKE, checkpoint, record


def model_of(found: Checkpoint | None) -> Flat:
    """The model of a checkpoint that must be there."""
    assert found is not None
    return found.state.vectors["model"]


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    size = write_checkpoint(path, checkpoint(3), uid="u")
    assert size == path.stat().st_size
    found = read_checkpoint(path, uid="u", like=LIKE)
    assert found.progress == checkpoint(3).progress
    for name in LIKE.vectors:
        np.testing.assert_array_equal(found.state.vectors[name], np.full(5, 3, np.float32))
    assert found.state.numbers == {"seen": 1.0}
    assert load_file(path)["model"].tolist() == [3.0] * 5, "any tool reads it"


@pytest.mark.parametrize("where", [0, 9, 200, -40, -1])
def test_a_changed_byte_is_noticed(tmp_path: Path, where: int) -> None:
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, checkpoint(3), uid="u")
    data = bytearray(path.read_bytes())
    data[where] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(CorruptCheckpoint, match=r"c\.safetensors"):
        read_checkpoint(path, uid="u", like=LIKE)


def test_a_number_is_kept_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    whole = checkpoint(3)
    third = replace(whole, state=replace(whole.state, numbers={"seen": 1 / 3}))
    write_checkpoint(path, third, uid="u")
    assert read_checkpoint(path, uid="u", like=LIKE).state.numbers == {"seen": 1 / 3}


def test_a_changed_number_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, checkpoint(3), uid="u")
    data = path.read_bytes()
    told = rb"{\"seen\": 1.0}"
    assert data.count(told) == 1
    path.write_bytes(data.replace(told, rb"{\"seen\": 2.0}"))
    with pytest.raises(CorruptCheckpoint, match="checksum"):
        read_checkpoint(path, uid="u", like=LIKE)


def test_a_state_without_numbers_is_read_from_a_file_that_names_none(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    plain = replace(LIKE, numbers={})
    write_checkpoint(path, replace(checkpoint(3), state=plain), uid="u")
    assert b"numbers" not in path.read_bytes()
    assert read_checkpoint(path, uid="u", like=plain).state.numbers == {}


@pytest.mark.parametrize("left", [0, 7, 100, -1])
def test_a_part_is_no_checkpoint(tmp_path: Path, left: int) -> None:
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, checkpoint(3), uid="u")
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(CorruptCheckpoint):
        read_checkpoint(path, uid="u", like=LIKE)


@pytest.mark.parametrize("numbers", [{"seen": "many"}, {"seen": None}, {"seen": [1.0]}])
def test_numbers_that_are_none_are_no_state(tmp_path: Path, numbers: dict[str, Any]) -> None:
    path = tmp_path / "c.safetensors"
    wrong = replace(LIKE, numbers=numbers)
    write_checkpoint(path, replace(checkpoint(3), state=wrong), uid="u")
    with pytest.raises(CorruptCheckpoint, match="its progress cannot be read"):
        read_checkpoint(path, uid="u", like=LIKE)


def test_another_job_or_model_is_not_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, checkpoint(3), uid="u")
    with pytest.raises(CorruptCheckpoint, match="another job"):
        read_checkpoint(path, uid="v", like=LIKE)
    with pytest.raises(CorruptCheckpoint, match=r"expected \{'model': \('F32', \[6\]\)\}"):
        read_checkpoint(path, uid="u", like=ServerState({"model": np.zeros(6, np.float32)}))
    with pytest.raises(CorruptCheckpoint, match=r"numbers \['seen'\], expected \['since'\]"):
        read_checkpoint(path, uid="u", like=replace(LIKE, numbers={"since": 0.0}))


def test_vectors_of_a_state_have_lengths_of_their_own(tmp_path: Path) -> None:
    """Such as the model and the cloud's half of a split job."""
    path = tmp_path / "c.safetensors"
    state = ServerState(
        {"model": np.arange(7, dtype=np.float32), "cloud": np.arange(3, dtype=np.float32)}
    )
    write_checkpoint(path, replace(checkpoint(3), state=state), uid="u")
    like = ServerState({name: np.zeros_like(vector) for name, vector in state.vectors.items()})
    found = read_checkpoint(path, uid="u", like=like).state.vectors
    for name, vector in state.vectors.items():
        np.testing.assert_array_equal(found[name], vector)
    wrong = ServerState({**like.vectors, "cloud": np.zeros(4, np.float32)})
    with pytest.raises(CorruptCheckpoint, match=r"'cloud': \('F32', \[4\]\)"):
        read_checkpoint(path, uid="u", like=wrong)


def cut_checkpoint(number: int, cut: str | None) -> Checkpoint:
    whole = checkpoint(number)
    assert whole.progress.plan is not None
    plan = whole.progress.plan.model_copy(update={"cut": cut})
    return replace(whole, progress=whole.progress.model_copy(update={"plan": plan}))


def test_where_a_model_was_cut_is_known_before_its_checkpoint_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path, "u", keep=3)
    assert store.cut() is None
    store.save(cut_checkpoint(1, "3"))
    store.save(cut_checkpoint(2, "3"))
    newest = checkpoint_path(tmp_path / CHECKPOINT_FOLDER, 2)
    newest.write_bytes(newest.read_bytes()[:100])
    assert store.cut() == "3", "the newest one that says it"


def test_where_another_job_was_cut_that_used_the_volume_is_no_matter(tmp_path: Path) -> None:
    Store(tmp_path, "u").save(cut_checkpoint(1, "3"))
    assert Store(tmp_path, "v").cut() is None


def test_a_job_that_is_not_cut_says_no_layer(tmp_path: Path) -> None:
    store = Store(tmp_path, "u")
    store.save(checkpoint(1))
    assert store.cut() is None


def test_a_file_that_is_far_too_large_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CorruptCheckpoint, match="at most"):
        read_checkpoint(path, uid="u", like=LIKE)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path, "u", keep=2)
    for number in (1, 2, 9, 10):
        store.save(checkpoint(number))
    left = checkpoints(tmp_path / CHECKPOINT_FOLDER)
    assert [path.name for path in left] == [
        "round-0000000010.safetensors",
        "round-0000000009.safetensors",
    ]
    assert model_of(store.resume(LIKE).checkpoint)[0] == 10


def test_a_corrupt_one_falls_back_to_the_one_before(tmp_path: Path) -> None:
    store = Store(tmp_path, "u", keep=3)
    for number in (1, 2, 3):
        store.add(record(number))
        store.save(checkpoint(number))
    newest = checkpoint_path(tmp_path / CHECKPOINT_FOLDER, 3)
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    found = store.resume(LIKE)
    assert model_of(found.checkpoint)[0] == 2
    assert found.corrupt == ("round-0000000003.safetensors does not match its checksum",)
    assert found.finished == 3


def test_with_none_the_job_starts_at_round_1(tmp_path: Path) -> None:
    store = Store(tmp_path, "u")
    store.add(record(1))
    found = store.resume(LIKE)
    assert (found.checkpoint, found.corrupt, found.finished) == (None, (), 1)
    assert (tmp_path / "history.jsonl").read_bytes() == b""


def test_the_history_holds_each_round_once(tmp_path: Path) -> None:
    store = Store(tmp_path, "u")
    for number in (1, 2):
        store.add(record(number))
    store.save(checkpoint(2))
    store.add(record(3))
    with (tmp_path / "history.jsonl").open("ab") as file:
        file.write(b'{"round":4,"pla')
    again = Store(tmp_path, "u")
    assert again.resume(LIKE).finished == 3
    again.add(record(3))
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [RoundReport.model_validate_json(line).round for line in lines] == [1, 2, 3]


def test_a_full_volume_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, "u")
    store.save(checkpoint(1))

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lockstep_workers.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.save(checkpoint(2))
    assert [path.name for path in (tmp_path / CHECKPOINT_FOLDER).iterdir()] == [
        "round-0000000001.safetensors"
    ]
    assert model_of(store.resume(LIKE).checkpoint)[0] == 1
