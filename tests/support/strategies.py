"""Strategies with more than a model, for tests of what carries them."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

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
    uniformly,
)


def scaffold() -> Strategy:
    """SCAFFOLD, option II (Karimireddy et al. 2020), and a vector that the server keeps.

    The model is weighted by examples, the control variate uniformly.
    """

    def start(model: Vector) -> ServerState:
        return ServerState({MODEL: model, "c": np.zeros_like(model), "last": np.zeros_like(model)})

    def begin(
        received: Mapping[str, Tensor], /, *, plan: LocalPlan, memory: ClientMemory, probe: Probe
    ) -> LocalPart:
        own = memory.vectors.get("c", torch.zeros_like(received["c"]))

        def correct(_weights: Tensor, gradient: Tensor) -> None:
            gradient.add_(received["c"] - own)

        def finish(result: LocalResult) -> tuple[Mapping[str, Tensor], ClientMemory]:
            moved = (received[MODEL] - result.weights) / (result.steps * plan.learning_rate)
            new = own - received["c"] + moved
            told = {MODEL: result.weights, "delta": new - own}
            return told, ClientMemory({"c": new}, {"steps": float(result.steps)})

        return LocalPart(correct, finish)

    def aggregate(
        state: ServerState, mean: Mapping[str, Vector], /, *, totals: Totals
    ) -> ServerState:
        c = state.vectors["c"] + mean["delta"] * (len(totals.contributions) / totals.clients)
        return ServerState({MODEL: mean[MODEL], "c": c, "last": mean["delta"]})

    return Strategy(
        broadcasts=(MODEL, "c"), uploads={MODEL: by_examples, "delta": uniformly}, remembers=("c",),
        start=start, begin=begin, aggregate=aggregate,
    )  # fmt: skip
