"""The other end of `processes`: a process that trains the units that it is handed.

Invariant: it ends when its connection does, so with the process that started it, however that ends.
"""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import Connection

import numpy as np
import torch

from lockstep_api.settings import JobSettings
from lockstep_simulator.batched import batched
from lockstep_simulator.shared import Arena, SharedArray
from lockstep_simulator.trainers import OneByOne, Way, clients_of
from lockstep_workers.data import Examples
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.client import Client
from lockstep_workers.learning.constants import pack, unpack
from lockstep_workers.learning.parameters import flatten
from lockstep_workers.learning.strategy import Vector
from lockstep_workers.learning.training import be_deterministic, flush_denormals
from lockstep_workers.models import build_model


class Answer(StrEnum):
    """What a process says, each with a body."""

    READY = "ready"
    DONE = "done"
    """The body is what has come of the unit, packed."""
    INVALID = "invalid"
    """The user's code raised: the body says what."""
    BROKEN = "broken"
    """Something that nobody foresaw: the body is its traceback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What all processes of a job are given."""

    job: JobSettings
    inputs: SharedArray
    labels: SharedArray
    sizes: tuple[int, ...]
    """Examples of each client; they lie one after another."""
    mean: float
    scale: float
    constants: bytes
    """Of the model; what else it has follows from the job."""
    in_groups: bool
    deterministic: bool
    received: SharedArray
    """(vectors, n): what clients receive in a round."""

    @classmethod
    def of(cls, job: JobSettings, clients: Mapping[str, Client], *, in_groups: bool) -> "Common":
        """As these clients, who share a model, are here."""
        held = [client.examples for client in clients.values()]
        first = next(iter(clients.values()))
        shape = (len(first.strategy.broadcasts), first.model.vector.numel())
        return cls(
            job=job,
            inputs=SharedArray.joined([examples.inputs for examples in held]),
            labels=SharedArray.joined([examples.labels for examples in held]),
            sizes=tuple(map(len, held)),
            mean=held[0].mean,
            scale=held[0].scale,
            constants=pack(first.model.module),
            in_groups=in_groups,
            deterministic=torch.are_deterministic_algorithms_enabled(),
            received=SharedArray(shape, np.dtype(np.float32)),
        )

    def held(self) -> list[Examples]:
        """Each client's examples, where they lie."""
        ends = np.cumsum(self.sizes)[:-1]
        parts = zip(
            np.split(self.inputs.array(), ends), np.split(self.labels.array(), ends), strict=True
        )
        return [
            Examples(inputs, labels, mean=self.mean, scale=self.scale) for inputs, labels in parts
        ]

    def show(self, received: list[Vector]) -> None:
        """Everybody sees these vectors from now on."""
        for row, vector in zip(self.received.array(), received, strict=True):
            row[:] = vector


def work(connection: Connection, common: Common, *, orders: Arena, trained: Arena) -> None:
    """What the process does, until its connection ends."""
    torch.set_num_threads(1)
    flush_denormals()
    if common.deterministic:
        be_deterministic()
    try:
        _work(connection, common, orders=orders, trained=trained)
    except (EOFError, OSError):
        return
    except InvalidJob as error:
        connection.send((Answer.INVALID, str(error)))
    except Exception:  # noqa: BLE001 - told to the process that knows what to do
        connection.send((Answer.BROKEN, traceback.format_exc()))


def _work(connection: Connection, common: Common, *, orders: Arena, trained: Arena) -> None:
    clients, way = _made(common)
    names = next(iter(clients.values())).strategy.broadcasts
    received = dict(zip(names, common.received.array(), strict=True))
    connection.send((Answer.READY, None))
    while True:
        asked = orders.unpack(connection.recv(), copy=False)
        try:
            done = way.train_unit(received, asked)
        except InvalidJob as error:
            connection.send((Answer.INVALID, str(error)))
        else:
            connection.send((Answer.DONE, trained.pack(done)))


def _made(common: Common) -> tuple[dict[str, Client], Way]:
    """The clients, and how they train.

    Raises:
        InvalidJob: the user's code raised, or built another model than before.
    """
    job = common.job
    model = flatten(build_model(job.model, seed=job.training.seed))
    unpack(model.module, common.constants)
    clients = clients_of(job, common.held(), model=model)
    alone = OneByOne(clients, job.model.entrypoint)
    way = batched(alone) if common.in_groups else alone
    if isinstance(way, str):
        raise InvalidJob(f"a model that was built anew cannot be trained in groups: {way}")
    return clients, way
