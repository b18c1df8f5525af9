"""Trains clients together whose models are small: they take each step at once, in groups.

Made by `trainers`. A client's mini-batches, corrections and momentum are those of
`learning.training`; only the gradients of a group come from one computation, and clients that have
done their steps leave it. Invariant: which clients are a group follows from the orders alone, so
that it does not matter in which process one trains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from lockstep_simulator.gradients import Batch, Gradients, at_once
from lockstep_simulator.trainers import OneByOne, Order, Way, by_steps, train_all
from lockstep_workers.data import as_batch, normalised
from lockstep_workers.entrypoints import explained
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.client import Client, Trained
from lockstep_workers.learning.constants import unchanged
from lockstep_workers.learning.strategy import MODEL, LocalPart, Vector
from lockstep_workers.learning.training import Steps, descend, drawn

_log = structlog.get_logger()
_GROUP_BYTES = 4 << 20
"""Weights of a group: they, their gradients and the mini-batches are to stay in a core's caches."""
_MOST_CLIENTS = 32
_TRIED = 4
_FEW_GROUPS = 4
"""So many groups there are at least, for as many processes, when each has two clients or more."""
_LITTLE = 100_000_000
"""Products of a weight and an example up to which all of it is little for one process (10 ms)."""


@dataclass(frozen=True, slots=True)
class Batched:
    """Trains clients of one small model in groups."""

    alone: OneByOne
    """How they train by themselves: so does a group of which one raised something."""
    gradients: Gradients

    @property
    def clients(self) -> Mapping[str, Client]:
        """Those who train."""
        return self.alone.clients

    @property
    def most(self) -> int:
        """So many that their weights stay in a core's caches."""
        n_values = next(iter(self.clients.values())).model.vector.numel()
        return max(1, min(_MOST_CLIENTS, _GROUP_BYTES // (4 * n_values)))

    def units(self, orders: Sequence[Order]) -> list[list[int]]:
        """Groups of about equal size; those with most steps first."""
        few = 1 if self._is_little(orders) else min(_FEW_GROUPS, len(orders) // 2)
        count = max(-(-len(orders) // self.most), few, 1)
        parts = np.array_split(by_steps(orders), count)
        return [part.tolist() for part in parts if len(part)]

    def _is_little(self, orders: Sequence[Order]) -> bool:
        one = next(iter(self.clients.values()))
        steps = sum(order.task.steps for order in orders)
        return steps * one.sgd.batch_size * one.model.vector.numel() <= _LITTLE

    def train_unit(self, received: Mapping[str, Vector], orders: Sequence[Order]) -> list[Trained]:
        """As `Way.train_unit`; orders with more steps come first."""
        try:
            with explained("training a group raised", own=self.alone.own):
                return self._train(received, orders)
        except InvalidJob:
            return self.alone.train_unit(received, orders)  # tells whose client it was

    def train(self, received: Mapping[str, Vector], orders: Sequence[Order]) -> list[Trained]:
        """As `Trainer.train`."""
        return train_all(self, received, orders=orders)

    def _train(self, received: Mapping[str, Vector], orders: Sequence[Order]) -> list[Trained]:
        group = [self.clients[order.client] for order in orders]
        with unchanged(group[0].model.module):
            parts = [
                client.begin(received, order.task, memory=order.memory)
                for client, order in zip(group, orders, strict=True)
            ]
            weights = torch.from_numpy(received[MODEL]).repeat(len(group), 1)
            losses = _Training(group, orders, parts=parts).run(weights, self.gradients)
        return [
            client.finish(part, row, steps=_steps(lost), received=received)
            for client, part, row, lost in zip(group, parts, weights, losses, strict=True)
        ]


def batched(alone: OneByOne) -> Batched | str:
    """The same clients in groups; or, in words, why they had better train one by one."""
    first = next(iter(alone.clients.values()))
    sample = as_batch(first.examples, np.arange(min(_TRIED, len(first.examples))))
    found = at_once(first.model, sample)
    return found if isinstance(found, str) else Batched(alone, found)


def fastest(alone: OneByOne) -> Way:
    """In groups, where that is faster and comes to the same, else one by one."""
    found = batched(alone)
    if isinstance(found, str):
        _log.info("clients train one by one", why=found)
        return alone
    return found


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A new array that lies as tensors lie, so that products are the same bit for bit."""
    return torch.empty(shape, dtype=getattr(torch, dtype.name)).numpy()


def _steps(losses: Sequence[Tensor]) -> Steps:
    return Steps(len(losses), float(torch.stack(list(losses)).mean()))


class _Training:
    """The steps of a group."""

    def __init__(
        self, group: Sequence[Client], orders: Sequence[Order], *, parts: Sequence[LocalPart]
    ) -> None:
        self._group, self._sgd = group, group[0].sgd
        self._steps = [order.task.steps for order in orders]
        self._corrections = [part.correct for part in parts]
        self._drawn = [
            drawn(
                len(client.examples),
                batch_size=self._sgd.batch_size,
                seed=client.seed_of(order.task),
            )
            for client, order in zip(group, orders, strict=True)
        ]

    @torch.no_grad()
    def run(self, weights: Tensor, gradients: Gradients) -> list[list[Tensor]]:
        """Changes the weights, (clients, n), in place; the loss of each step, by client."""
        gradient = torch.empty_like(weights)
        velocity = torch.zeros_like(weights) if self._sgd.momentum else None
        losses: list[list[Tensor]] = [[] for _ in self._group]
        for number in range(self._steps[0]):
            now = sum(steps > number for steps in self._steps)
            lost = gradients(weights[:now], self._batch(now), into=gradient[:now])
            for mine, loss in zip(losses, lost, strict=False):
                mine.append(loss)
            self._correct(weights[:now], gradient[:now])
            descend(
                weights[:now],
                gradient[:now],
                sgd=self._sgd,
                velocity=None if velocity is None else velocity[:now],
            )
        return losses

    def _correct(self, weights: Tensor, gradient: Tensor) -> None:
        for correct, own, row in zip(self._corrections, weights, gradient, strict=False):
            if correct is not None:
                correct(own, row)

    def _batch(self, count: int) -> Batch:
        """The next mini-batches of the first clients."""
        chosen = [next(drawn) for drawn in self._drawn[:count]]
        size = max(map(len, chosen))
        every = self._group[0].examples
        inputs = _aligned((count, size, *every.inputs.shape[1:]), every.inputs.dtype)
        labels = np.empty((count, size), np.int64)
        shares = np.zeros((count, size), np.float32)
        for place, (client, mine) in enumerate(zip(self._group, chosen, strict=False)):
            shares[place, : len(mine)] = 1.0 / len(mine)
            filled = np.resize(mine, size) if len(mine) < size else mine
            for held, into in ((client.examples.inputs, inputs), (client.examples.labels, labels)):
                np.take(held, filled, axis=0, out=into[place], mode="clip")  # else it copies
        return Batch(normalised(inputs, every), torch.from_numpy(labels), torch.from_numpy(shares))
