"""What a user's own functions may return, and what is said when they do something else."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lockstep_api.spec import Data, Model, Partition, PartitionScheme
from lockstep_workers.data import Dataset, Examples, as_batch, checked, load_dataset
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.partition import partition
from lockstep_workers.models import build_model, check_fit

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "own-model"
CODE = """\
import torch
from torch import nn

def build(hidden, classes=3):
    return nn.Linear(4, classes)

def nothing():
    return None

def empty():
    return nn.ReLU()

def breaks():
    raise KeyError("column")

number = 7
"""


@pytest.fixture(autouse=True)
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules as they would be in a user's image."""
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "needs.py").write_text("import a_library_that_is_missing")
    (tmp_path / "typo.py").write_text("def build(:")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLE)
    for name in ("mine", "needs", "typo", "wine", "wine.data", "wine.model"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def model(entrypoint: str, **args: Any) -> nn.Module:
    """A model by its entrypoint."""
    return build_model(Model(entrypoint=entrypoint, args=args), seed=0)


@pytest.mark.parametrize(
    ("entrypoint", "args", "message"),
    [
        ("other.model:build", {}, "the image has no module other: put it into a folder of"),
        ("mine.sub:build", {}, "the image has no module mine.sub"),
        ("needs:build", {}, "needs:build: ModuleNotFoundError: No module named 'a_library"),
        ("typo:build", {}, r"importing typo raised SyntaxError"),
        ("mine:builds", {}, "module mine has no function builds, only build, nothing, empty"),
        ("mine:number", {}, "module mine has no function number"),
        ("mine:build", {}, r"model.args do not fit mine:build\(hidden, classes=3\): missing"),
        ("mine:build", {"hidden": 1, "x": 2}, "got an unexpected keyword argument 'x'"),
        ("mine:breaks", {}, r"raised KeyError: 'column' at .*mine.py:\d+"),
        ("mine:nothing", {}, "returned NoneType: return a torch.nn.Module"),
        ("mine:empty", {}, "without parameters: there is nothing to train"),
    ],
)
def test_a_wrong_entrypoint_is_explained(
    entrypoint: str, args: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidJob, match=message):
        model(entrypoint, **args)


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = (model("mine:build", hidden=1).weight for _ in range(2))
    assert torch.equal(first, second)  # type: ignore[arg-type]


def examples(n: int = 6, **changes: Any) -> Examples:
    """Examples that are in order."""
    fields: dict[str, Any] = {
        "inputs": np.zeros((n, 4), np.float32),
        "labels": np.arange(n) % 3,
        **changes,
    }
    return Examples(**fields)


def nan_inputs() -> Any:
    inputs = np.zeros((6, 4), np.float32)
    inputs[3, 1] = np.nan
    return inputs


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: (1, 2), "returned tuple: return lockstep_workers.data.Dataset"),
        (lambda: Dataset([1], examples()), "train is list: make it lockstep_workers.data"),  # type: ignore[arg-type]
        (lambda: Dataset(examples(inputs=np.zeros((6, 4))), examples()), "float64: convert"),
        (lambda: Dataset(examples(labels=np.zeros(6)), examples()), "labels are float64"),
        (lambda: Dataset(examples(labels=np.zeros((6, 1), int)), examples()), r"shape \(6, 1\)"),
        (lambda: Dataset(examples(labels=np.arange(5)), examples()), "6 inputs and 5 labels"),
        (lambda: Dataset(examples(), examples(0)), "test has no examples"),
        (lambda: Dataset(examples(labels=np.arange(6) - 1), examples()), "labels has -1"),
        (lambda: Dataset(examples(), examples(), classes=2), "label 2, but only 2 classes"),
        (lambda: Dataset(examples(inputs=nan_inputs()), examples()), "not finite: clean"),
        (lambda: Dataset(examples(scale=0.0), examples()), "scale not 0"),
        (lambda: Dataset(examples(users=np.arange(3)), examples()), "users must be one number"),
        (
            lambda: Dataset(examples(), examples(inputs=np.zeros((6, 5), np.float32))),
            "train and test have different shapes",
        ),
    ],
)
def test_a_wrong_data_set_is_explained(made: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidJob, match=message):
        checked(made(), "data.entrypoint mine:load")


def test_classes_are_counted_and_inputs_normalised() -> None:
    dataset = checked(Dataset(examples(mean=1.0, scale=2.0), examples()), "it")
    assert dataset.classes == 3
    x, y = as_batch(dataset.train, np.array([0, 4]))
    assert x.tolist() == [[-0.5] * 4] * 2
    assert y.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(4, 10), r"inputs of shape \(4, 4\) gave \(4, 10\), expected .* \(4, 3\)"),
        (nn.Linear(5, 3), r"made it raise RuntimeError: .*mat1 and mat2"),
        (nn.LSTM(4, 3), r"gave tuple, expected scores of shape \(4, 3\)"),
    ],
)
def test_a_model_that_does_not_fit_is_explained(module: nn.Module, message: str) -> None:
    with pytest.raises(InvalidJob, match=message):
        check_fit(module, checked(Dataset(examples(), examples()), "it"))
    check_fit(nn.Linear(4, 3), checked(Dataset(examples(), examples()), "it"))


def test_the_examples_of_a_user_stay_together() -> None:
    users = np.repeat(np.arange(20), np.arange(1, 21))
    spec = Partition(scheme=PartitionScheme.NATURAL)
    labels = np.zeros(len(users), np.int64)
    parts = partition(labels, [1.0, 1.0, 2.0], spec=spec, seed=3, users=users)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(users)))
    owners = [set(users[part]) for part in parts]
    assert not owners[0] & owners[1]
    assert not owners[1] & owners[2]
    assert [len(part) for part in parts] == pytest.approx([52.5, 52.5, 105], abs=6)
    with pytest.raises(InvalidJob, match="data of 20 users cannot be dealt out to 21 devices"):
        partition(labels, [1.0] * 21, spec=spec, seed=3, users=users)
    with pytest.raises(InvalidJob, match="needs a data set with users"):
        partition(labels, [1.0], spec=spec, seed=3)


def test_the_example_of_the_docs_loads_and_fits(tmp_path: Path) -> None:
    dataset = load_dataset(Data(entrypoint="wine.data:load", args={"held_out": 0.5}), tmp_path)
    assert (len(dataset.train), len(dataset.test), dataset.classes) == (89, 89, 3)
    check_fit(model("wine.model:build", hidden=8), dataset)
