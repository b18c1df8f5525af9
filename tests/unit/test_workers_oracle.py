"""The same curves as other authors' code: FedLab plays the same clients, seeds and mini-batches.

FedLab has SCAFFOLD and FedNova; FedAvgM is its FedAvg with torch's own SGD as the server's
optimiser, which is how Hsu et al. 2019 define it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lockstep_workers.data import Examples, as_batch
from lockstep_workers.learning.client import Client
from lockstep_workers.learning.evaluation import evaluate
from lockstep_workers.learning.normalised import with_normalised_steps
from lockstep_workers.learning.parameters import flatten, use_vector
from lockstep_workers.learning.scaffold import scaffold
from lockstep_workers.learning.server import Server
from lockstep_workers.learning.server_optimizer import with_server_optimizer
from lockstep_workers.learning.strategies import fedavg
from lockstep_workers.learning.strategy import NO_MEMORY, Contribution, Strategy
from lockstep_workers.learning.training import Sgd, batches
from lockstep_workers.models import mlp
from tests.support.fedlab import (
    QUIET,
    Aggregators,
    FedNovaSerialClientTrainer,
    FedNovaServerHandler,
    ScaffoldSerialClientTrainer,
    ScaffoldServerHandler,
    SGDSerialClientTrainer,
)
from tests.support.tasks import Task

RATE, BATCH, SEED, ROUNDS = 0.05, 8, 3, 8
STEPS = (1, 7, 3, 12, 5, 2)
CLIENTS = range(len(STEPS))
HELD = 24
FULL = [list(CLIENTS)] * ROUNDS
SAMPLED = [
    sorted(np.random.default_rng(number).choice(len(STEPS), 3, replace=False).tolist())
    for number in range(ROUNDS)
]
PARTICIPATION = pytest.mark.parametrize("rounds", [FULL, SAMPLED], ids=["full", "sampled"])


def skewed(index: int) -> Examples:
    """A client's examples: noise, of few labels."""
    rng = np.random.default_rng(100 + index)
    labels = rng.choice([index, (index + 1) % 10], HELD).astype(np.int64)
    images = rng.integers(0, 256, (HELD, 1, 28, 28), np.uint8)
    images[np.arange(HELD), 0, labels, :] = 255
    return Examples(images, labels, scale=255.0)


DATA = [skewed(index) for index in CLIENTS]
ALL = Examples(
    np.concatenate([one.inputs for one in DATA]),
    np.concatenate([one.labels for one in DATA]),
    scale=255.0,
)


def module() -> nn.Module:
    torch.manual_seed(SEED)
    return mlp(hidden=8)


@dataclass(frozen=True)
class Curve:
    """The model after each round, and its loss on all examples."""

    models: list[NDArray[np.float32]]
    losses: list[float]


def curve_of(models: Iterator[NDArray[np.float32]]) -> Curve:
    flat, seen = flatten(module()), [vector.copy() for vector in models]
    losses = [evaluate(use_vector(flat, torch.from_numpy(one)), ALL).loss for one in seen]
    return Curve(seen, losses)


def ours(strategy: Strategy, rounds: Sequence[list[int]]) -> Curve:
    """The curve of this project's client and server."""

    def played() -> Iterator[NDArray[np.float32]]:
        server = Server(strategy, module(), examples={f"d-{i}": HELD for i in CLIENTS})
        model = flatten(module())
        clients = [
            Client(
                name=f"d-{i}", index=i, examples=DATA[i], model=model, strategy=strategy,
                sgd=Sgd(RATE, 0.0, BATCH), seed=SEED,
            )
            for i in CLIENTS
        ]  # fmt: skip
        memories, counted = dict.fromkeys(CLIENTS, NO_MEMORY), dict[int, int]()
        for number, chosen in enumerate(rounds, 1):
            server.begin(number, [f"d-{i}" for i in chosen])
            for i in chosen:
                last, numbers = counted.get(i), server.state.numbers
                task = Task(number, STEPS[i], base_round=last, numbers=numbers)
                done = clients[i].train(server.broadcast(), task, memory=memories[i])
                flat = np.concatenate(list(done.uploads.values()))
                given = Contribution(HELD, done.steps, memory_round=last, counted_round=last)
                server.add(f"d-{i}", flat, contribution=given)
                memories[i], counted[i] = done.memory, number
            server.aggregate()
            yield server.state.vectors["model"]

    return curve_of(played())


class Loaders:
    """FedLab's data set: the very mini-batches that our clients draw in a round."""

    def __init__(self) -> None:
        self.round = 0

    def get_dataloader(self, index: int, batch_size: int) -> list[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng(np.random.SeedSequence((SEED, index, self.round)))
        drawn = batches(HELD, batch_size=batch_size, rng=rng)
        return [as_batch(DATA[index], next(drawn)) for _ in range(STEPS[index])]


def theirs(handler: Any, trainer: Any, rounds: Sequence[list[int]]) -> Curve:
    """The curve of FedLab's server and clients."""

    def played() -> Iterator[NDArray[np.float32]]:
        handler.num_clients = len(STEPS)
        trainer.setup_dataset(Loaders())
        trainer.setup_optim(epochs=1, batch_size=BATCH, lr=RATE)
        for number, chosen in enumerate(rounds, 1):
            trainer.dataset.round = number
            trainer.local_process(handler.downlink_package, chosen)
            for pack in trainer.uplink_package:
                handler.load(pack)
            yield handler.model_parameters.numpy()

    return curve_of(played())


def handler_of(kind: Any, rounds: Sequence[list[int]], **optim: Any) -> Any:
    share = len(rounds[0]) / len(STEPS)
    handler = kind(module(), global_round=ROUNDS, sample_ratio=share, logger=QUIET)
    handler.setup_optim(**optim)
    return handler


def trainer_of(kind: Any) -> Any:
    return kind(module(), len(STEPS), logger=QUIET)


class MomentumServer:
    """FedLab's FedAvg, and torch's SGD on what it asks for."""

    def __init__(self, *, per_round: int, learning_rate: float, momentum: float) -> None:
        self._weights = torch.nn.Parameter(flatten(module()).vector.clone())
        self._optimiser = torch.optim.SGD([self._weights], lr=learning_rate, momentum=momentum)
        self._per_round, self._packs = per_round, list[Tensor]()
        self.num_clients = 0

    @property
    def model_parameters(self) -> Tensor:
        return self._weights.detach().clone()

    @property
    def downlink_package(self) -> list[Tensor]:
        return [self.model_parameters]

    def load(self, pack: list[Tensor]) -> None:
        self._packs.append(pack[0])
        if len(self._packs) == self._per_round:
            self._weights.grad = self.model_parameters - Aggregators.fedavg_aggregate(self._packs)
            self._optimiser.step()
            self._packs.clear()


def assert_same(mine: Curve, other: Curve) -> None:
    """Equal within float error, which is far less than what tells methods apart."""
    np.testing.assert_allclose(mine.losses, other.losses, rtol=2e-5)
    for one, another in zip(mine.models, other.models, strict=True):
        np.testing.assert_allclose(one, another, rtol=0, atol=2e-5)


def assert_differs(mine: Curve, other: Curve) -> None:
    assert np.abs(mine.models[-1] - other.models[-1]).max() > 1e-2
    assert abs(mine.losses[-1] - other.losses[-1]) > 1e-3 * mine.losses[-1]


@PARTICIPATION
@pytest.mark.parametrize("server_rate", [1.0, 0.5])
def test_scaffold_draws_fedlabs_curve(rounds: list[list[int]], server_rate: float) -> None:
    mine = ours(with_server_optimizer(scaffold(), learning_rate=server_rate), rounds)
    handler = handler_of(ScaffoldServerHandler, rounds, lr=server_rate)
    assert_same(mine, theirs(handler, trainer_of(ScaffoldSerialClientTrainer), rounds))
    assert_differs(mine, ours(with_server_optimizer(fedavg(), learning_rate=server_rate), rounds))


@PARTICIPATION
def test_fednova_draws_fedlabs_curve(rounds: list[list[int]]) -> None:
    mine = ours(with_normalised_steps(fedavg(), momentum=0.0), rounds)
    handler = handler_of(FedNovaServerHandler, rounds, option="weighted_com")
    assert_same(mine, theirs(handler, trainer_of(FedNovaSerialClientTrainer), rounds))
    assert_differs(mine, ours(fedavg(), rounds))


@PARTICIPATION
@pytest.mark.parametrize(("rate", "momentum"), [(1.0, 0.5), (0.1, 0.9), (2.0, 0.0)])
def test_fedavgm_draws_the_curve_of_fedlab_and_torch(
    rounds: list[list[int]], rate: float, momentum: float
) -> None:
    mine = ours(with_server_optimizer(fedavg(), learning_rate=rate, momentum=momentum), rounds)
    server = MomentumServer(per_round=len(rounds[0]), learning_rate=rate, momentum=momentum)
    assert_same(mine, theirs(server, trainer_of(SGDSerialClientTrainer), rounds))
    assert_differs(mine, ours(fedavg(), rounds))
