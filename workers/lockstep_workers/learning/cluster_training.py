"""An edge's part of split training: the back half on a cluster's examples, one step after another.

Owned by whoever plays a cluster's round: an edge, or the simulator. What devices send lands in the
rows of one batch, in the order of the members; `step` takes the back half over the rows of those
who are there, `finish_step` adds up what they say of the front half and steps that.

With members i of n_i examples and batches of b_i, and w_i = n_i / Σ n over those present, a step is
one of SGD on
    L = Σ_i (w_i / b_i) Σ_{rows r of i} CE(back(front(x_r)), y_r).
A device gets ∂L/∂a of its rows and answers with its part of ∂L/∂front; the parts' sum is ∂L/∂front,
so one cluster of all is central SGD on the concatenated batches (one back half for concatenated
batches: Thapa et al. 2022, "SplitFed"; the front stepped at the edge, not at each device, keeps the
halves together).
With frontUpdate round devices step their own front by their part, and the edge averages the fronts
once, Σ n_i F_i / Σ n_i.

Invariant: the result depends on seed, members, vectors and what present members sent in each step,
not on when or how often it came; what lies in the rows of others is never read.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lockstep_api.spec import FrontUpdate
from lockstep_workers.learning.constants import unchanged
from lockstep_workers.learning.front import Labels, Matrix, entropy
from lockstep_workers.learning.halves import Halves, own
from lockstep_workers.learning.parameters import flat_gradient
from lockstep_workers.learning.pool import Pool
from lockstep_workers.learning.strategy import Vector
from lockstep_workers.learning.training import Sgd, descend


@dataclass(frozen=True, slots=True)
class Member:
    """A client of a cluster in a round."""

    client: str
    examples: int
    """Training examples that it holds."""
    batch_size: int
    """Of them in each step."""


@dataclass(frozen=True, slots=True)
class HalfVectors:
    """The values of both halves."""

    front: Vector
    """(n_front,)"""
    back: Vector
    """(n_back,)"""


@dataclass(frozen=True, slots=True)
class BackStep:
    """What the back half makes of a step's batch."""

    gradients: Matrix
    """∂L/∂activations, (B, A), in the rows of the members; those of absent ones are 0."""
    loss: float
    """L, in nats."""


@dataclass(frozen=True, slots=True)
class ClusterTrained:
    """What a cluster's part of a round comes to."""

    vectors: HalfVectors
    clients: tuple[str, ...]
    """Members whose work is in it, in order."""
    examples: int
    """Training examples that these hold."""
    steps: int
    samples: int
    """Examples that went through the back half."""
    missed: int
    """Steps of members that went on without them."""
    loss: float
    """Mean of L over the steps, in nats; 0 without a step."""


@dataclass(slots=True)
class _Count:
    """What has been done so far."""

    losses: list[float] = field(default_factory=list)
    samples: int = 0
    missed: int = 0
    took_part: set[str] = field(default_factory=set)


class ClusterTraining:
    """A cluster's round."""

    def __init__(
        self,
        halves: Halves,
        start: HalfVectors,
        *,
        members: Sequence[Member],
        cut_shape: Sequence[int],
        sgd: Sgd,
        seed: tuple[int, ...],
        update: FrontUpdate = FrontUpdate.STEP,
    ) -> None:
        """At the values that the round starts from; momentum begins at 0.

        Args:
            halves: the model's; a copy of the back half is trained.
            start: the halves' values, which stay as they are.
            members: the cluster's clients.
            cut_shape: shape of an example's activations.
            sgd: how both halves are stepped.
            seed: (job's seed, round, cluster's number), of what the back half draws.
            update: whether the front is stepped here, or by each device.
        """
        self._members, self._sgd, self._seed = tuple(members), sgd, seed
        self._cut_shape, self._update = tuple(cut_shape), update
        self._back = own(halves.back)
        with torch.no_grad():
            self._back.vector.copy_(torch.from_numpy(start.back))
        self._front = torch.from_numpy(start.front).clone()
        self._gradient = flat_gradient(self._back)
        self._velocities = (torch.zeros_like(self._front), torch.zeros_like(self._gradient))
        ends = np.cumsum([0, *(member.batch_size for member in members)]).tolist()
        self._rows = {
            member.client: slice(ends[i], ends[i + 1]) for i, member in enumerate(self._members)
        }
        self._place = {member.client: i for i, member in enumerate(self._members)}
        self.activations: Matrix = np.zeros((ends[-1], math.prod(cut_shape)), np.float32)
        """What the members send of a step, each in its rows."""
        self.labels: Labels = np.zeros(ends[-1], np.int64)
        """The labels of these."""
        self._fronts = torch.zeros(len(self._members), self._front.numel())
        self._stepped: tuple[Member, ...] = ()
        self._count = _Count()

    @property
    def front(self) -> Vector:
        """The front half's values as of now, (n_front,): a view that the next step changes."""
        return self._front.numpy()

    @property
    def back(self) -> Vector:
        """The back half's, (n_back,), likewise."""
        return self._back.vector.numpy()

    def rows(self, client: str) -> slice:
        """Where a member's examples lie in the batch."""
        return self._rows[client]

    def batch(self, present: Collection[str]) -> Pool:
        """The rows of those who are there, for distillation; valid until more is received.

        Each counts as in a step's loss, times the examples of those present: one unit for all
        clusters.
        """
        here = self._those(present)
        rows, weights = self._rows_of(here), _examples(here) * _row_weights(here)
        chosen = slice(None) if rows is None else rows.numpy()
        return Pool(self.activations[chosen], self.labels[chosen], weights.numpy())

    def step(self, present: Collection[str]) -> BackStep:
        """A step of the back half, on the rows of those who are there, one at least.

        Raises:
            InvalidJob: the back half changes its buffers.
        """
        here = self._stepped = self._those(present)
        rows, weights = self._rows_of(here), _row_weights(here)
        activations, labels = torch.from_numpy(self.activations), torch.from_numpy(self.labels)
        if rows is not None:
            activations, labels = activations[rows], labels[rows]
        inputs = activations.view(-1, *self._cut_shape).requires_grad_()
        loss = self._loss(inputs, labels, weights=weights)
        self._gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            descend(self._back.vector, self._gradient, sgd=self._sgd, velocity=self._velocities[1])
        assert inputs.grad is not None
        told = float(loss.detach())
        self._counted(here, samples=len(labels), loss=told)
        return BackStep(self._in_place(inputs.grad.flatten(start_dim=1), rows), told)

    def _loss(self, inputs: Tensor, labels: Tensor, *, weights: Tensor) -> Tensor:
        module = self._back.module.train()
        with torch.random.fork_rng(devices=[]), unchanged(module):
            torch.default_generator.manual_seed(entropy((*self._seed, len(self._count.losses))))
            scores = module(inputs)
            return torch.dot(cross_entropy(scores, labels, reduction="none"), weights)

    def _those(self, clients: Collection[str]) -> tuple[Member, ...]:
        return tuple(member for member in self._members if member.client in clients)

    def _rows_of(self, here: Sequence[Member]) -> Tensor | None:
        """Their rows; None: all of the batch."""
        if len(here) == len(self._members):
            return None
        rows = [np.arange(rows.start, rows.stop) for m in here for rows in [self._rows[m.client]]]
        return torch.from_numpy(np.concatenate(rows))

    def _in_place(self, gradient: Tensor, rows: Tensor | None) -> Matrix:
        if rows is None:
            return gradient.numpy()
        whole = torch.zeros(self.activations.shape)
        whole[rows] = gradient
        return whole.numpy()

    def _counted(self, here: Sequence[Member], *, samples: int, loss: float) -> None:
        count = self._count
        count.losses.append(loss)
        count.samples += samples
        count.missed += len(self._members) - len(here)
        count.took_part.update(member.client for member in here)

    def add_front(self, client: str, vector: Vector) -> None:
        """What a member says of the front, (n_front,): its part of ∂L/∂front of this step.

        With frontUpdate round its own front half, at the round's end.
        """
        self._fronts[self._place[client]] = torch.from_numpy(vector)

    def finish_step(self, present: Collection[str]) -> Vector:
        """Steps the front by the parts of those who gave theirs, and gives its values.

        Who was there for the back half but not for this one has left: the weights of the others are
        normalised anew. Without anybody the front stays.
        """
        here = tuple(member for member in self._stepped if member.client in present)
        if here:
            gradient = self._added(here)
            if len(here) < len(self._stepped):
                gradient *= _examples(self._stepped) / _examples(here)
            with torch.no_grad():
                descend(self._front, gradient, sgd=self._sgd, velocity=self._velocities[0])
        return self.front

    def finish_round(self, present: Collection[str]) -> Vector:
        """With frontUpdate round: the mean of the fronts of those who gave theirs, by examples."""
        here = self._those(present)
        if here:
            shares = [member.examples / _examples(here) for member in here]
            self._front.copy_(self._added(here, shares))
        return self.front

    def _added(self, members: Sequence[Member], shares: Sequence[float] | None = None) -> Tensor:
        """The sum of what these members gave, in their order, in float64."""
        factors = [1.0] * len(members) if shares is None else shares
        total = torch.zeros(self._front.numel(), dtype=torch.float64)
        for member, factor in zip(members, factors, strict=True):
            total.add_(self._fronts[self._place[member.client]], alpha=factor)
        return total.float()

    def result(self) -> ClusterTrained:
        """What came of it so far; the vectors are copies."""
        count = self._count
        clients = self._those(count.took_part)
        return ClusterTrained(
            vectors=HalfVectors(self.front.copy(), self.back.copy()),
            clients=tuple(member.client for member in clients),
            examples=_examples(clients),
            steps=len(count.losses),
            samples=count.samples,
            missed=count.missed,
            loss=math.fsum(count.losses) / max(1, len(count.losses)),
        )


def _examples(members: Sequence[Member]) -> int:
    return sum(member.examples for member in members)


def _row_weights(members: Sequence[Member]) -> Tensor:
    """w_i / b_i for each row of these members."""
    total = _examples(members)
    each = [member.examples / total / member.batch_size for member in members]
    sizes = torch.tensor([member.batch_size for member in members])
    return torch.tensor(each, dtype=torch.float64).repeat_interleave(sizes).float()
