"""The mean of the gradients that all clients have told last, however long ago each did. Pure.

Strategies that correct by what a client's gradient is beside everybody's use it (`calibrated`,
`scaffold`). The server keeps the mean, weighted by examples, and nothing of any client: each
uploads what its vector has changed by since its last update that is in the model (CHANGE), or all
of it.

A client that has lost its memory cannot say what to take away. Then a generation begins: the mean
of that moment (BEFORE) stands in for whoever has given nothing since, and everybody's next upload
is whole. With S the weighted sum of what came since, from clients of weight `renewed` among `seen`:

    mean = (S + (seen - renewed) · BEFORE) / seen

Invariant: client and server tell by the same rule what an upload is; and once every client that is
in the model has given an update since the last loss, the mean is that of their last vectors.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from lockstep_workers.learning.strategy import (
    MODEL,
    Contribution,
    LocalPlan,
    ServerState,
    Totals,
    Vector,
)

MEAN = "mean_gradient"
"""Of the server's state, and sent to clients."""
BEFORE = "mean_gradient_before"
"""Of the server's state: the mean when the generation began."""
CHANGE = "gradient_change"
"""Of an update."""
SINCE = "gradients_since"
"""Of the server's numbers: the round before this generation's first; clients know it."""
SEEN = "gradients_seen"
"""Of the server's numbers: examples of the clients in the model."""


def with_mean(model: Vector) -> ServerState:
    """The state before round 1: nobody has told anything."""
    vectors = {MODEL: model, MEAN: np.zeros_like(model), BEFORE: np.zeros_like(model)}
    return ServerState(vectors, {SINCE: 0.0, SEEN: 0.0})


def told(new: Tensor, old: Tensor | None, *, plan: LocalPlan) -> Tensor:
    """What a client uploads: its vector's change, or where that would mean nothing, all of it."""
    if old is None or plan.base_round is None or plan.base_round <= plan.numbers[SINCE]:
        return new
    return new - old


def folded(state: ServerState, change: Vector, *, totals: Totals, weight: float) -> ServerState:
    """The state with a round's uploads in the mean.

    Args:
        state: the last one.
        change: the mean of the uploads, weighted by examples; it becomes the new mean in place.
        totals: what they came from.
        weight: the sum of their weights.
    """
    since = state.numbers[SINCE]

    def examples(of: Callable[[Contribution], bool]) -> float:
        return float(sum(one.examples for one in totals.contributions if of(one)))

    first = examples(lambda one: one.counted_round is None)
    again = examples(lambda one: one.counted_round is not None and one.counted_round <= since)
    lost = examples(lambda one: (one.counted_round or 0) > since and not one.remembered)
    seen = state.numbers[SEEN] + first
    change *= np.float32(weight / seen)
    change += state.vectors[MEAN] * np.float32((state.numbers[SEEN] - lost) / seen)
    if again:
        change -= state.vectors[BEFORE] * np.float32(again / seen)
    vectors = {**state.vectors, MEAN: change}
    if lost:  # the mean stood in for what it had told: from here on nobody's is known
        vectors[BEFORE], since = change, float(totals.round)
    return ServerState(vectors, {**state.numbers, SINCE: since, SEEN: seen})
