"""SCAFFOLD: control variates take out of each step what is the client's own direction.

`learning.strategies` builds it. Invariant: c is the mean of all clients' control variates with the
weights of the model, so that the job ends where the clients' gradients cancel out, however unequal
their steps are.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from lockstep_workers.learning.gradients import RawMean
from lockstep_workers.learning.strategy import (
    MODEL,
    ClientMemory,
    LocalPart,
    LocalPlan,
    LocalResult,
    Probe,
    ServerState,
    Strategy,
    Totals,
    Vector,
    by_examples,
)

CONTROL = "control"
CHANGE = "control-change"


def scaffold(*, at_start: bool = False) -> Strategy:
    """SCAFFOLD (Karimireddy et al. 2020, algorithm 1): each step is against g − cᵢ + c.

    A client's new cᵢ is its gradient at the received model over all its examples (`at_start`:
    option I, line 12) or the mean of its round's raw gradients (option II, which the paper
    recovers from the displacement; under momentum only the gradients themselves are right).
    Clients of unequal size have unequal weights in c as in the model; of equal size the rule is
    the paper's, c ← c + |S|/N · mean(Δcᵢ) (line 17).
    """

    def begin(
        received: Mapping[str, Tensor], /, *, plan: LocalPlan, memory: ClientMemory, probe: Probe
    ) -> LocalPart:
        own, mean = memory.vectors.get(CONTROL), RawMean()
        shift = received[CONTROL] if own is None else received[CONTROL] - own
        first = probe() if at_start else None

        def correct(_weights: Tensor, gradient: Tensor) -> None:
            if first is None:
                mean.add(gradient)
            gradient.add_(shift)

        def finish(result: LocalResult) -> tuple[Mapping[str, Tensor], ClientMemory]:
            new = mean.take() if first is None else first
            change = new if own is None else new - own
            return {MODEL: result.weights, CHANGE: change}, ClientMemory({CONTROL: new})

        return LocalPart(correct, finish)

    return Strategy(
        broadcasts=(MODEL, CONTROL),
        uploads={MODEL: by_examples, CHANGE: by_examples},
        remembers=(CONTROL,),
        start=_start,
        begin=begin,
        aggregate=_aggregate,
    )


def _start(model: Vector) -> ServerState:
    return ServerState({MODEL: model, CONTROL: np.zeros_like(model)})


def _aggregate(state: ServerState, mean: Mapping[str, Vector], /, *, totals: Totals) -> ServerState:
    control = mean[CHANGE]
    control *= totals.weights[CHANGE] / totals.examples
    control += state.vectors[CONTROL]
    return replace(state, vectors={**state.vectors, MODEL: mean[MODEL], CONTROL: control})
