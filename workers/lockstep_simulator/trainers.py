"""How the clients of a round train in one process; the simulation calls it once a round.

Invariant: what comes of a client's order depends on that order and what was received alone: not on
who else trains in the round, nor on where.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from lockstep_api.settings import JobSettings
from lockstep_workers.data import Dataset, Examples
from lockstep_workers.entrypoints import explained
from lockstep_workers.learning.client import Client, LocalTask, Trained, deal, sgd_of
from lockstep_workers.learning.parameters import FlatModel, flatten
from lockstep_workers.learning.strategies import strategy_of
from lockstep_workers.learning.strategy import ClientMemory, Vector
from lockstep_workers.models import build_model


@dataclass(frozen=True, slots=True)
class Order:
    """What one client is to do in a round."""

    client: str
    task: LocalTask
    memory: ClientMemory
    """What it remembers that fits the task."""


def training(order: Order) -> str:
    """What is done for an order, when it has raised something."""
    return f"client {order.client}: training in round {order.task.round} raised"


class Trainer(Protocol):
    """Trains clients."""

    def train(self, received: Mapping[str, Vector], orders: Sequence[Order]) -> list[Trained]:
        """What each order comes to, in their order; shares no memory with what is given.

        Raises:
            InvalidJob: the user's code raised, or the model cannot be trained so.
        """


def build_clients(job: JobSettings, dataset: Dataset) -> dict[str, Client]:
    """All clients of a job by name; they share one model, so they train one after another.

    Raises:
        InvalidJob: the settings ask for what cannot be done.
    """
    parts = deal(job, dataset.train)
    model = flatten(build_model(job.model, seed=job.training.seed))
    return clients_of(job, [dataset.train.part(part) for part in parts], model=model)


def clients_of(
    job: JobSettings, held: Sequence[Examples], *, model: FlatModel
) -> dict[str, Client]:
    """All clients of a job by name, each with the examples that it holds; errors as above."""
    sgd = sgd_of(job)
    strategy = strategy_of(job)
    return {
        name: Client(
            name=name,
            index=index,
            examples=examples,
            model=model,
            strategy=strategy,
            sgd=sgd,
            seed=job.training.seed,
            private=job.privacy is not None,
        )
        for index, (name, examples) in enumerate(zip(job.clients(), held, strict=True))
    }


class Way(Trainer, Protocol):
    """How clients train; where and when a unit is done does not matter to what comes of it."""

    @property
    def clients(self) -> Mapping[str, Client]:
        """Those who train; they share a model."""

    @property
    def most(self) -> int:
        """Orders of a unit, at most."""

    def units(self, orders: Sequence[Order]) -> list[list[int]]:
        """Places of the orders that are done together: every one once, the longest first."""

    def train_unit(self, received: Mapping[str, Vector], orders: Sequence[Order]) -> list[Trained]:
        """What the orders of a unit come to, in their order; errors as `Trainer.train`."""


def train_all(
    way: Way, received: Mapping[str, Vector], *, orders: Sequence[Order]
) -> list[Trained]:
    """All units, one after another, in this process; errors as `Trainer.train`."""
    done: dict[int, Trained] = {}
    for places in way.units(orders):
        trained = way.train_unit(received, [orders[place] for place in places])
        done.update(zip(places, trained, strict=True))
    return [done[place] for place in range(len(orders))]


@dataclass(frozen=True, slots=True)
class OneByOne:
    """Trains one client after another, as each does on its device."""

    clients: Mapping[str, Client]
    own: str | None = None
    """The user's function that made their model; None: it is a built-in one."""

    @property
    def most(self) -> int:
        """One."""
        return 1

    def units(self, orders: Sequence[Order]) -> list[list[int]]:
        """Each alone; those with most steps first."""
        return [[place] for place in by_steps(orders)]

    def train_unit(self, received: Mapping[str, Vector], orders: Sequence[Order]) -> list[Trained]:
        """As `Way.train_unit`."""
        return [self._train(received, order) for order in orders]

    def train(self, received: Mapping[str, Vector], orders: Sequence[Order]) -> list[Trained]:
        """As `Trainer.train`."""
        return train_all(self, received, orders=orders)

    def _train(self, received: Mapping[str, Vector], order: Order) -> Trained:
        with explained(training(order), own=self.own):
            done = self.clients[order.client].train(received, order.task, memory=order.memory)
        return replace(done, uploads={name: value.copy() for name, value in done.uploads.items()})


def by_steps(orders: Sequence[Order]) -> list[int]:
    """Places of the orders, those with most steps first."""
    return sorted(range(len(orders)), key=lambda place: -orders[place].task.steps)
