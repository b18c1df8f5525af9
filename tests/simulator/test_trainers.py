"""How the clients of a round train in one process: as on their devices, whoever else trains."""

import numpy as np
import pytest
from torch import Tensor, nn

from lockstep_api.spec import Model
from lockstep_simulator.trainers import OneByOne, Order
from lockstep_workers.data import Examples
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.client import Client
from lockstep_workers.learning.parameters import flatten
from lockstep_workers.learning.strategies import fedavg
from lockstep_workers.learning.strategy import MODEL, NO_MEMORY, Strategy, Vector
from lockstep_workers.learning.training import Sgd
from lockstep_workers.models import build_model, mlp
from tests.support.tasks import Task

SIZES = (40, 5, 17, 64)


def examples(count: int, *, seed: int) -> Examples:
    """Images of noise, with labels."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 1, 28, 28), np.uint8)
    return Examples(images, rng.integers(0, 10, count), mean=70.0, scale=90.0)


def clients(
    name: str = "mlp",
    *,
    strategy: Strategy | None = None,
    sgd: Sgd | None = None,
    module: nn.Module | None = None,
) -> dict[str, Client]:
    """Clients of unequal sizes that share a model."""
    model = flatten(module or build_model(Model(name=name), seed=3))
    return {
        f"d-{i}": Client(
            name=f"d-{i}", index=i, examples=examples(size, seed=i), model=model,
            strategy=strategy or fedavg(), sgd=sgd or Sgd(0.05, 0.0, 16), seed=1,
        )
        for i, size in enumerate(SIZES)
    }  # fmt: skip


def orders(*steps: int) -> list[Order]:
    """What the first clients are to do in round 1."""
    return [Order(f"d-{i}", Task(1, count), NO_MEMORY) for i, count in enumerate(steps)]


def start(of: dict[str, Client]) -> dict[str, Vector]:
    """What everyone receives: a copy of the model as it was built."""
    return {MODEL: of["d-0"].model.vector.numpy().copy()}


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
    trainer = OneByOne(clients(module=Fails()))
    said = r"client d-1: training in round 1 raised RuntimeError: too few images at .*trainers.py:"
    with pytest.raises(InvalidJob, match=said):
        trainer.train(start(clients()), orders(1, 1))
