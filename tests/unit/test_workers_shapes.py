"""The data set that is drawn: balanced, the same everywhere, and not for a linear model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lockstep_api.spec import Data
from lockstep_workers.data import Dataset, load_dataset
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.evaluation import evaluate
from lockstep_workers.learning.parameters import flatten
from lockstep_workers.learning.training import Sgd, train
from lockstep_workers.residual import resnet10
from lockstep_workers.shapes import images

LINEAR_AT_MOST, RESIDUAL_AT_LEAST = 0.2, 0.3


def drawn(**args: Any) -> Dataset:
    return load_dataset(Data(name="shapes32", args=args), Path("nowhere"))


def test_every_class_has_as_many_images() -> None:
    dataset = drawn(train=120, test=50)
    assert np.bincount(dataset.train.labels).tolist() == [12] * 10
    assert np.bincount(dataset.test.labels).tolist() == [5] * 10
    assert dataset.classes == 10
    assert dataset.train.inputs.shape == (120, 3, 32, 32)
    assert dataset.train.inputs.dtype == np.uint8


def test_images_depend_on_the_seed_alone() -> None:
    def bytes_of(dataset: Dataset) -> list[bytes]:
        parts = (dataset.train, dataset.test)
        return [array.tobytes() for one in parts for array in (one.inputs, one.labels)]

    first, same, other = (bytes_of(drawn(train=30, test=20, seed=s)) for s in (3, 3, 4))
    assert first == same
    assert not set(first) & set(other)


def test_held_out_images_are_others() -> None:
    dataset = drawn(train=20, test=20)
    assert not np.array_equal(dataset.train.inputs, dataset.test.inputs)


def test_images_of_more_than_one_block_are_all_drawn() -> None:
    pixels, labels = images(1010, seed=(0,))
    assert pixels.std(axis=(1, 2, 3)).min() > 0
    assert np.bincount(labels).tolist() == [101] * 10


def test_colours_tell_nothing() -> None:
    """The mean image of a class has the colour of all of them: a linear model has little to see."""
    pixels, labels = images(2000, seed=(1,))
    by_class = np.stack([pixels[labels == label].mean(axis=(0, 2, 3)) for label in range(10)])
    assert np.abs(by_class - pixels.mean(axis=(0, 2, 3))).max() < 15


def accuracy(module: nn.Module, dataset: Dataset, *, rate: float) -> float:
    model = flatten(module)
    sgd = Sgd(rate, momentum=0.9, batch_size=32)
    train(model, dataset.train, steps=300, sgd=sgd, correction=None, seed=(0,))
    return evaluate(model, dataset.test).accuracy


def test_a_residual_model_learns_what_a_linear_one_cannot() -> None:
    dataset = drawn(train=1500, test=300)
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    residual = resnet10(channels=8)
    assert accuracy(linear, dataset, rate=0.001) < LINEAR_AT_MOST
    assert accuracy(residual, dataset, rate=0.05) > RESIDUAL_AT_LEAST


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"train": 5}, "data.args.train of shapes32 is 5: make it a whole number from 10"),
        ({"test": "many"}, "data.args.test of shapes32 is 'many': make it a whole number"),
        ({"train": True}, "data.args.train of shapes32 is True"),
        ({"seed": -1}, "data.args.seed of shapes32 is -1"),
        ({"side": 64}, "data.args of shapes32 has side: it takes train, test and seed only"),
    ],
)
def test_arguments_that_the_set_does_not_take(args: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidJob, match=message):
        drawn(**args)


def test_an_unknown_set_is_told_which_there_are() -> None:
    with pytest.raises(InvalidJob, match="use fashion-mnist or shapes32"):
        load_dataset(
            Data(name="fashion-mnist").model_copy(update={"name": "mnist"}), Path("nowhere")
        )
