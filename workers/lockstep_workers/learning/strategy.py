"""What a strategy of federated optimisation is: pure functions over flat vectors, and their types.

A strategy says which flat vectors travel down (`broadcasts`) and up (`uploads`, each with its own
weight in the mean), how a client corrects each local gradient, what it remembers, and what the
server makes of the weighted means. The first vector is always the model. `learning.client` and
`learning.server` call it; nothing here knows how vectors travel. `learning.strategies` has those
that a job can ask for.

What may be kept. Nothing that is handed in is changed, but for the gradient of a correction and the
mean of an aggregation.
- Received vectors stay as they are until `finish` has returned, and no longer: the next model is
  read into the same buffer.
- `LocalResult.weights` is the live model: the next training changes it.
- `finish` may return any of these, uncopied: uploads are used before the next training begins, and
  what is remembered is copied where it shares memory with them.
- The mean lies in the memory of the round's sum: `aggregate` may change it in place and return it,
  as it may return vectors of the last state; what stays in the state is copied before the next
  round begins.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

MODEL = "model"

Vector = NDArray[np.float32]
Correction = Callable[[Tensor, Tensor], None]
"""(weights, gradient), both of shape (n,): changes the gradient in place before the SGD step. It is
called once a step, first of all with the raw gradient; momentum comes after it. Weights may be any
vector, not only the model's own."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """What the server has; it is in checkpoints."""

    vectors: Mapping[str, Vector]
    """By name, each float32 of shape (n,); `model` is the global model."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """By name, finite; every one that the method has is in its `start`, and goes with each task."""
    reach: Mapping[str, float] = field(default_factory=dict)
    """How far updates go (`learning.clipping`); the server's, of which a method knows nothing."""


@dataclass(frozen=True, slots=True)
class ClientMemory:
    """What a client keeps from the last round that it took part in."""

    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    """By name, each float32 of shape (n,): those that the strategy `remembers`, or none."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """By name: steps done, and the like."""


NO_MEMORY = ClientMemory()
"""Of a client that takes part for the first time, or has lost what it remembered."""


@dataclass(frozen=True, slots=True)
class LocalPlan:
    """What a client is about to do."""

    round: int
    """The round, from 1."""
    steps: int
    """SGD steps asked for."""
    learning_rate: float
    momentum: float
    base_round: int | None = None
    """The round of the client's last update that is in the model; None: none is. One whose memory
    is empty although there is such a round has lost it."""
    mean_steps: float = 0.0
    """Mean of the steps asked of the round's participants, weighted by examples."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """The server's."""

    @property
    def effective_rate(self) -> float:
        """How far a lasting gradient of length 1 moves the weights in a step."""
        return self.learning_rate / (1.0 - self.momentum)


@dataclass(frozen=True, slots=True)
class LocalResult:
    """What local training leaves behind."""

    weights: Tensor
    """(n,) the local model after the last step."""
    steps: int
    """SGD steps done."""
    examples: int
    """Training examples that the client holds."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """What an accepted update comes from."""

    examples: int
    """Training examples that its client holds."""
    steps: int
    """SGD steps done."""
    memory_round: int | None = None
    """The round whose memory the client trained with, as it says; None: without one."""
    counted_round: int | None = None
    """The round of the client's last update before this one that is in the model; None: none is."""
    distances: tuple[float, ...] = ()
    """How far each of its vectors went (`learning.clipping`); empty: nobody looked."""

    @property
    def remembered(self) -> bool:
        """Whether the client had the memory that fits the model."""
        return self.memory_round is not None and self.memory_round == self.counted_round


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Figures of a closed round that the mean does not tell."""

    round: int
    """The round, from 1."""
    contributions: Sequence[Contribution]
    """Of each update in the mean, in the order in which they were added."""
    clients: int
    """Clients of the job."""
    examples: int
    """Training examples of all of them."""
    weights: Mapping[str, float]
    """Sum of the updates' weights, by upload."""


class Weigh(Protocol):
    """The weight of one vector of an update in its mean, from what its client reports."""

    def __call__(self, *, examples: int, steps: int) -> float:
        """A positive number; weights are normalised over the accepted updates."""


Finish = Callable[[LocalResult], tuple[Mapping[str, Tensor], ClientMemory]]


@dataclass(frozen=True, slots=True)
class LocalPart:
    """A client's part of a round under way; its two functions may share what they find out."""

    correct: Correction | None
    """Corrects each local gradient; None: there is nothing to correct."""
    finish: Finish
    """(result) → (what to upload, what to remember)."""


Start = Callable[[Vector], ServerState]


class Probe(Protocol):
    """The client's gradient at the received model; asked for before `begin` returns, or never."""

    def __call__(self, minibatches: int | None = None) -> Tensor:
        """(n,) the mean over so many mini-batches, or (None) over all examples of the client."""


class Begin(Protocol):
    """How a client begins its part of a round."""

    def __call__(
        self,
        received: Mapping[str, Tensor],
        /,
        *,
        plan: LocalPlan,
        memory: ClientMemory,
        probe: Probe,
    ) -> LocalPart:
        """The part, from the vectors received and what it remembers."""


class Aggregate(Protocol):
    """What the server makes of a round."""

    def __call__(
        self, state: ServerState, mean: Mapping[str, Vector], /, *, totals: Totals
    ) -> ServerState:
        """The next state, from the last one and the weighted mean of each upload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """A federated optimisation method; see the module's head."""

    broadcasts: tuple[str, ...]
    """Vectors sent to a client with a task; the first is the model."""
    uploads: Mapping[str, Weigh]
    """Vectors that a client sends back, in order, and their weights; the first is its model."""
    remembers: tuple[str, ...] = ()
    """Vectors that a client keeps from round to round; without any it keeps nothing."""
    start: Start
    """Server: the initial model → the state before round 1; holds every broadcast vector."""
    begin: Begin
    """Client: what it received and remembers → its part of the round."""
    aggregate: Aggregate
    """Server: the state and the weighted mean of each upload → the next state."""


def by_examples(*, examples: int, steps: int) -> float:
    """The more examples a client holds, the more its vector counts."""
    return float(examples)


def uniformly(*, examples: int, steps: int) -> float:
    """Every client's vector counts the same."""
    return 1.0
