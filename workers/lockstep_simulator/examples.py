"""The examples of a simulated job: the built-in set, an npz file of the user, or his function.

The CLI calls `load_examples`, then `adapted`. Invariant: what a cluster would train on is what is
trained on here; only a file (`--data`), which a cluster does not have, stands in for `spec.data`
and has the built-in models sized for it.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep_api.spec import FederatedJobSpec
from lockstep_simulator.manifest import FROM_FILE
from lockstep_workers.data import Dataset, Examples, checked, load_dataset
from lockstep_workers.errors import InvalidJob
from lockstep_workers.models import sized_args

Array = NDArray[Any]
Say = Callable[[str], None]

_BUILT_IN = "fashion-mnist"
_PACKAGE = "dataset-fashion-mnist"
_PLACES = (Path("/usr/share/datasets"),)
_A_FILE_OF_IT = "t10k-labels-idx1-ubyte.gz"
_NAMES = {
    "x": ("x", "x_train"),
    "y": ("y", "y_train"),
    "x_test": ("x_test",),
    "y_test": ("y_test",),
    "group": ("group", "group_train", "user", "user_train"),
}
_TEST_SHARE = 0.2
_LARGE = 100.0


def load_examples(spec: FederatedJobSpec, *, say: Say = lambda _: None) -> Dataset:
    """The data set of a job.

    Args:
        spec: the job's, as `load_manifest` gives it.
        say: told what takes time, or looks wrong.

    Raises:
        InvalidJob: it cannot be had, or is none that can be trained on; says what to change.
    """
    if spec.data.entrypoint == FROM_FILE:
        arguments = spec.data.args
        found = checked(npz(**arguments), str(arguments["path"]))
        return _told(_for_model(found, spec.model.name), say)
    if spec.data.name != _BUILT_IN:
        return load_dataset(spec.data, Path())
    return load_dataset(spec.data, _place_of_built_in(say))


def adapted(spec: FederatedJobSpec, dataset: Dataset) -> FederatedJobSpec:
    """The spec with a built-in model that takes the examples of a file; others stay as they are."""
    if spec.data.entrypoint != FROM_FILE or spec.model.name is None:
        return spec
    shape = dataset.train.inputs.shape[1:]
    sized = sized_args(spec.model.name, shape=shape, classes=dataset.classes)
    model = spec.model.model_copy(update={"args": {**sized, **spec.model.args}})
    return spec.model_copy(update={"model": model})


def _for_model(dataset: Dataset, model: str | None) -> Dataset:
    """Examples of two axes as images of one colour, where the built-in model takes images only."""
    if model in (None, "mlp") or dataset.train.inputs.ndim != 3:
        return dataset
    train, test = (
        replace(part, inputs=part.inputs[:, np.newaxis]) for part in (dataset.train, dataset.test)
    )
    return replace(dataset, train=train, test=test)


def _told(dataset: Dataset, say: Say) -> Dataset:
    inputs = dataset.train.inputs
    greatest = float(np.abs(inputs).max()) if inputs.dtype == np.float32 else 0.0
    if greatest > _LARGE:
        say(
            f"x has values up to {greatest:g}, so training may fail: scale its features, or say "
            "--standardise"
        )
    return dataset


def npz(path: str, seed: int = 0, *, standardise: bool = False) -> Dataset:
    """The data set in a file of `numpy.savez`: x, y, and x_test, y_test, group if they are there.

    Args:
        path: the file.
        seed: of the split into training and test examples, when the file has none.
        standardise: each feature of x less its mean and by its deviation, of the training part.

    Raises:
        InvalidJob: it is none; says what to change.
    """
    arrays = _arrays(Path(path))
    train, test = _parts(arrays, path=path, seed=seed)
    labels = np.concatenate([train.labels, test.labels])
    classes, numbered = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise InvalidJob(f"{path}: y has one class only ({classes[0]}): there is nothing to learn")
    inputs, test_inputs, mean, scale = _scaled(train.inputs, test.inputs, standardise=standardise)
    cut = len(train.labels)
    return Dataset(
        Examples(inputs, numbered[:cut].astype(np.int64), train.users, mean, scale),
        Examples(test_inputs, numbered[cut:].astype(np.int64), None, mean, scale),
        classes=len(classes),
    )


def _arrays(path: Path) -> dict[str, Array]:
    """The arrays of a file under the names that we know."""
    try:
        with np.load(path, allow_pickle=False) as found:
            if not hasattr(found, "files"):
                raise InvalidJob(f"{path} holds one array: save x and y with numpy.savez")
            held = {name: _array(found, name, path=path) for name in _wanted(found.files)}
            names = ", ".join(found.files)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidJob(
            f"cannot read {path}: {error}: it must be a file of numpy.savez with x and y"
        ) from error
    for needed in ("x", "y"):
        if needed not in held:
            raise InvalidJob(
                f"{path} has no array {needed}, only {names or 'none'}: name it {needed}"
            )
    if ("x_test" in held) != ("y_test" in held):
        raise InvalidJob(
            f"{path}: x_test and y_test belong together: add the other, or remove both"
        )
    return held


def _wanted(names: list[str]) -> dict[str, str]:
    """What we call it → what the file calls it."""
    return {
        ours: next(one for one in known if one in names)
        for ours, known in _NAMES.items()
        if not set(known).isdisjoint(names)
    }


def _array(found: Any, name: str, *, path: Path) -> Array:
    theirs = _wanted(found.files)[name]
    try:
        array: Array = found[theirs]
    except ValueError as error:
        raise InvalidJob(f"{path}: {theirs} holds objects: save numbers, with a dtype") from error
    return array


def _parts(arrays: Mapping[str, Array], *, path: str, seed: int) -> tuple[Examples, Examples]:
    """Training and test examples, not yet scaled, labels as they are."""
    train = _examples(arrays["x"], arrays["y"], what=f"{path}: x", users=arrays.get("group"))
    if "x_test" in arrays:
        test = _examples(arrays["x_test"], arrays["y_test"], what=f"{path}: x_test")
        if train.inputs.shape[1:] != test.inputs.shape[1:]:
            shapes = f"{train.inputs.shape[1:]} and {test.inputs.shape[1:]}"
            raise InvalidJob(f"{path}: examples of x and x_test have different shapes, {shapes}")
        return train, test
    order = np.random.default_rng(seed).permutation(len(train))
    held_out = round(_TEST_SHARE * len(train))
    if not 0 < held_out < len(train):
        raise InvalidJob(f"{path} has {len(train)} examples: too few to hold some out for the test")
    return train.part(np.sort(order[held_out:])), train.part(np.sort(order[:held_out]))


def _examples(x: Array, y: Array, *, what: str, users: Array | None = None) -> Examples:
    """Checks one part, and brings its arrays into the form of `Examples`."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind == "f" and (y == np.floor(y)).all():
        y = y.astype(np.int64)
    if y.ndim != 1 or y.dtype.kind not in "iub":
        advice = "take argmax(axis=1) of them" if y.ndim == 2 else "number the classes"
        raise InvalidJob(
            f"{what}: the labels are {y.dtype} of shape {y.shape}, not one whole number an "
            f"example: {advice}"
        )
    if x.ndim < 2 or len(x) != len(y):
        raise InvalidJob(
            f"{what} has shape {x.shape} for {len(y)} labels: make it (n, …), an example a label"
        )
    if x.dtype.kind not in "iubf":
        raise InvalidJob(f"{what} is {x.dtype}: make it numbers, uint8 or float32")
    if x.dtype.kind == "f" and (odd := int((~np.isfinite(x)).sum())):
        raise InvalidJob(
            f"{what} has {odd} values that are not finite: fill them, or drop the rows"
        )
    return Examples(_with_channels(x), y.astype(np.int64), _numbered(users, len(y), what=what))


def _numbered(users: Array | None, count: int, *, what: str) -> NDArray[np.int64] | None:
    if users is None:
        return None
    if users.shape != (count,) or users.dtype.kind not in "iubUS":
        raise InvalidJob(
            f"{what}: group is {users.dtype} of shape {users.shape}: make it one number or name an "
            f"example, of shape ({count},)"
        )
    return np.unique(users, return_inverse=True)[1].astype(np.int64)


def _with_channels(x: Array) -> Array:
    """Images with their channels first, (n, c, h, w), as the models expect; the rest as float32."""
    if x.dtype != np.uint8:
        return x.astype(np.float32)
    if x.ndim == 3:
        return x[:, np.newaxis]
    channels_last = x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4)
    return np.ascontiguousarray(np.moveaxis(x, 3, 1)) if channels_last else x


def _scaled(train: Array, test: Array, *, standardise: bool) -> tuple[Array, Array, float, float]:
    """Both parts, and the mean and scale with which a model sees them."""
    if standardise:
        values = train.astype(np.float32)
        mean, deviation = values.mean(axis=0), values.std(axis=0)
        deviation[deviation == 0] = 1
        return (values - mean) / deviation, (test.astype(np.float32) - mean) / deviation, 0.0, 1.0
    if train.dtype == np.uint8 and test.dtype == np.uint8:
        return train, test, float(train.mean()), float(train.std()) or 1.0
    return train.astype(np.float32), test.astype(np.float32), 0.0, 1.0


def _place_of_built_in(say: Say) -> Path:
    """The folder with the built-in set; fetched once as Debian packages it, if it is nowhere."""
    cache = cache_folder() / "datasets"
    for place in (*_PLACES, cache / "usr" / "share" / "datasets"):
        if (place / _BUILT_IN / _A_FILE_OF_IT).exists():
            return place
    _fetch(cache, say)
    return cache / "usr" / "share" / "datasets"


def cache_folder() -> Path:
    """Where the user's programs keep what can be had again."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "lockstep"


def _fetch(cache: Path, say: Say) -> None:
    """Downloads and unpacks the package into a folder of the user: that takes no root."""
    nowhere = (
        f"data.name {_BUILT_IN} is not on this machine: install Debian's package {_PACKAGE} "
        "(apt-get install), or give examples of your own with --data FILE.npz"
    )
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise InvalidJob(nowhere)
    say(f"fetching Fashion-MNIST (Debian's package {_PACKAGE}, 31 MB) into {cache}")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        try:
            _run(["apt-get", "download", "-q", _PACKAGE], folder)
            (package,) = Path(folder).glob("*.deb")
            _run(["dpkg-deb", "-x", str(package), "unpacked"], folder)
            unpacked = Path(folder) / "unpacked" / "usr"
            shutil.copytree(unpacked, cache / "usr", dirs_exist_ok=True)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            last = said.strip().splitlines()[-1] if said.strip() else "it failed"
            raise InvalidJob(f"{nowhere}. Fetching it failed: {last}") from error


def _run(words: list[str], folder: str) -> None:
    subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True)
