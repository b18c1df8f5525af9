"""FedaGrac: gradients calibrated towards their mean, in which fast clients give their first one.

`learning.strategies` builds it. Kept as its authors' code has it, to compare with: with a weight
below 1 unequal steps still pull the model.
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

ORIENTATION = "orientation"
DEFAULT_WEIGHT = 0.03


def fedagrac(*, weight: float = DEFAULT_WEIGHT) -> Strategy:
    """FedaGrac (Wu et al. 2023, and its authors' code): each step is against g + λ·(ν − νᵢ).

    νᵢ is the mean of the client's last round's gradients. Those with more steps than the mean of
    the round's participants tell their first gradient instead of it; ν is the mean of what was
    told in the last round.
    """

    def begin(
        received: Mapping[str, Tensor], /, *, plan: LocalPlan, memory: ClientMemory, probe: Probe
    ) -> LocalPart:
        own, mean = memory.vectors.get(ORIENTATION), RawMean()
        shift = received[ORIENTATION] if own is None else received[ORIENTATION] - own
        firsts = RawMean() if plan.steps > plan.mean_steps else None

        def correct(_weights: Tensor, gradient: Tensor) -> None:
            if firsts is not None and not firsts.steps:
                firsts.add(gradient)
            mean.add(gradient)
            gradient.add_(shift, alpha=weight)

        def finish(result: LocalResult) -> tuple[Mapping[str, Tensor], ClientMemory]:
            average = mean.take()
            told = average if firsts is None else firsts.take()
            return {MODEL: result.weights, ORIENTATION: told}, ClientMemory({ORIENTATION: average})

        return LocalPart(correct, finish)

    return Strategy(
        broadcasts=(MODEL, ORIENTATION),
        uploads={MODEL: by_examples, ORIENTATION: by_examples},
        remembers=(ORIENTATION,),
        start=_start,
        begin=begin,
        aggregate=_aggregate,
    )


def _start(model: Vector) -> ServerState:
    return ServerState({MODEL: model, ORIENTATION: np.zeros_like(model)})


def _aggregate(state: ServerState, mean: Mapping[str, Vector], /, *, totals: Totals) -> ServerState:
    return replace(state, vectors={**state.vectors, **mean})
