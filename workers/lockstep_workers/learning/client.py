"""The client side of a strategy: local training from received vectors to the vectors of an update.

Called by a device's loop, or by whoever plays a job's rounds in one process. Between two rounds a
client keeps nothing: what the strategy remembers is given back, and handed in again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lockstep_api.settings import JobSettings
from lockstep_workers.data import Choose, Examples, Labelled
from lockstep_workers.entrypoints import explained
from lockstep_workers.learning.constants import unchanged
from lockstep_workers.learning.parameters import FlatModel, flatten
from lockstep_workers.learning.partition import Indices, partition
from lockstep_workers.learning.probing import gradient_at
from lockstep_workers.learning.strategies import strategy_of
from lockstep_workers.learning.strategy import (
    MODEL,
    NO_MEMORY,
    ClientMemory,
    LocalPart,
    LocalPlan,
    LocalResult,
    Strategy,
    Vector,
)
from lockstep_workers.learning.training import Enough, Pace, Sgd, Steps, train
from lockstep_workers.models import build_model


class LocalTask(Protocol):
    """What a client is asked to do in a round; a `lockstep_api.wire.Task` is one."""

    @property
    def round(self) -> int:
        """The round, from 1."""

    @property
    def steps(self) -> int:
        """SGD steps asked for, at most."""

    @property
    def base_round(self) -> int | None:
        """The round of the client's last update that is in the model; None: none is."""

    @property
    def mean_steps(self) -> float:
        """Mean of the steps asked of the round's participants, weighted by examples."""

    @property
    def numbers(self) -> Mapping[str, float]:
        """Of the server's state."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A client's part of a round."""

    uploads: Mapping[str, Vector]
    """What goes to the server, in order; valid until the client's model is trained again."""
    memory: ClientMemory
    """What is to be remembered, should the server take the update; shares no memory."""
    steps: int
    """SGD steps really done."""
    loss: float
    """Mean training loss over them, in nats."""


@dataclass(frozen=True, kw_only=True)
class Client:
    """Trains one client's examples."""

    name: str
    index: int
    """Its place among the job's clients; with seed and round it seeds a training."""
    examples: Examples
    model: FlatModel
    """Where it trains: clients that train one after another may share it."""
    strategy: Strategy
    sgd: Sgd
    seed: int
    """The job's."""
    private: bool = False
    """It is hidden: what it says of its training tells nothing of its examples."""

    @property
    def n_received(self) -> int:
        """Values of all vectors that it receives with a task."""
        return self.model.vector.numel() * len(self.strategy.broadcasts)

    def train(
        self,
        received: Mapping[str, Vector],
        task: LocalTask,
        *,
        memory: ClientMemory = NO_MEMORY,
        pace: Pace | None = None,
        enough: Enough | None = None,
    ) -> Trained:
        """Local training from the received vectors, which stay as they are.

        Args:
            received: the strategy's broadcasts by name; must not change before this returns.
            task: round, steps, and what the server tells of its state.
            memory: what was remembered in the last round that counted.
            pace: called between steps and may hold them up.
            enough: asked between steps whether to end before all that were asked for are done.
        """
        with unchanged(self.model.module):
            part = self.begin(received, task, memory=memory, pace=pace)
            steps = train(
                self.model,
                self.examples,
                steps=task.steps,
                sgd=self.sgd,
                correction=part.correct,
                seed=self.seed_of(task),
                pace=pace,
                enough=enough,
            )
        return self.finish(part, self.model.vector, steps=steps, received=received)

    def seed_of(self, task: LocalTask) -> tuple[int, ...]:
        """Entropy of a training: of its mini-batches, and of what the model draws."""
        return (self.seed, self.index, task.round)

    def begin(
        self,
        received: Mapping[str, Vector],
        task: LocalTask,
        *,
        memory: ClientMemory = NO_MEMORY,
        pace: Pace | None = None,
    ) -> LocalPart:
        """A training up to its first step, for who takes the steps: its model is the received one.

        Arguments as `train`.
        """
        given = {name: torch.from_numpy(vector) for name, vector in received.items()}
        with torch.no_grad():
            self.model.vector.copy_(given[MODEL])
        plan = LocalPlan(
            task.round,
            task.steps,
            self.sgd.learning_rate,
            self.sgd.momentum,
            base_round=task.base_round,
            mean_steps=task.mean_steps,
            numbers=task.numbers,
        )

        def probe(minibatches: int | None = None) -> Tensor:
            return gradient_at(
                self.model,
                self.examples,
                minibatches=minibatches,
                batch_size=self.sgd.batch_size,
                seed=(self.seed, self.index, task.round, 1),
                pace=pace,
            )

        return self.strategy.begin(given, plan=plan, memory=memory, probe=probe)

    def finish(
        self, part: LocalPart, weights: Tensor, *, steps: Steps, received: Mapping[str, Vector]
    ) -> Trained:
        """What a training comes to whose steps ended at these weights."""
        uploads, remembered = part.finish(LocalResult(weights, steps.done, len(self.examples)))
        return Trained(
            {name: uploads[name].numpy() for name in self.strategy.uploads},
            self._own(remembered, [*received.values(), weights.numpy()]),
            steps.done,
            steps.loss,
        )

    def _own(self, memory: ClientMemory, lent: list[Vector]) -> ClientMemory:
        """The same memory with copies of what lies in vectors that will be written to."""

        def own(vector: Tensor) -> Tensor:
            shared = any(np.may_share_memory(vector.numpy(), one) for one in lent)
            return vector.clone() if shared else vector

        vectors = {name: own(memory.vectors[name]) for name in self.strategy.remembers}
        return replace(memory, vectors=vectors) if vectors else NO_MEMORY


def deal(job: JobSettings, examples: Labelled) -> list[Indices]:
    """Which of the training examples each client of a job holds; errors as `partition`."""
    with explained("dealing the training examples out raised"):
        return partition(
            examples.labels,
            job.data_shares(),
            spec=job.data.partition,
            seed=job.training.seed,
            users=examples.users,
        )


def part_of(job: JobSettings, name: str) -> Choose:
    """Which of the training examples a client of a job holds; errors as `partition`."""
    index = job.clients().index(name)
    return lambda examples: deal(job, examples)[index]


def sgd_of(job: JobSettings) -> Sgd:
    """How the clients of a job train."""
    training = job.training
    return Sgd(training.learning_rate, training.momentum, training.batch_size)


def build_client(job: JobSettings, name: str, *, examples: Examples) -> Client:
    """A client of a job with its own part of the training examples.

    Raises:
        InvalidJob: the settings ask for what cannot be done.
    """
    training = job.training
    return Client(
        name=name,
        index=job.clients().index(name),
        examples=examples,
        model=flatten(build_model(job.model, seed=training.seed)),
        strategy=strategy_of(job),
        sgd=sgd_of(job),
        seed=training.seed,
        private=job.privacy is not None,
    )
