"""Clusters of split training in one process: devices and edge play steps without anything between.

Also central SGD on the same batches, which they must equal.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lockstep_api.spec import FrontUpdate
from lockstep_workers.data import Examples, as_batch
from lockstep_workers.learning.cluster_training import (
    ClusterTrained,
    ClusterTraining,
    HalfVectors,
    Member,
)
from lockstep_workers.learning.front import FrontHalf, batch_at
from lockstep_workers.learning.halves import Halves, cut_shape, halves
from lockstep_workers.learning.parameters import FlatModel, flat_gradient, flatten
from lockstep_workers.learning.strategy import Vector
from lockstep_workers.learning.training import Sgd, descend

SEED = 5
Present = Callable[[int], Sequence[str]]
"""A step, from 0 → who is there."""


def some_examples(count: int, *, shape: Sequence[int], seed: int, classes: int = 10) -> Examples:
    """Examples that are drawn."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((count, *shape)).astype(np.float32)
    return Examples(inputs, rng.integers(0, classes, count))


@dataclass(frozen=True, slots=True)
class Scene:
    """A model that is cut, and clients with examples of their own."""

    module: Callable[[], nn.Module]
    cut: str
    clients: Mapping[str, Examples]
    batches: Mapping[str, int]
    """Examples of each client in a step."""
    sgd: Sgd

    def model(self) -> FlatModel:
        """The model, built anew."""
        return flatten(self.module())

    def members(self) -> list[Member]:
        """The clients as one cluster."""
        return [Member(c, len(x), self.batches[c]) for c, x in self.clients.items()]

    def seed_of(self, client: str) -> tuple[int, int]:
        """With round and step it seeds the client's batches."""
        return (SEED, list(self.clients).index(client))

    def shape(self) -> list[int]:
        """Of an example."""
        return list(next(iter(self.clients.values())).inputs.shape[1:])


class Played:
    """The devices of a scene, and one cluster of all of them in each round."""

    def __init__(self, scene: Scene, *, update: FrontUpdate = FrontUpdate.STEP) -> None:
        """At the model's initial weights."""
        self.scene, self._update = scene, update
        self.model = scene.model()
        self.halves: Halves = halves(self.model, scene.cut)
        self.devices = {
            client: FrontHalf(
                self.halves.front, examples, seed=scene.seed_of(client), sgd=scene.sgd,
                update=update,
            )
            for client, examples in scene.clients.items()
        }  # fmt: skip
        vector, n_front = self.model.vector.numpy().copy(), self.halves.n_front
        self.vectors = HalfVectors(vector[:n_front], vector[n_front:])

    def training(self, round_number: int) -> ClusterTraining:
        """A round of all clients, at its start."""
        return ClusterTraining(
            self.halves,
            self.vectors,
            members=self.scene.members(),
            cut_shape=cut_shape(self.halves.front, self.scene.shape()),
            sgd=self.scene.sgd,
            seed=(SEED, round_number, 0),
            update=self._update,
        )

    def send(self, training: ClusterTraining, client: str, *, at: tuple[int, int]) -> None:
        """A device's activations of (round, step) land in its rows."""
        size = self.scene.batches[client]
        values, labels = self.devices[client].forward(*at, batch_size=size)
        rows = training.rows(client)
        training.activations[rows], training.labels[rows] = values, labels

    def play(
        self,
        round_number: int,
        *,
        steps: int,
        present: Present | None = None,
        backwards: bool = False,
    ) -> ClusterTrained:
        """A round, which the next one goes on from; `backwards`: the last device comes first."""
        training, everyone = self.training(round_number), list(self.devices)
        for device in self.devices.values():
            device.use(training.front)
        for step in range(steps):
            here = list(everyone if present is None else present(step))
            here = here[::-1] if backwards else here
            self._step(training, here, at=(round_number, step))
        if self._update is FrontUpdate.ROUND:
            for client, device in self.devices.items():
                training.add_front(client, device.front)
            training.finish_round(everyone)
        done = training.result()
        self.vectors = done.vectors
        return done

    def _step(self, training: ClusterTraining, here: Sequence[str], *, at: tuple[int, int]) -> None:
        stepped = self._update is FrontUpdate.STEP
        for client in here:
            if stepped:
                self.devices[client].use(training.front)
            self.send(training, client, at=at)
        gradients = training.step(here).gradients
        for client in here:
            part = self.devices[client].backward(gradients[training.rows(client)])
            if stepped:
                training.add_front(client, part)
        if stepped:
            training.finish_step(here)


def whole(vectors: HalfVectors) -> Vector:
    """The whole model's vector."""
    return np.concatenate([vectors.front, vectors.back])


def central(scene: Scene, *, rounds: int, steps: int, present: Present | None = None) -> Vector:
    """SGD in one place on the clients' batches of each step, weighted as the clients are."""
    model, clients = scene.model(), scene.clients
    gradient = flat_gradient(model)
    for round_number in range(1, rounds + 1):
        velocity = torch.zeros_like(gradient)
        for step in range(steps):
            here = list(clients if present is None else present(step))
            total = sum(len(clients[client]) for client in here)
            gradient.zero_()
            loss = torch.zeros(())
            for client in here:
                chosen = batch_at(
                    len(clients[client]), step, batch_size=scene.batches[client],
                    seed=(*scene.seed_of(client), round_number),
                )  # fmt: skip
                x, y = as_batch(clients[client], chosen)
                loss = loss + len(clients[client]) / total * cross_entropy(model.module(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                descend(model.vector, gradient, sgd=scene.sgd, velocity=velocity)
    return model.vector.numpy()
