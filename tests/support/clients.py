"""Clients that train by saying what they were asked, for tests of what is around a training."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lockstep_api.settings import JobSettings
from lockstep_workers.data import Dataset, Examples
from lockstep_workers.learning.client import Client, LocalTask, Trained, build_client, part_of
from lockstep_workers.learning.parameters import FlatModel, flatten
from lockstep_workers.learning.strategies import fedavg
from lockstep_workers.learning.strategy import NO_MEMORY, ClientMemory, Strategy, Vector
from lockstep_workers.learning.training import Enough, Pace, Sgd
from lockstep_workers.models import mlp


@dataclass(frozen=True, kw_only=True)
class SayingClient(Client):
    """Trains by saying the round's number; remembers in which rounds it trained."""

    trained: list[int] = field(default_factory=list)

    def train(
        self,
        received: Mapping[str, Vector],
        task: LocalTask,
        *,
        memory: ClientMemory = NO_MEMORY,
        pace: Pace | None = None,
        enough: Enough | None = None,
    ) -> Trained:
        """An update with the value of the round in all vectors, after as many steps as asked."""
        self.trained.append(task.round)
        n = self.model.vector.numel()
        said = {name: np.full(n, task.round, np.float32) for name in self.strategy.uploads}
        return Trained(said, NO_MEMORY, task.steps, 1.0)


def examples(count: int = 10) -> Examples:
    """Images of noise, with labels."""
    rng = np.random.default_rng(0)
    return Examples(
        rng.integers(0, 256, (count, 1, 28, 28), np.uint8), rng.integers(0, 10, count), scale=255.0
    )


def client_of(job: JobSettings, name: str, *, dataset: Dataset) -> Client:
    """A client with its part of a data set that is there."""
    return build_client(job, name, examples=dataset.train.part(part_of(job, name)(dataset.train)))


def small_model() -> FlatModel:
    """The model of the tests' job, at its initial weights but for the seed."""
    return flatten(mlp())


def saying_client(
    name: str = "d-0", *, strategy: Strategy | None = None, of: type[SayingClient] = SayingClient
) -> SayingClient:
    """A client of a job of group `d`."""
    return of(
        name=name, index=int(name.rpartition("-")[2]), examples=examples(), model=small_model(),
        strategy=strategy or fedavg(), sgd=Sgd(0.05, 0.9, 16), seed=0,
    )  # fmt: skip
