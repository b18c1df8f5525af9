"""The file of a device's memory: whole or not at all, nobody else's, none for who needs none."""

from pathlib import Path

import pytest
import torch

from lockstep_workers.device.memory import MemoryFile
from lockstep_workers.learning.memory import Memories
from lockstep_workers.learning.strategy import ClientMemory


def file(folder: Path, **other: object) -> MemoryFile:
    """The file of client d-0, whose strategy remembers two vectors of 3 values."""
    made = {"folder": folder, "uid": "u1", "client": "d-0", "names": ("c", "e"), "n_values": 3}
    return MemoryFile(**made | other)  # type: ignore[arg-type]


def memory(value: float) -> ClientMemory:
    """Two vectors and two numbers."""
    vectors = {"c": torch.full((3,), value), "e": torch.full((3,), -value)}
    return ClientMemory(vectors, {"steps": value, "third": 1 / 3})


BOTH = Memories({4: memory(4.0), 7: memory(7.0)})


def same(one: Memories, other: Memories) -> bool:
    """Bit for bit."""
    return one.versions.keys() == other.versions.keys() and all(
        a.numbers == b.numbers
        and a.vectors.keys() == b.vectors.keys()
        and all(torch.equal(a.vectors[name], b.vectors[name]) for name in a.vectors)
        for a, b in ((one.versions[n], other.versions[n]) for n in one.versions)
    )


def test_what_is_written_is_what_a_new_process_reads(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    file(folder).write(BOTH)
    assert same(file(folder).read(), BOTH)
    newer = Memories({7: memory(7.0), 9: memory(0.1)})
    file(folder).write(newer)
    assert same(file(folder).read(), newer)
    assert len(list(folder.iterdir())) == 1


def test_a_strategy_that_remembers_nothing_leaves_no_file(tmp_path: Path) -> None:
    none = file(tmp_path / "memory", names=())
    none.write(Memories({4: ClientMemory()}))
    assert none.read() == Memories()
    assert not (tmp_path / "memory").exists()


@pytest.mark.parametrize(
    "other", [{"uid": "u2"}, {"client": "d-1"}, {"names": ("c", "x")}, {"n_values": 4}]
)
def test_the_memory_of_something_else_is_none(tmp_path: Path, other: dict[str, object]) -> None:
    file(tmp_path).write(BOTH)
    mine, theirs = file(tmp_path), file(tmp_path, **other)
    if theirs.path != mine.path:
        mine.path.rename(theirs.path)
    assert theirs.read() == Memories()


@pytest.mark.parametrize("cut", [0, 1, 8, 100, -1])
def test_a_damaged_file_is_no_memory_and_no_obstacle(tmp_path: Path, cut: int) -> None:
    one = file(tmp_path)
    one.write(BOTH)
    one.path.write_bytes(one.path.read_bytes()[:cut])
    assert one.read() == Memories()
    one.write(BOTH)
    assert same(one.read(), BOTH)


def test_a_full_disk_leaves_the_last_version_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = file(tmp_path)
    one.write(BOTH)

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lockstep_workers.files.os.fsync", full)
        one.write(Memories({9: memory(9.0)}))
    assert same(one.read(), BOTH)
    assert len(list(tmp_path.iterdir())) == 1
