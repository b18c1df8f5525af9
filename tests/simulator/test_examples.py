"""Examples of a simulated job: npz files, their checks, models sized for them, the built-in set."""

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lockstep_admission.errors import Refused
from lockstep_api.spec import FederatedJobSpec
from lockstep_simulator import examples
from lockstep_simulator.examples import adapted, load_examples, npz
from lockstep_simulator.manifest import DataFile, load_manifest
from lockstep_workers.errors import InvalidJob
from lockstep_workers.models import build_model, check_fit
from tests.support.manifests import MINIMAL, job_manifest
from tests.wire.jobs import write_dataset


def save(folder: Path, **arrays: Any) -> Path:
    path = folder / "own.npz"
    np.savez(path, **arrays)
    return path


def spec_of(path: Path, *sets: str) -> FederatedJobSpec:
    text = yaml.safe_dump(job_manifest(MINIMAL))
    return load_manifest(text, sets=sets, data=DataFile(path)).spec


def random_images(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


LABELS = np.arange(20) % 4


def test_grey_images_get_a_channel_and_are_scaled_by_the_training_part(tmp_path: Path) -> None:
    x, x_test = random_images(20, 9, 8), random_images(10, 9, 8)
    path = save(tmp_path, x=x, y=LABELS, x_test=x_test, y_test=LABELS[:10])
    found = npz(str(path))
    assert found.train.inputs.shape == (20, 1, 9, 8)
    assert found.test.inputs.dtype == np.uint8
    assert (found.train.mean, found.train.scale) == (x.mean(), x.std())
    assert (found.test.mean, found.test.scale) == (found.train.mean, found.train.scale)


def test_channels_that_come_last_are_moved_to_the_front(tmp_path: Path) -> None:
    x = random_images(20, 6, 7, 3)
    found = npz(str(save(tmp_path, x=x, y=LABELS, x_test=x, y_test=LABELS)))
    assert np.array_equal(found.train.inputs[4, 2], x[4, :, :, 2])


def test_floats_stay_as_they_are(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(3, 2, (20, 5))
    found = npz(str(save(tmp_path, x=x, y=LABELS, x_test=x, y_test=LABELS)))
    assert found.train.inputs.dtype == np.float32
    assert np.array_equal(found.train.inputs, x.astype(np.float32))
    assert (found.train.mean, found.train.scale) == (0.0, 1.0)


def test_standardise_takes_the_figures_of_the_training_part(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal([0, 5000, 7], [1, 300, 0], (20, 3))
    path = save(tmp_path, x=x, y=LABELS, x_test=x + 1, y_test=LABELS)
    found = npz(str(path), standardise=True)
    assert found.train.inputs.mean(axis=0) == pytest.approx([0, 0, 0], abs=1e-4)
    assert found.train.inputs.std(axis=0) == pytest.approx([1, 1, 0], abs=1e-4)
    assert found.test.inputs[:, 2] == pytest.approx(np.ones(20))


def test_without_a_test_part_a_fifth_is_held_out_by_the_seed(tmp_path: Path) -> None:
    path = save(tmp_path, x=np.arange(40.0).reshape(20, 2), y=LABELS, group=LABELS * 10)
    first, again, other = npz(str(path), 1), npz(str(path), 1), npz(str(path), 2)
    assert (len(first.train), len(first.test)) == (16, 4)
    whole = np.concatenate([first.train.inputs, first.test.inputs])
    assert sorted(whole[:, 0]) == list(range(0, 40, 2))
    assert np.array_equal(first.test.inputs, again.test.inputs)
    assert not np.array_equal(first.test.inputs, other.test.inputs)
    assert first.train.users is not None
    assert np.array_equal(first.train.users, first.train.labels)


def test_any_whole_numbers_are_classes(tmp_path: Path) -> None:
    y = np.array([-5.0, 7.0, 1000.0, 7.0] * 5)
    found = npz(str(save(tmp_path, x=np.ones((20, 2)), y=y, x_test=np.ones((1, 2)), y_test=[9])))
    assert found.classes == 4
    assert found.train.labels[:4].tolist() == [0, 1, 3, 1]
    assert found.test.labels.tolist() == [2]


X = np.ones((20, 3))
NOT_FINITE = np.where(np.arange(60).reshape(20, 3) == 7, np.nan, 1.0)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": X, "y": LABELS}, "has no array x, only images, y: name it x"),
        ({"x": X}, "has no array y, only x: name it y"),
        ({"x": X, "y": LABELS, "x_test": X}, "x_test and y_test belong together"),
        ({"x": X, "y": LABELS[:3]}, "x has shape (20, 3) for 3 labels"),
        ({"x": X[:, 0], "y": LABELS}, "x has shape (20,) for 20 labels: make it (n, …)"),
        ({"x": NOT_FINITE, "y": LABELS}, "x has 1 values that are not finite"),
        ({"x": X.astype(str), "y": LABELS}, "x is <U32: make it numbers, uint8 or float32"),
        ({"x": X, "y": np.eye(20)}, "the labels are int64 of shape (20, 20)"),
        ({"x": X, "y": LABELS + 0.5}, "the labels are float64 of shape (20,)"),
        ({"x": X, "y": LABELS.astype(str)}, "number the classes"),
        ({"x": X, "y": LABELS * 0}, "y has one class only (0): there is nothing to learn"),
        ({"x": X, "y": LABELS, "group": LABELS[:4]}, "group is int64 of shape (4,)"),
        ({"x": X[:2], "y": LABELS[:2]}, "has 2 examples: too few to hold some out"),
        (
            {"x": X, "y": LABELS, "x_test": X[:, :2], "y_test": LABELS},
            "examples of x and x_test have different shapes, (3,) and (2,)",
        ),
    ],
)
def test_a_file_that_does_not_fit_says_what_to_change(
    tmp_path: Path, arrays: dict[str, Any], said: str
) -> None:
    path = save(tmp_path, **arrays)
    with pytest.raises(InvalidJob) as found:
        npz(str(path))
    assert said in str(found.value)


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, x=np.array([{}, 1], dtype=object), y=LABELS)
    with pytest.raises(InvalidJob, match="x holds objects: save numbers"):
        npz(str(path))


@pytest.mark.parametrize("content", [None, b"no archive", b""])
def test_what_is_no_file_of_savez_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "own.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidJob, match=r"own\.npz"):
        npz(str(path))


@pytest.mark.parametrize(
    ("shape", "kind", "model"),
    [
        ((8, 8), np.uint8, "mlp"),
        ((8, 8), np.uint8, "cnn"),
        ((32, 32, 3), np.uint8, "cnn"),
        ((9, 17), np.float32, "cnn"),
        ((42,), np.float32, "mlp"),
        ((6, 5), np.float16, "mlp"),
    ],
)
def test_built_in_models_take_the_examples_of_a_file(
    tmp_path: Path, shape: tuple[int, ...], kind: type, model: str
) -> None:
    x: np.ndarray[Any, Any] = random_images(20, *shape).astype(kind)
    path = save(tmp_path, x_train=x, y_train=LABELS, x_test=x, y_test=LABELS)
    spec = spec_of(path, f"model.name={model}")
    dataset = load_examples(spec)
    fitted = adapted(spec, dataset)
    check_fit(build_model(fitted.model, seed=0), dataset)
    assert fitted.model.args["classes"] == 4


def test_arguments_of_the_manifest_win(tmp_path: Path) -> None:
    path = save(tmp_path, x=X, y=LABELS)
    spec = spec_of(path, "model.args.hidden=7,model.args.classes=9")
    assert adapted(spec, load_examples(spec)).model.args == {
        "inputs": 3, "classes": 9, "hidden": 7,
    }  # fmt: skip


def test_a_cnn_takes_no_rows_of_features(tmp_path: Path) -> None:
    path = save(tmp_path, x=X, y=LABELS)
    spec = spec_of(path, "model.name=cnn")
    with pytest.raises(InvalidJob, match=r"not examples of shape \(3,\): use mlp"):
        adapted(spec, load_examples(spec))


def test_groups_are_users_of_the_natural_partition(tmp_path: Path) -> None:
    path = save(tmp_path, x=X, y=LABELS, group=np.array(["ann", "bob"] * 10))
    natural = "data.partition.scheme=natural"
    users = load_examples(spec_of(path, natural)).train.users
    assert users is not None
    assert set(users.tolist()) == {0, 1}
    with pytest.raises(Refused, match="natural needs users, which fashion-mnist has not"):
        load_manifest(yaml.safe_dump(job_manifest(MINIMAL)), sets=[natural])


def test_the_seed_of_the_job_holds_examples_out(tmp_path: Path) -> None:
    path = save(tmp_path, x=np.arange(40.0).reshape(20, 2), y=LABELS)
    held_out = load_examples(spec_of(path, "training.seed=7")).test.inputs
    assert np.array_equal(held_out, npz(str(path), 7).test.inputs)


def test_standardise_is_asked_of_the_file(tmp_path: Path) -> None:
    path = save(tmp_path, x=np.arange(40.0).reshape(20, 2), y=LABELS)
    text = yaml.safe_dump(job_manifest(MINIMAL))
    spec = load_manifest(text, data=DataFile(path, standardise=True)).spec
    assert load_examples(spec).train.inputs.std() == pytest.approx(1, abs=1e-3)


def test_large_values_are_told(tmp_path: Path) -> None:
    told: list[str] = []
    load_examples(spec_of(save(tmp_path, x=X * 4925, y=LABELS)), say=told.append)
    assert told == [
        "x has values up to 4925, so training may fail: scale its features, or say --standardise"
    ]


BUILT_IN = load_manifest(yaml.safe_dump(job_manifest(MINIMAL))).spec


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without the data set, whose programs are those of the folder that this returns."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(examples, "_PLACES", (tmp_path / "nowhere",))
    return folder


def program(folder: Path, name: str, *, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_the_built_in_set_is_fetched_once_without_root(tools: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "packed")
    program(tools, "apt-get", script='echo "$@" >> "$XDG_CACHE_HOME/asked"; touch one.deb')
    packed = tmp_path / "packed" / "fashion-mnist"
    unpack = f"mkdir -p $3/usr/share/datasets && cp -r {packed} $3/usr/share/datasets/"
    program(tools, "dpkg-deb", script=unpack)
    told: list[str] = []
    for _ in range(2):
        dataset = load_examples(BUILT_IN, say=told.append)
        assert dataset.classes == 10
    asked = (tmp_path / "cache" / "asked").read_text()
    assert asked == "download -q dataset-fashion-mnist\n"
    assert len(told) == 1
    assert "31 MB" in told[0]


def test_a_set_that_cannot_be_fetched_names_package_and_option(tools: Path) -> None:
    program(tools, "apt-get", script="echo 'E: Unable to locate package' >&2; exit 100")
    program(tools, "dpkg-deb", script="exit 1")
    with pytest.raises(InvalidJob) as found:
        load_examples(BUILT_IN)
    assert "dataset-fashion-mnist" in str(found.value)
    assert "--data FILE.npz" in str(found.value)
    assert "E: Unable to locate package" in str(found.value)


def test_without_apt_the_package_is_named(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(InvalidJob, match=r"install Debian's package dataset-fashion-mnist"):
        load_examples(BUILT_IN)


def test_a_set_that_is_drawn_needs_nothing_on_the_machine(tools: Path) -> None:
    """No package, no file, no program."""
    data = BUILT_IN.data.model_copy(update={"name": "shapes32", "args": {"train": 20, "test": 10}})
    dataset = load_examples(BUILT_IN.model_copy(update={"data": data}))
    assert (len(dataset.train), len(dataset.test), dataset.classes) == (20, 10, 10)
