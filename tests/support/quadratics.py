"""Jobs whose clients have quadratic losses, so that where they should end is known.

The server, its sums and the strategies are the real ones; only a client's examples are a formula.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lockstep_workers.learning.server import Server
from lockstep_workers.learning.strategy import (
    MODEL,
    NO_MEMORY,
    ClientMemory,
    Contribution,
    LocalPlan,
    LocalResult,
    Strategy,
    Vector,
)


@dataclass(frozen=True)
class Quadratic:
    """A client with the loss ½·Σ curvature·(x − optimum)²."""

    curvature: tuple[float, ...]
    optimum: tuple[float, ...]
    steps: int
    examples: int = 1

    def gradient(self, weights: Tensor) -> Tensor:
        """Of the whole loss."""
        return torch.tensor(self.curvature) * (weights - torch.tensor(self.optimum))


@dataclass(frozen=True)
class Update:
    """What a client gave, and what it remembers should that count."""

    client: str
    flat: Vector
    contribution: Contribution
    memory: ClientMemory


@dataclass
class QuadraticJob:
    """A job under way; its rounds are played as they are asked for."""

    strategy: Strategy
    clients: Mapping[str, Quadratic]
    learning_rate: float
    momentum: float = 0.0
    server: Server = field(init=False)
    round: int = 0
    counted: dict[str, int] = field(default_factory=dict)
    """The round of each client's last update that is in the model."""
    memories: dict[str, ClientMemory] = field(default_factory=dict)
    """What those clients remember that have not lost it."""

    def __post_init__(self) -> None:
        """At zero."""
        module = nn.Linear(self._n(), 1, bias=False)
        nn.init.zeros_(module.weight)
        held = {name: one.examples for name, one in self.clients.items()}
        self.server = Server(self.strategy, module, examples=held)

    @property
    def model(self) -> Vector:
        """The global model, (n,)."""
        return self.server.state.vectors[MODEL].copy()

    def go_to(self, weights: Sequence[float] | NDArray[np.floating]) -> None:
        """Puts the model somewhere."""
        self.server.move({MODEL: np.asarray(weights, np.float32)})

    def play(self, rounds: int = 1, participants: Sequence[str] | None = None) -> Vector:
        """Rounds of all clients, or of these, in this order, all of whose updates count."""
        for _ in range(rounds):
            self.begin(participants)
            self.end([self.train(name) for name in participants or self.clients])
        return self.model

    def begin(self, participants: Sequence[str] | None = None) -> None:
        """Begins a round."""
        self.round += 1
        self._participants = list(participants or self.clients)
        self.server.begin(self.round, self._participants)

    def train(self, name: str, *, steps: int | None = None) -> Update:
        """A client's part of the round."""
        client, vector = self.clients[name], torch.from_numpy
        done = client.steps if steps is None else steps
        received = {one: vector(v.copy()) for one, v in self.server.broadcast().items()}
        memory, weights = self.memories.get(name, NO_MEMORY), received[MODEL].clone()
        part = self.strategy.begin(
            received, plan=self._plan(name), memory=memory,
            probe=lambda minibatches=None: client.gradient(received[MODEL]),
        )  # fmt: skip
        velocity = torch.zeros_like(weights)
        for _ in range(done):
            gradient = client.gradient(weights)
            if part.correct is not None:
                part.correct(weights, gradient)
            velocity = self.momentum * velocity + gradient
            weights -= self.learning_rate * velocity
        uploads, remembered = part.finish(LocalResult(weights, done, client.examples))
        flat = np.concatenate([uploads[one].numpy() for one in self.strategy.uploads])
        counted = self.counted.get(name)
        known = counted if name in self.memories else None
        return Update(name, flat, Contribution(client.examples, done, known, counted), remembered)

    def end(self, updates: Sequence[Update]) -> None:
        """Ends the round with these updates; those that were not handed in are lost."""
        for update in updates:
            self.server.add(update.client, update.flat, contribution=update.contribution)
        self.server.aggregate()
        for update in updates:
            self.counted[update.client] = self.round
            self.memories[update.client] = update.memory

    def _plan(self, name: str) -> LocalPlan:
        asked = [self.clients[one] for one in self._participants]
        examples = sum(one.examples for one in asked)
        return LocalPlan(
            self.round,
            self.clients[name].steps,
            self.learning_rate,
            self.momentum,
            base_round=self.counted.get(name),
            mean_steps=sum(one.examples * one.steps for one in asked) / examples,
            numbers=self.server.state.numbers,
        )

    def _n(self) -> int:
        return len(next(iter(self.clients.values())).optimum)


def true_optimum(clients: Mapping[str, Quadratic]) -> NDArray[np.float64]:
    """Where the sum of the losses, weighted by examples, is least, (n,)."""
    curvatures = np.array([one.examples * np.array(one.curvature) for one in clients.values()])
    optima = np.array([one.optimum for one in clients.values()])
    best: NDArray[np.float64] = (curvatures * optima).sum(axis=0) / curvatures.sum(axis=0)
    return best
