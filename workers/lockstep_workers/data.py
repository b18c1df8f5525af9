"""Data sets: held as bytes, converted a mini-batch at a time; a device keeps only its own part."""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lockstep_workers.errors import InvalidJob

CLASSES = 10
_FASHION_MNIST = "fashion-mnist"
_IDX_UBYTE = 0x08
_MEAN, _STD = 0.2860, 0.3530  # of the training images of Fashion-MNIST, scaled to 0…1


@dataclass(frozen=True, slots=True)
class Examples:
    """Images and their labels.

    `images`: uint8 of shape (n, height, width); `labels`: int64 of shape (n,).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def part(self, indices: NDArray[np.int64]) -> "Examples":
        """A copy of some of the examples, so that the rest can be freed."""
        return Examples(self.images[indices], self.labels[indices])


def as_batch(examples: Examples, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Normalised images (b, 1, height, width) in float32 and labels (b,) of the chosen examples."""
    x = torch.from_numpy(examples.images[chosen]).float().div_(255.0).sub_(_MEAN).div_(_STD)
    return x.unsqueeze(1), torch.from_numpy(examples.labels[chosen])


def label_histogram(examples: Examples) -> list[int]:
    """Examples per label."""
    return [int(n) for n in np.bincount(examples.labels, minlength=CLASSES)]


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An array of unsigned bytes in the IDX format, gzipped.

    Raises:
        InvalidJob: the file is missing or not such an array.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise InvalidJob(f"cannot read the data file {path}: {error}") from error
    rank = raw[3] if len(raw) > 4 and raw[:3] == bytes((0, 0, _IDX_UBYTE)) else 0
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", count=rank, offset=4)) if rank else ()
    if not shape or len(raw) != 4 + 4 * rank + int(np.prod(shape)):
        raise InvalidJob(f"{path} is not an IDX file of unsigned bytes")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _load(folder: Path, part: str) -> Examples:
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz").astype(np.int64)
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise InvalidJob(f"{folder}: images and labels of {part} do not belong together")
    return Examples(images, labels)


def load_train(name: str | None, root: Path) -> Examples:
    """The training examples of a built-in data set below `root`.

    Raises:
        InvalidJob: no such data set, or its files are not there.
    """
    return _load(_folder(name, root), "train")


def load_test(name: str | None, root: Path) -> Examples:
    """The held-out examples of a built-in data set below `root`; errors as `load_train`."""
    return _load(_folder(name, root), "t10k")


def _folder(name: str | None, root: Path) -> Path:
    if name != _FASHION_MNIST:
        raise InvalidJob(f"data.name {name!r} is not in this version: use {_FASHION_MNIST}")
    return root / name
