"""The data sets of the bench: images with a test set, and sensor windows with their users.

Files are read as they are found; none belongs to this project.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lockstep_api.spec import Data
from lockstep_workers.data import Dataset, Examples, load_dataset

BUILT_IN = Path("/usr/share/datasets")
_TEST_SHARE = 0.2
_SPLIT_SEED = 0


@dataclass(frozen=True, slots=True)
class Source:
    """A data set, by what a run needs to know of it before it is loaded."""

    path: Path | None
    """An npz file; None: the built-in Fashion-MNIST."""
    identity: str
    shape: tuple[int, ...]
    """Of one input."""
    classes: int
    users: int = 0
    """Number of users; 0: the data has none."""

    def fitted(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """The model with what the data demands of it."""
        args = dict(model.get("args", {}))
        if model["name"] == "mlp":
            args["inputs"] = int(np.prod(self.shape))
        return {**model, "args": {**args, "classes": self.classes}}


def find(path: Path | None) -> Source:
    """What a file holds: x_train, y_train, x_test, y_test (and user_…), or x, y, user."""
    if path is None:
        return Source(None, "fashion-mnist 60000", (1, 28, 28), 10)
    data = load(path)
    users = data.train.users
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return Source(
        path,
        f"{path.stem} {digest}",
        data.train.inputs.shape[1:],
        data.classes,
        0 if users is None else len(np.unique(users)),
    )


def load(path: Path | None) -> Dataset:
    """The data set: inputs are scaled by the training examples' mean and standard deviation."""
    if path is None:
        return load_dataset(Data(name="fashion-mnist"), BUILT_IN)
    with np.load(path, allow_pickle=False) as file:
        held = {name: file[name] for name in file.files}
    if "x_train" in held:
        train, test = (
            _examples(held[f"x_{part}"], held[f"y_{part}"], held.get(f"user_{part}"))
            for part in ("train", "test")
        )
    else:
        every = _examples(held["x"], held["y"], held.get("user"))
        order = np.random.default_rng(_SPLIT_SEED).permutation(len(every))
        cut = round(_TEST_SHARE * len(order))
        train, test = every.part(np.sort(order[cut:])), every.part(np.sort(order[:cut]))
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    return Dataset(*_normalised(train, test), classes)


def _examples(x: Any, y: Any, users: Any) -> Examples:
    images = x.dtype == np.uint8
    if images and x.ndim == 3:
        x = x[:, np.newaxis]
    elif images and x.ndim == 4:
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    whose = None if users is None else users.astype(np.int64)
    return Examples(x if images else x.astype(np.float32), y.astype(np.int64), whose)


def _normalised(train: Examples, test: Examples) -> tuple[Examples, Examples]:
    """In float32, once for all: images by one mean and scale, features each by its own."""
    axis = None if train.inputs.dtype == np.uint8 else 0
    mean = np.float32(train.inputs.mean(axis=axis))
    scale = np.float32(train.inputs.std(axis=axis) + 1e-6)
    first, second = (
        Examples((one.inputs.astype(np.float32) - mean) / scale, one.labels, one.users)
        for one in (train, test)
    )
    return first, second
