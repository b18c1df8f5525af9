"""A calibrated job on a small network: few take part, labels are skewed, steps are unequal."""

from dataclasses import dataclass

import numpy as np
import torch

from lockstep_workers.data import Examples
from lockstep_workers.learning.calibrated import Calibration, calibrated
from lockstep_workers.learning.client import Client
from lockstep_workers.learning.parameters import FlatModel, flatten
from lockstep_workers.learning.server import Server
from lockstep_workers.learning.strategies import fedavg
from lockstep_workers.learning.strategy import NO_MEMORY, ClientMemory, Contribution, Strategy
from lockstep_workers.learning.training import Sgd
from tests.support.tasks import Task

CLIENTS, TAKE_PART, ROUNDS, LAST = 20, 4, 50, 15
STEPS = {f"d-{i}": 100 if i == 0 else 5 for i in range(CLIENTS)}
"""One client does twenty times the steps of the others."""
INPUTS, CLASSES = 20, 10


@dataclass(frozen=True)
class Data:
    """Noisy prototypes of ten classes; each client has two of them."""

    parts: dict[str, Examples]
    test: Examples

    @classmethod
    def drawn(cls, seed: int) -> "Data":
        """By this seed."""
        rng = np.random.default_rng(seed)
        prototypes = rng.normal(size=(CLASSES, INPUTS))

        def made(labels: np.ndarray) -> Examples:
            noise = 1.5 * rng.normal(size=(len(labels), INPUTS))
            return Examples((prototypes[labels] + noise).astype(np.float32), labels)

        parts = {}
        for name in STEPS:
            own, count = rng.choice(CLASSES, 2, replace=False), int(rng.integers(40, 120))
            parts[name] = made(own[rng.integers(0, 2, count)])
        return cls(parts, made(rng.integers(0, CLASSES, 1000)))


def network(seed: int) -> FlatModel:
    """One hidden layer."""
    torch.manual_seed(seed)
    layers = torch.nn.Linear(INPUTS, 32), torch.nn.ReLU(), torch.nn.Linear(32, CLASSES)
    return flatten(torch.nn.Sequential(*layers))


def accuracy(strategy: Strategy, learning_rate: float, *, seed: int) -> float:
    """The mean over the last rounds."""
    data, model, sgd = Data.drawn(seed), network(seed), Sgd(learning_rate, 0.0, 16)
    clients = {
        name: Client(
            name=name, index=index, examples=part, model=model, strategy=strategy, sgd=sgd,
            seed=seed,
        )
        for index, (name, part) in enumerate(data.parts.items())
    }  # fmt: skip
    held = {name: len(part) for name, part in data.parts.items()}
    server = Server(strategy, network(seed).module, examples=held)
    drawn, counted, reached = np.random.default_rng(seed), dict[str, int](), list[float]()
    memories = dict[str, ClientMemory]()
    for number in range(1, ROUNDS + 1):
        chosen = [str(name) for name in drawn.choice(list(STEPS), TAKE_PART, replace=False)]
        server.begin(number, chosen)
        for name in chosen:
            base = counted.get(name)
            task = Task(number, STEPS[name], base, numbers=server.state.numbers)
            memory = memories.get(name, NO_MEMORY)
            done = clients[name].train(server.broadcast(), task, memory=memory)
            update = np.concatenate(list(done.uploads.values()))
            server.add(name, update, contribution=Contribution(held[name], done.steps, base, base))
            memories[name], counted[name] = done.memory, number
        server.aggregate()
        reached.append(server.evaluate(data.test).accuracy)
    return float(np.mean(reached[-LAST:]))


def test_a_calibrated_job_beats_fedavg_clearly() -> None:
    """At half of the learning rate that suits fedavg best here (of 0.02, 0.05, 0.1 and 0.2)."""
    gains = [
        accuracy(calibrated(Calibration()), 0.05, seed=seed) - accuracy(fedavg(), 0.1, seed=seed)
        for seed in range(3)
    ]
    assert min(gains) > 0.005
    assert np.mean(gains) > 0.025
