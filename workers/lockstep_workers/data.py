"""Data sets: held as given, converted a mini-batch at a time; a device keeps only its own part.

`Dataset` and `Examples` are what a user's own `data.entrypoint` returns (docs/own-work.md).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lockstep_api.spec import Data
from lockstep_workers.entrypoints import call, explained
from lockstep_workers.errors import InvalidJob
from lockstep_workers.idx import IdxFile
from lockstep_workers.shapes import CLASSES, images
from lockstep_workers.words import where_defined

_FASHION_MNIST, _SHAPES = "fashion-mnist", "shapes32"
_MOST_DRAWN = 100_000  # images
_MEAN, _SCALE = 0.2860 * 255, 0.3530 * 255  # of the training images of Fashion-MNIST


@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs and their labels.

    A model sees `(input − mean) / scale` in float32.
    """

    inputs: NDArray[Any]
    """(n, …) of uint8 or float32."""
    labels: NDArray[np.int64]
    """(n,) classes, from 0."""
    users: NDArray[np.int64] | None = None
    """(n,) whose example it is, for partition scheme natural; None: the data has no users."""
    mean: float = 0.0
    """Subtracted from each input."""
    scale: float = 1.0
    """What each input is then divided by."""

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, indices: NDArray[np.int64]) -> "Examples":
        """A copy of some of the examples, so that the rest can be freed."""
        users = None if self.users is None else self.users[indices]
        return Examples(self.inputs[indices], self.labels[indices], users, self.mean, self.scale)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set for classification."""

    train: Examples
    """What is dealt out to the devices."""
    test: Examples
    """The held-out examples, on which the cloud pod evaluates."""
    classes: int = 0
    """Number of classes; 0: one more than the greatest label."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one client keeps of a data set."""

    examples: Examples
    classes: int
    """Number of classes of the whole."""


class Labelled(Protocol):
    """What examples are dealt out by."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) classes, from 0."""

    @property
    def users(self) -> NDArray[np.int64] | None:
        """(n,) whose example it is; None: the data has no users."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of examples whose inputs are not read yet."""

    labels: NDArray[np.int64]
    users: None = None


Choose = Callable[[Labelled], NDArray[np.int64]]
"""Says which examples are wanted."""


def _every(known: Labelled) -> NDArray[np.int64]:
    return np.arange(len(known.labels))


def as_batch(examples: Examples, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Normalised inputs (b, …) in float32 and labels (b,) of the chosen examples."""
    x = normalised(examples.inputs[chosen], examples)
    return x, torch.from_numpy(examples.labels[chosen])


def normalised(inputs: NDArray[Any], examples: Examples) -> Tensor:
    """What a model sees of inputs that come from these examples, in float32."""
    x = torch.from_numpy(inputs).float()
    if examples.mean:
        x.sub_(examples.mean)
    if examples.scale != 1.0:
        x.div_(examples.scale)
    return x


def label_histogram(examples: Examples, classes: int) -> list[int]:
    """Examples per label."""
    return [int(n) for n in np.bincount(examples.labels, minlength=classes)]


def load_dataset(spec: Data, root: Path) -> Dataset:
    """The data set of a job: a built-in one below `root`, or what the user's function returns.

    Raises:
        InvalidJob: it cannot be had, or is none that can be trained on; says what to change.
    """
    if _is_in_files(spec):
        folder = root / _FASHION_MNIST
        return Dataset(_read(folder, "train"), _read(folder, "t10k"), classes=10)
    if spec.entrypoint is not None:
        made = call(spec.entrypoint, spec.args, field="data.entrypoint", args="data.args")
        what = f"data.entrypoint {spec.entrypoint}"
        with explained(f"{what}: looking at what it returned raised", own=spec.entrypoint):
            return checked(made, f"{what} ({where_defined(spec.entrypoint)})")
    return _shapes(spec.args)


def load_part(spec: Data, root: Path, *, choose: Choose) -> Part:
    """Some of a job's training examples; of a data set in files the others are never held.

    Errors as `load_dataset`.
    """
    if _is_in_files(spec):
        return Part(_read(root / _FASHION_MNIST, "train", choose=choose), classes=10)
    whole = load_dataset(spec, root)
    return Part(whole.train.part(choose(whole.train)), whole.classes)


def _is_in_files(spec: Data) -> bool:
    """Whether a data set is read from files; errors as `load_dataset`."""
    if spec.entrypoint is not None or spec.name == _SHAPES:
        return False
    if spec.name != _FASHION_MNIST:
        raise InvalidJob(
            f"data.name {spec.name!r} is not in this version: use {_FASHION_MNIST} or {_SHAPES}"
        )
    if spec.args:
        raise InvalidJob(f"data.name {spec.name} takes no data.args: remove them")
    return True


def _shapes(args: Mapping[str, Any]) -> Dataset:
    """The drawn set, of as many images as `args` say."""
    told = {"train": 10_000, "test": 2_000, "seed": 0} | dict(args)
    if odd := sorted(set(told) - {"train", "test", "seed"}):
        raise InvalidJob(f"data.args of {_SHAPES} has {odd[0]}: it takes train, test and seed only")
    for name, least in (("train", CLASSES), ("test", CLASSES), ("seed", 0)):
        value, most = told[name], _MOST_DRAWN if least else 2**32 - 1
        if type(value) is not int or not least <= value <= most:
            raise InvalidJob(
                f"data.args.{name} of {_SHAPES} is {value!r}: make it a whole number from {least} "
                f"to {most:,}"
            )
    train, test = (
        Examples(*images(told[part], seed=(told["seed"], number)), mean=127.5, scale=64.0)
        for number, part in enumerate(("train", "test"))
    )
    return Dataset(train, test, classes=CLASSES)


def checked(dataset: object, what: str) -> Dataset:
    """A data set that can be trained on, with the number of classes filled in.

    Raises:
        InvalidJob: it is none.
    """
    if not isinstance(dataset, Dataset):
        raise InvalidJob(
            f"{what} returned {type(dataset).__name__}: return lockstep_workers.data.Dataset"
        )
    for part, examples in (("train", dataset.train), ("test", dataset.test)):
        _check(examples, f"{what}: {part}")
    if dataset.train.inputs.shape[1:] != dataset.test.inputs.shape[1:]:
        shapes = [dataset.train.inputs.shape[1:], dataset.test.inputs.shape[1:]]
        raise InvalidJob(f"{what}: inputs of train and test have different shapes: {shapes}")
    train, test = _plain(dataset.train), _plain(dataset.test)
    top = int(max(train.labels.max(), test.labels.max()))
    return Dataset(train, test, _classes(dataset.classes, top, what=what))


def _classes(told: object, top: int, *, what: str) -> int:
    """The number of classes, when `top` is the greatest label."""
    told = 0 if told is None else told
    if not isinstance(told, int | np.integer) or told < 0:
        raise InvalidJob(f"{what}: classes is {told!r}: make it a whole number, or leave it out")
    classes = int(told) or top + 1
    if top >= classes:
        raise InvalidJob(f"{what} has label {top}, but only {classes} classes: labels count from 0")
    return classes


def _check(examples: object, what: str) -> None:
    if not isinstance(examples, Examples):
        kind = type(examples).__name__
        raise InvalidJob(f"{what} is {kind}: make it lockstep_workers.data.Examples")
    inputs, labels = np.asarray(examples.inputs), np.asarray(examples.labels)
    if inputs.dtype not in (np.uint8, np.float32) or inputs.ndim == 0:
        found = inputs.dtype if inputs.ndim else "a single value"
        raise InvalidJob(f"{what}.inputs are {found}: convert them to float32 or uint8, (n, …)")
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        found = f"{labels.dtype} of shape {labels.shape}"
        raise InvalidJob(f"{what}.labels are {found}: make them whole numbers of shape (n,)")
    if len(labels) == 0:
        raise InvalidJob(f"{what} has no examples")
    if len(inputs) != len(labels):
        raise InvalidJob(f"{what} has {len(inputs)} inputs and {len(labels)} labels")
    if labels.min() < 0:
        raise InvalidJob(f"{what}.labels has {labels.min()}: labels count from 0")
    if inputs.dtype == np.float32 and not np.isfinite(inputs).all():
        raise InvalidJob(f"{what}.inputs has values that are not finite: clean the data first")
    _check_users(examples.users, labels.shape, what=what)
    mean, scale = _number(examples.mean, f"{what}.mean"), _number(examples.scale, f"{what}.scale")
    if not math.isfinite(mean) or not math.isfinite(scale) or scale == 0:
        raise InvalidJob(f"{what}: mean and scale must be finite, and scale not 0")


def _check_users(users: object, wanted: tuple[int, ...], *, what: str) -> None:
    if users is None:
        return
    found = np.asarray(users)
    if found.shape != wanted:
        raise InvalidJob(f"{what}.users must be one number an example, of shape {wanted}")
    if not np.issubdtype(found.dtype, np.integer):
        raise InvalidJob(f"{what}.users are {found.dtype}: number the users, with whole numbers")


def _number(value: object, what: str) -> float:
    """One number; a figure for each feature is not."""
    array = np.asarray(value)
    if array.ndim or array.dtype.kind not in "iuf":
        kind = f"an array of shape {array.shape}" if array.ndim else type(value).__name__
        raise InvalidJob(
            f"{what} is {kind}: make it one number, and normalise each feature in the function "
            "itself: inputs = (inputs - mean) / scale"
        )
    return float(array)


def _plain(examples: Examples) -> Examples:
    users = None if examples.users is None else np.asarray(examples.users, np.int64)
    labels = np.asarray(examples.labels, np.int64)
    return Examples(
        np.asarray(examples.inputs), labels, users, float(examples.mean), float(examples.scale)
    )


def _read(folder: Path, part: str, *, choose: Choose = _every) -> Examples:
    images = IdxFile.at(folder / f"{part}-images-idx3-ubyte.gz")
    labels = IdxFile.at(folder / f"{part}-labels-idx1-ubyte.gz")
    if len(images.shape) != 3 or labels.shape != images.shape[:1]:
        raise InvalidJob(f"{folder}: images and labels of {part} do not belong together")
    known = Labels(labels.read().astype(np.int64))
    chosen = choose(known)
    inputs = images.rows(chosen)[:, np.newaxis]
    return Examples(inputs, known.labels[chosen], mean=_MEAN, scale=_SCALE)
