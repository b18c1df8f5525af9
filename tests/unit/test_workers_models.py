"""Built-in models beside mlp and cnn, models of two halves, and the cloud's half."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lockstep_api.spec import Distillation, Model
from lockstep_workers.errors import InvalidJob
from lockstep_workers.models import build_cloud_model, build_model
from lockstep_workers.residual import deeper

RESIDUAL = ("resnet10", "resnet18")
LAYERS = ["stem", "stage1", "stage2", "stage3", "stage4", "head"]

HALVES = """
from torch import nn

def front(hidden=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(6, hidden), nn.ReLU())

def back(hidden=4):
    return nn.Linear(hidden, 3)

def cloud(hidden=4):
    return nn.Sequential(nn.Linear(hidden, 8), nn.ReLU(), nn.Linear(8, 3))

def too_many(hidden=4):
    return nn.Linear(hidden, 5)

def flattening(hidden=4):
    return nn.Linear(hidden + 1, 3)

def nothing(hidden=4):
    return None
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module `own_halves` of the user."""
    (tmp_path / "own_halves.py").write_text(HALVES)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_halves", None)


def built(name: str, **args: Any) -> nn.Module:
    return build_model(Model.model_validate({"name": name, "args": args}), seed=1)


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("colours", "side"), [(3, 32), (1, 28), (1, 8)])
@pytest.mark.parametrize("name", RESIDUAL)
def test_residual_models_take_images_of_these_sizes(name: str, colours: int, side: int) -> None:
    model = built(name, channels=8, classes=7, colours=colours, height=side, width=side)
    assert model(images(2, colours, side, side)).shape == (2, 7)


@pytest.mark.parametrize("name", RESIDUAL)
def test_the_layers_of_a_residual_model_can_run_one_after_the_other(name: str) -> None:
    """It can be cut behind each: what a layer gives is all that the next one needs."""
    model, x = built(name, channels=8), images(2, 3, 32, 32)
    assert [layer for layer, _ in model.named_children()] == LAYERS
    whole = model(x)
    for layer in model.children():
        x = layer(x)
    assert torch.equal(x, whole)


@pytest.mark.parametrize("name", RESIDUAL)
def test_an_example_is_seen_alike_in_every_batch(name: str) -> None:
    """As with no statistics over a batch: a cluster's batch comes from several devices."""
    model, x = built(name, channels=8), images(3, 3, 16, 16)
    one_by_one = torch.cat([model(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(model(x), one_by_one, rtol=1e-5, atol=1e-5)


def test_the_deeper_residual_model_has_twice_the_blocks() -> None:
    def blocks(name: str) -> int:
        return sum(type(layer).__name__ == "Residual" for layer in built(name).modules())

    assert (blocks("resnet10"), blocks("resnet18")) == (4, 8)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"channels": 12}, "channels must be a positive multiple of 8, not 12"),
        ({"height": 4}, "height and width must be at least 8 pixels, not 4"),
        ({"classes": 0}, "classes must be a positive whole number, not 0"),
        ({"colours": "red"}, "colours must be a positive whole number, not 'red'"),
        ({"depth": 3}, "unexpected keyword"),
    ],
)
def test_arguments_that_a_residual_model_does_not_take(args: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidJob, match=f"model.args do not fit model resnet10: .*{message}"):
        built("resnet10", **args)


@pytest.mark.parametrize(
    "shape", [(16, 14, 14), (16, 32, 32), (64, 8, 8), (32, 7, 7), (8, 2, 2), (128,), (8, 1, 1)]
)
def test_a_deeper_model_takes_activations_of_every_shape(shape: tuple[int, ...]) -> None:
    model = deeper(shape, classes=7)
    assert model(images(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(("name", "cut"), [("cnn", 3), ("resnet10", 1), ("mlp", 2)])
def test_the_cloud_model_is_deeper_than_what_it_stands_for(name: str, cut: int) -> None:
    """More layers with weights, and more weights."""
    model = built(name)
    side, colours = (28, 1) if name != "resnet10" else (32, 3)
    front, back = model[: cut + 1], model[cut + 1 :]  # type: ignore[index]
    shape = front(images(1, colours, side, side)).shape[1:]
    cloud = build_cloud_model(Distillation(), shape, classes=10, seed=0, args={})

    def depth(module: nn.Module) -> int:
        """Layers on the longest way through: shortcuts do not count."""
        shapes = [p.shape for name, p in module.named_parameters() if name.endswith("weight")]
        return sum(len(s) == 2 or (len(s) == 4 and s[-1] > 1) for s in shapes)

    def weights(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert weights(cloud) > weights(back)
    assert depth(cloud) > depth(back)


def test_a_cloud_model_follows_its_seed() -> None:
    def weights(seed: int) -> list[float]:
        model = build_cloud_model(Distillation(), (4,), classes=3, seed=seed, args={})
        return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).tolist()

    assert weights(1) == weights(1) != weights(2)


def test_a_model_of_two_functions_has_the_layers_front_and_back(own: None) -> None:
    halves = {"front": "own_halves:front", "back": "own_halves:back", "args": {"hidden": 5}}
    model = build_model(Model.model_validate(halves), seed=0)
    assert [name for name, _ in model.named_children()] == ["front", "back"]
    assert model(images(2, 6)).shape == (2, 3)
    assert [tuple(p.shape) for p in model.parameters()] == [(5, 6), (5,), (3, 5), (3,)]


def test_a_half_that_is_no_module_is_named(own: None) -> None:
    halves = {"front": "own_halves:front", "back": "own_halves:nothing"}
    message = "model.back own_halves:nothing returned NoneType: return a torch.nn.Module"
    with pytest.raises(InvalidJob, match=message):
        build_model(Model.model_validate(halves), seed=0)


def cloud_of(function: str, **args: Any) -> nn.Module:
    spec = Distillation.model_validate({"cloudEntrypoint": f"own_halves:{function}"})
    return build_cloud_model(spec, (4,), classes=3, seed=0, args=args)


def test_a_cloud_model_of_ones_own_gets_the_models_arguments(own: None) -> None:
    assert cloud_of("cloud", hidden=4)(images(2, 4)).shape == (2, 3)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("too_many", r"activations of shape \(4, 4\) gave \(4, 5\), expected scores of .*\(4, 3\)"),
        ("flattening", r"activations of shape \(4, 4\) made it raise .*model\.cut"),
        ("nothing", "distillation.cloudEntrypoint own_halves:nothing returned NoneType"),
        ("missing", "distillation.cloudEntrypoint own_halves:missing: .* has no function missing"),
    ],
)
def test_a_cloud_model_that_does_not_fit_is_explained(
    own: None, function: str, message: str
) -> None:
    with pytest.raises(InvalidJob, match=message):
        cloud_of(function)
