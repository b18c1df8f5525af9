"""SCAFFOLD: control variates take out of each step what is the client's own direction.

`learning.strategies` builds it. Invariant: c is the sum of all clients' control variates with their
shares of the job's examples, which are their weights in the model too: so the job ends where the
clients' gradients cancel out, however unequal their steps are.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from lockstep_workers.learning.gradients import RawMean
from lockstep_workers.learning.latest import CHANGE, MEAN, SEEN, folded, told, with_mean
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

OWN = "control"
"""What a client remembers: its cᵢ."""
SHARE = "control_share"
"""Of the server's numbers: the clients that have a cᵢ, by their share of the job's examples."""


def scaffold(*, at_start: bool = False) -> Strategy:
    """SCAFFOLD (Karimireddy et al. 2020, algorithm 1): each step is against g − cᵢ + c.

    A client's new cᵢ is its gradient at the received model over all its examples (`at_start`:
    option I, line 12) or the mean of its round's raw gradients (option II, which the paper
    recovers from the displacement; under momentum only the gradients themselves are right).
    Until its first round it is 0. So c is the mean over those that have one (`latest`) times
    their share; with clients of equal size, c ← c + |S|/N · mean(Δcᵢ) (line 17).
    """

    def begin(
        received: Mapping[str, Tensor], /, *, plan: LocalPlan, memory: ClientMemory, probe: Probe
    ) -> LocalPart:
        own, mean = memory.vectors.get(OWN), RawMean()
        shift = received[MEAN] * plan.numbers[SHARE]
        if own is not None:
            shift -= own
        first = probe() if at_start else None

        def correct(_weights: Tensor, gradient: Tensor) -> None:
            if first is None:
                mean.add(gradient)
            gradient.add_(shift)

        def finish(result: LocalResult) -> tuple[Mapping[str, Tensor], ClientMemory]:
            new = mean.take() if first is None else first
            uploads = {MODEL: result.weights, CHANGE: told(new, own, plan=plan)}
            return uploads, ClientMemory({OWN: new})

        return LocalPart(correct, finish)

    return Strategy(
        broadcasts=(MODEL, MEAN),
        uploads={MODEL: by_examples, CHANGE: by_examples},
        remembers=(OWN,),
        start=_start,
        begin=begin,
        aggregate=_aggregate,
    )


def _start(model: Vector) -> ServerState:
    state = with_mean(model)
    return replace(state, numbers={**state.numbers, SHARE: 0.0})


def _aggregate(state: ServerState, mean: Mapping[str, Vector], /, *, totals: Totals) -> ServerState:
    after = folded(state, mean[CHANGE], totals=totals, weight=totals.weights[CHANGE])
    share = after.numbers[SEEN] / totals.examples
    vectors = {**after.vectors, MODEL: mean[MODEL]}
    return replace(after, vectors=vectors, numbers={**after.numbers, SHARE: share})
