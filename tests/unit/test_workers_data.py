"""Data sets in files: what is read of them, what is held meanwhile, and files that are none."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from lockstep_api.spec import Data
from lockstep_workers.data import Labelled, load_dataset, load_part
from lockstep_workers.errors import InvalidJob
from lockstep_workers.idx import IdxFile
from tests.wire.jobs import write_dataset, write_idx

FASHION = Data(name="fashion-mnist")
IMAGE_BYTES = 28 * 28


def test_idx_files(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    write_idx(path, np.arange(6, dtype=np.uint8).reshape(2, 3))
    file = IdxFile.at(path)
    assert file.shape == (2, 3)
    assert file.read().tolist() == [[0, 1, 2], [3, 4, 5]]
    path.write_bytes(gzip.compress(struct.pack(">BBBBII", 0, 0, 8, 2, 2, 3) + bytes(5)))
    with pytest.raises(InvalidJob, match="not an IDX file"):
        IdxFile.at(path).read()
    path.write_bytes(gzip.compress(struct.pack(">BBBBII", 0, 0, 8, 2, 2, 3) + bytes(7)))
    with pytest.raises(InvalidJob, match="not an IDX file"):
        IdxFile.at(path).read()
    with pytest.raises(InvalidJob, match="cannot read the data file"):
        load_dataset(FASHION, tmp_path)


SHAPE = "af001000 00000002 00000100 00000000 02030066"
HUGE_AND_EMPTY = bytes((0, 0, 8, 5)) + bytes.fromhex(SHAPE)
HUGE = bytes((0, 0, 8, 3)) + b"\xff" * 12


@pytest.mark.parametrize(
    "head", [b"", b"\0\0\x08\1\0", b"\0\0\x08\3\0\0\0\1", b"\0\0\x08\0abc", HUGE_AND_EMPTY, HUGE]
)
def test_a_data_file_that_is_cut_off_is_named(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(head))
    with pytest.raises(InvalidJob, match="is not an IDX file"):
        IdxFile.at(path)


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40])
def test_a_data_file_that_does_not_unpack_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "images.gz"
    write_idx(path, np.arange(200, dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:10] + damage)
    with pytest.raises(InvalidJob, match="cannot read the data file"):
        IdxFile.at(path).read()


def test_a_file_as_small_as_can_be_is_read(tmp_path: Path) -> None:
    path, zeros = tmp_path / "a.gz", np.zeros((5000, 28, 28), np.uint8)
    write_idx(path, zeros)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=9))
    assert (IdxFile.at(path).read() == zeros).all()


def test_rows_come_in_the_order_in_which_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 4, (6000, 700), np.uint8)  # some pieces
    write_idx(path, whole)
    chosen = rng.integers(0, len(whole), 500)
    assert (IdxFile.at(path).rows(chosen) == whole[chosen]).all()
    assert IdxFile.at(path).rows(chosen[:0]).shape == (0, 700)


def every_tenth(known: Labelled) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A part, out of order."""
    return np.arange(0, len(known.labels), 10)[::-1].copy()


@pytest.mark.parametrize("spec", [FASHION, Data(name="shapes32", args={"train": 90, "test": 10})])
def test_a_part_is_that_of_the_whole(tmp_path: Path, spec: Data) -> None:
    write_dataset(tmp_path)
    part, whole = load_part(spec, tmp_path, choose=every_tenth), load_dataset(spec, tmp_path)
    wanted = whole.train.part(every_tenth(whole.train))
    assert part.classes == whole.classes == 10
    assert part.examples.inputs.dtype == wanted.inputs.dtype == np.uint8
    assert part.examples.inputs.tobytes() == wanted.inputs.tobytes()
    assert part.examples.inputs.shape == wanted.inputs.shape
    assert part.examples.labels.tobytes() == wanted.labels.tobytes()
    assert (part.examples.mean, part.examples.scale) == (wanted.mean, wanted.scale)


def test_a_device_holds_no_more_of_the_data_than_its_part(tmp_path: Path) -> None:
    """Beside it some pieces of a file, and the labels: a device has memory for no more."""
    count = 30_000
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 0, 0] = np.arange(count) % 251
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    write_idx(folder / "train-images-idx3-ubyte.gz", images)
    write_idx(folder / "train-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype(np.uint8))
    tracemalloc.start()
    try:
        part = load_part(FASHION, tmp_path, choose=every_tenth)
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    kept = part.examples.inputs.nbytes
    assert kept == count // 10 * IMAGE_BYTES
    assert left < kept + (1 << 20)
    assert peak < kept + (3 << 20), "the images of all are 23 MB"
