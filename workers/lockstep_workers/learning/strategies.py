"""Federated optimisation strategies as pure functions, composed rather than inherited.

A strategy says which flat vectors travel down (`broadcasts`) and up (`uploads`), how a client
corrects each local gradient, what it remembers, how an update is weighted, and what the server
makes of the weighted mean. The first vector is always the model. The cloud and device roles call
it; nothing here knows how vectors travel.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lockstep_api.spec import StrategyName, StrategySpec
from lockstep_api.supported import STRATEGIES, choice
from lockstep_workers.errors import InvalidJob

MODEL = "model"
DEFAULT_MU = 0.01

Vector = NDArray[np.float32]
Correction = Callable[[Tensor, Tensor], None]
"""(weights, gradient), both of shape (n,): changes the gradient in place before the SGD step."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """The server's vectors by name, each float32 of shape (n,); `model` is the global model."""

    vectors: Mapping[str, Vector]


@dataclass(frozen=True, slots=True)
class ClientMemory:
    """What a client keeps between rounds: vectors by name, each of shape (n,)."""

    vectors: Mapping[str, Tensor]


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
class Totals:
    """Figures of a closed round that the mean does not tell."""

    accepted: int
    """Updates in the mean."""
    clients: int
    """Clients of the job."""
    mean_steps: float
    """Mean of the local steps, with the weights of the updates."""


class Weigh(Protocol):
    """The weight of an update in the mean, from what its client reports."""

    def __call__(self, *, examples: int, steps: int) -> float:
        """A positive number; weights are normalised over the accepted updates."""


Start = Callable[[Vector], ServerState]
BeginRound = Callable[[Mapping[str, Tensor], ClientMemory], Correction | None]
FinishRound = Callable[
    [Mapping[str, Tensor], LocalResult, ClientMemory], tuple[Mapping[str, Tensor], ClientMemory]
]
Aggregate = Callable[[ServerState, Mapping[str, Vector], Totals], ServerState]


@dataclass(frozen=True, slots=True)
class Strategy:
    """A federated optimisation method; see the module's head."""

    broadcasts: tuple[str, ...]
    """Vectors sent to a client with a task; the first is the model."""
    uploads: tuple[str, ...]
    """Vectors that a client sends back; the first is its model."""
    start: Start
    """Server: the initial model → the state before round 1; holds every broadcast vector."""
    begin: BeginRound
    """Client: (received, memory) → the correction of each local gradient, or None."""
    finish: FinishRound
    """Client: (received, result, memory) → (what to upload, what to remember)."""
    weigh: Weigh
    """Server: the weight of an update."""
    aggregate: Aggregate
    """Server: (state, weighted mean of the uploads, figures) → the next state."""


def _model_only(model: Vector) -> ServerState:
    return ServerState({MODEL: model})


def _no_correction(_received: Mapping[str, Tensor], _memory: ClientMemory) -> None:
    return None


def _upload_model(
    _received: Mapping[str, Tensor], result: LocalResult, memory: ClientMemory
) -> tuple[Mapping[str, Tensor], ClientMemory]:
    return {MODEL: result.weights}, memory


def _by_examples(*, examples: int, steps: int) -> float:
    return float(examples)


def _take_mean(state: ServerState, mean: Mapping[str, Vector], _totals: Totals) -> ServerState:
    return ServerState({**state.vectors, MODEL: mean[MODEL]})


def fedavg() -> Strategy:
    """FedAvg: the mean of the models weighted by examples (McMahan et al. 2017, algorithm 1)."""
    return Strategy(
        broadcasts=(MODEL,),
        uploads=(MODEL,),
        start=_model_only,
        begin=_no_correction,
        finish=_upload_model,
        weigh=_by_examples,
        aggregate=_take_mean,
    )


def with_proximal(base: Strategy, mu: float) -> Strategy:
    """Adds μ·(w − w_global) to each local gradient (FedProx, Li et al. 2020, eq. 2)."""

    def begin(received: Mapping[str, Tensor], memory: ClientMemory) -> Correction:
        inner = base.begin(received, memory)
        anchor = received[MODEL].clone()

        def correct(weights: Tensor, gradient: Tensor) -> None:
            if inner is not None:
                inner(weights, gradient)
            gradient.add_(weights - anchor, alpha=mu)

        return correct

    return replace(base, begin=begin)


def build_strategy(spec: StrategySpec) -> Strategy:
    """The strategy that a job asks for.

    Raises:
        InvalidJob: this version does not have it.
    """
    if spec.name is StrategyName.FEDAVG:
        return fedavg()
    if spec.name is StrategyName.FEDPROX:
        return with_proximal(fedavg(), DEFAULT_MU if spec.mu is None else spec.mu)
    raise InvalidJob(f"strategy {spec.name} is not in this version: use {choice(STRATEGIES)}")
