"""A device's part of split training: its examples through the front half, and the gradient of it.

Called by a device's loop, or by whoever plays a job's rounds in one process. Between forward and
backward of a step the half keeps the step's graph, and (where the edge owns the front) nothing
else: batches are drawn by (job's seed, client, round, step) alone, so a device that starts anew in
the middle of a round goes on with the step that it is asked for, and a repeated step gives the
same.

f the front half, x a client's batch, a = f(x) its activations at the cut, g = ∂L/∂a from the edge:
the backward pass gives gᵀ ∂a/∂f, the client's part of ∂L/∂f, which its edge adds up (split
learning: Gupta and Raskar 2018, "Distributed learning of deep neural network over multiple agents";
one back half for several devices: Thapa et al. 2022, "SplitFed").
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lockstep_api.spec import FrontUpdate
from lockstep_workers.data import Examples, as_batch
from lockstep_workers.learning.client import Client
from lockstep_workers.learning.constants import unchanged
from lockstep_workers.learning.halves import halves, own
from lockstep_workers.learning.parameters import flat_gradient
from lockstep_workers.learning.strategy import Vector
from lockstep_workers.learning.training import Sgd, descend

Matrix = NDArray[np.float32]
"""(b, A): a row of values for each example."""
Labels = NDArray[np.int64]


class FrontHalf:
    """The front half on one client's examples."""

    def __init__(
        self,
        front: nn.Module,
        examples: Examples,
        *,
        seed: tuple[int, int],
        sgd: Sgd,
        update: FrontUpdate = FrontUpdate.STEP,
    ) -> None:
        """A copy of the front half.

        Args:
            front: the half; it stays as it is.
            examples: the client's own examples.
            seed: (the job's seed, the client's place among the job's clients).
            sgd: how the half is stepped here with frontUpdate round.
            update: whether the edge steps it, or this client.
        """
        self._model, self._examples, self._seed, self._sgd = own(front), examples, seed, sgd
        self._gradient = flat_gradient(self._model)
        self._steps_here = update is FrontUpdate.ROUND
        self._velocity = torch.zeros_like(self._gradient) if self._steps_here else None
        self._output: Tensor | None = None

    @property
    def front(self) -> Vector:
        """The half's values, (n_front,); a view."""
        return self._model.vector.numpy()

    @torch.no_grad()
    def use(self, front: Vector) -> None:
        """Takes the half's values over from the edge; momentum begins at 0."""
        self._model.vector.copy_(torch.from_numpy(front))
        if self._velocity is not None:
            self._velocity.zero_()

    def forward(self, round_number: int, step: int, *, batch_size: int) -> tuple[Matrix, Labels]:
        """The activations of a step's batch, (b, A), and its labels, (b,).

        Raises:
            InvalidJob: the half changes its buffers.
        """
        place = (*self._seed, round_number)
        chosen = batch_at(len(self._examples), step, batch_size=batch_size, seed=place)
        x, labels = as_batch(self._examples, chosen)
        module = self._model.module.train()
        with torch.random.fork_rng(devices=[]), unchanged(module):
            torch.default_generator.manual_seed(entropy((*place, step)))
            self._output = module(x).flatten(start_dim=1)
        return self._output.detach().contiguous().numpy(), labels.numpy()

    def backward(self, gradient: Matrix) -> Vector:
        """∂L/∂front of the batch of the last forward pass, (n_front,), valid until the next one.

        With frontUpdate round the half makes a step against it.
        """
        assert self._output is not None, "forward comes first"
        output, self._output = self._output, None
        self._gradient.zero_()
        output.backward(torch.from_numpy(gradient))  # type: ignore[no-untyped-call]
        contribution = self._gradient
        if self._steps_here:
            with torch.no_grad():
                vector, sgd = self._model.vector, self._sgd
                descend(vector, contribution, sgd=sgd, velocity=self._velocity)
        return contribution.numpy()


def front_half(client: Client, cut: str, *, update: FrontUpdate) -> FrontHalf:
    """The front half of a client whose model is cut after this layer.

    Raises:
        InvalidJob: it cannot be cut there.
    """
    front, seed = halves(client.model, cut).front, (client.seed, client.index)
    return FrontHalf(front, client.examples, seed=seed, sgd=client.sgd, update=update)


def batch_at(
    n_examples: int, step: int, *, batch_size: int, seed: tuple[int, ...]
) -> NDArray[np.int64]:
    """The examples of a step, always `batch_size` of them: no state leads from step to step.

    All examples in a random order, and again in another one, without end; the step has its part.
    """
    start, end = step * batch_size, (step + 1) * batch_size
    first, last = start // n_examples, (end - 1) // n_examples
    orders = [_order(n_examples, (*seed, again)) for again in range(first, last + 1)]
    return np.concatenate(orders)[start - first * n_examples : end - first * n_examples]


def _order(n_examples: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
    return np.random.default_rng(np.random.SeedSequence(seed)).permutation(n_examples)


def entropy(seed: tuple[int, ...]) -> int:
    """What torch's generator is seeded with, for what a half draws (dropout)."""
    drawn: NDArray[Any] = np.random.SeedSequence(seed).generate_state(1)
    return int(drawn[0])
