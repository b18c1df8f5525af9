"""How the clients of a round train in one process: as on their devices, whoever else trains."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor, nn

from lockstep_api.spec import CalibrationGradient, Model
from lockstep_simulator.batched import Batched, fastest
from lockstep_simulator.gradients import MOST_VALUES, Gradients, functional, perceptron
from lockstep_simulator.trainers import OneByOne, Order
from lockstep_workers.data import Examples
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.calibrated import Calibration, calibrated
from lockstep_workers.learning.client import Client, Trained
from lockstep_workers.learning.latest import SINCE
from lockstep_workers.learning.parameters import FlatModel, flatten
from lockstep_workers.learning.strategies import fedavg, with_proximal
from lockstep_workers.learning.strategy import MODEL, NO_MEMORY, ClientMemory, Strategy, Vector
from lockstep_workers.learning.training import Sgd
from lockstep_workers.models import build_model, cnn, mlp
from tests.support.strategies import scaffold
from tests.support.tasks import Task

SIZES = (40, 5, 17, 64)
"""Examples of the clients: with batches of 16, whole ones, shorter ones, and less than one."""
PLAIN = Sgd(0.05, 0.0, 16)


def examples(count: int, *, seed: int) -> Examples:
    """Images of noise, with labels."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 1, 28, 28), np.uint8)
    return Examples(images, rng.integers(0, 10, count), mean=70.0, scale=90.0)


def clients(
    module: nn.Module | None = None, *, strategy: Strategy | None = None, sgd: Sgd = PLAIN
) -> dict[str, Client]:
    """Clients of unequal sizes that share a model."""
    model = flatten(module or build_model(Model(name="mlp"), seed=3))
    return {
        f"d-{i}": Client(
            name=f"d-{i}", index=i, examples=examples(size, seed=i), model=model,
            strategy=strategy or fedavg(), sgd=sgd, seed=1,
        )
        for i, size in enumerate(SIZES)
    }  # fmt: skip


def orders(*steps: int, memories: Sequence[ClientMemory] = ()) -> list[Order]:
    """What the first clients are to do in a round."""
    memories = memories or [NO_MEMORY] * len(steps)
    numbers = {SINCE: 0.0}
    return [
        Order(
            f"d-{i}",
            Task(2, count, 1, numbers=numbers) if memory.vectors else Task(1, count),
            memory,
        )
        for i, (count, memory) in enumerate(zip(steps, memories, strict=True))
    ]


def start(of: dict[str, Client]) -> dict[str, Vector]:
    """What everyone receives: the model as it was built, and vectors of about a gradient's size."""
    model = of["d-0"].model.vector.numpy().copy()
    rng = np.random.default_rng(7)
    others = [name for name in of["d-0"].strategy.broadcasts if name != MODEL]
    return {MODEL: model} | {
        name: rng.normal(0, 1e-3, len(model)).astype(np.float32) for name in others
    }


def batched(of: dict[str, Client], gradients: Gradients | None) -> Batched:
    """These clients in groups."""
    assert gradients is not None
    return Batched(OneByOne(of), gradients)


def assert_close(found: Sequence[Trained], expected: Sequence[Trained]) -> None:
    """Whether trainings are the same but for float error, which is far below what they moved."""
    for one, other in zip(found, expected, strict=True):
        assert one.steps == other.steps
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert list(one.uploads) == list(other.uploads)
        for name, vector in other.uploads.items():
            np.testing.assert_allclose(one.uploads[name], vector, rtol=1e-4, atol=2e-6)
        assert one.memory.numbers == other.memory.numbers
        assert list(one.memory.vectors) == list(other.memory.vectors)
        for name, kept in other.memory.vectors.items():
            torch.testing.assert_close(one.memory.vectors[name], kept, rtol=1e-4, atol=2e-5)


class Fails(nn.Module):
    """Raises when it is trained on fewer images than a batch has."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: Tensor) -> Tensor:
        if len(x) < 16:
            raise RuntimeError("too few images")
        scores: Tensor = self.inner(x)
        return scores


def test_clients_that_train_one_by_one_train_as_on_their_devices() -> None:
    given = start(clients())
    done = OneByOne(clients()).train(given, orders(3, 3, 3, 3))
    for i, one in enumerate(done):
        alone = clients()[f"d-{i}"].train(given, Task(1, 3))
        np.testing.assert_array_equal(one.uploads[MODEL], alone.uploads[MODEL])
        assert (one.steps, one.loss) == (alone.steps, alone.loss)


def test_what_the_users_code_raises_names_client_and_round() -> None:
    trainer = OneByOne(clients(Fails()))
    said = r"client d-1: training in round 1 raised RuntimeError: too few images at .*trainers.py:"
    with pytest.raises(InvalidJob, match=said):
        trainer.train(start(clients(Fails())), orders(1, 1))


def layered() -> nn.Module:
    """A small model that is no perceptron: a frozen and a tied parameter, and a normalisation."""
    first, second = nn.Linear(784, 16), nn.Linear(16, 16)
    again = nn.Linear(16, 16)
    again.weight = second.weight
    first.bias.requires_grad_(False)
    return nn.Sequential(
        nn.Flatten(), first, nn.Tanh(), second, nn.LayerNorm(16), again, nn.Linear(16, 10)
    )


def of_perceptron(model: FlatModel) -> Gradients | None:
    """By grouped products."""
    return perceptron(model.module)


@pytest.mark.parametrize(
    ("build", "gradients"),
    [(mlp, of_perceptron), (mlp, functional), (cnn, functional), (layered, functional)],
)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_clients_that_train_together_end_as_one_by_one(
    build: Callable[[], nn.Module],
    gradients: Callable[[FlatModel], Gradients | None],
    momentum: float,
) -> None:
    torch.manual_seed(5)
    module, sgd = build(), Sgd(0.05, momentum, 16)
    made = clients(module, sgd=sgd)
    given = start(made)
    expected = OneByOne(made).train(given, orders(4, 4, 4, 4))
    assert np.abs(expected[0].uploads[MODEL] - given[MODEL]).max() > 1e-2
    found = batched(made, gradients(made["d-0"].model)).train(given, orders(4, 4, 4, 4))
    assert_close(found, expected)


@pytest.mark.parametrize(
    "strategy",
    [
        with_proximal(fedavg(), 0.5),
        scaffold(),
        *(calibrated(Calibration(gradient=kind, minibatches=2)) for kind in CalibrationGradient),
    ],
)
def test_together_each_client_has_its_own_correction_and_memory(strategy: Strategy) -> None:
    made = clients(strategy=strategy)
    given, way = start(made), batched(made, perceptron(made["d-0"].model.module))
    first = OneByOne(made).train(given, orders(4, 4, 4, 4))
    assert_close(way.train(given, orders(4, 4, 4, 4)), first)
    memories = [one.memory for one in first]
    moved = {name: vector + np.float32(1e-3) for name, vector in given.items()}
    second = OneByOne(made).train(moved, orders(4, 4, 4, 4, memories=memories))
    assert_close(way.train(moved, orders(4, 4, 4, 4, memories=memories)), second)


def test_together_clients_may_take_unequal_steps() -> None:
    made = clients()
    given, asked = start(made), orders(2, 9, 1, 5)
    found = batched(made, perceptron(made["d-0"].model.module)).train(given, asked)
    assert [one.steps for one in found] == [2, 9, 1, 5]
    assert_close(found, OneByOne(made).train(given, asked))


def test_what_comes_of_a_client_does_not_depend_on_who_trains_beside_it() -> None:
    made = clients()
    given, asked = start(made), orders(4, 4, 4, 4)
    way = batched(made, perceptron(made["d-0"].model.module))
    assert_close([way.train(given, [one])[0] for one in asked], way.train(given, asked))
    assert_close(way.train(given, asked[::-1])[::-1], way.train(given, asked))


@pytest.mark.parametrize("count", [1, 2, 3, 9, 100])
def test_every_order_is_in_one_group_and_the_longest_come_first(count: int) -> None:
    made = clients()
    asked = [Order("d-0", Task(1, 1 + place % 7), NO_MEMORY) for place in range(count)]
    units = batched(made, perceptron(made["d-0"].model.module)).units(asked)
    places = [place for unit in units for place in unit]
    assert sorted(places) == list(range(count))
    steps = [asked[place].task.steps for place in places]
    assert steps == sorted(steps, reverse=True)
    assert max(map(len, units)) - min(map(len, units)) <= 1


@pytest.mark.parametrize(("steps", "groups"), [(1, 1), (40, 4)])
def test_only_work_that_is_worth_it_is_split_for_several_processes(steps: int, groups: int) -> None:
    made = clients()
    asked = [Order("d-0", Task(1, steps), NO_MEMORY) for _ in range(8)]
    assert len(batched(made, perceptron(made["d-0"].model.module)).units(asked)) == groups


class MixesExamples(nn.Module):
    """Scores that depend on the other examples of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.inner(x - x.mean(dim=0))
        return scores


class Decides(nn.Module):
    """Looks at values to choose what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.inner(x if float(x.sum()) > 0 else -x)
        return scores


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (cnn, "Conv2d layers are faster one by one"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(784, 10)), "random"),
        (MixesExamples, "its gradients are others then"),
        (Decides, "trying it raised RuntimeError"),
        (lambda: mlp(hidden=2048), f"1,628,170 values, more than {MOST_VALUES:,}"),
    ],
)
def test_models_that_cannot_train_together_train_one_by_one(
    build: Callable[[], nn.Module], why: str
) -> None:
    made = clients(build())
    given, asked = start(made), orders(2, 2)
    with capture_logs() as logs:
        way = fastest(OneByOne(made))
    assert [one["event"] for one in logs] == ["clients train one by one"]
    assert why in logs[0]["why"]
    np.testing.assert_array_equal(made["d-0"].model.vector, given[MODEL])
    for one, other in zip(way.train(given, asked), OneByOne(made).train(given, asked), strict=True):
        np.testing.assert_array_equal(one.uploads[MODEL], other.uploads[MODEL])


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(784, 10, bias=False)),
        nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.GELU(), nn.Linear(8, 10)),
        nn.Sequential(nn.Flatten(2), nn.Linear(784, 10)),
        nn.Sequential(),
        layered(),
    ],
)
def test_other_models_are_no_perceptrons(module: nn.Module) -> None:
    assert perceptron(module) is None


def test_a_perceptron_with_hooks_is_left_to_itself() -> None:
    module = mlp()
    assert perceptron(module) is not None
    module[1].register_forward_pre_hook(lambda _module, given: given)  # type: ignore[index]
    assert perceptron(module) is None


def test_a_group_of_which_one_raises_tells_whose_client_it_was() -> None:
    def gradients(_weights: Tensor, _batch: object, *, into: Tensor) -> Tensor:
        raise RuntimeError(f"something in the group of {len(into)}")

    made = clients(Fails())
    way = Batched(OneByOne(made), gradients)
    with pytest.raises(InvalidJob, match=r"client d-1: training in round 1 raised RuntimeError"):
        way.train(start(made), orders(1, 1))
