"""The server's own optimiser around any strategy: what becomes of the change that a round asks for.

`learning.strategies` composes them. Each takes the model that the strategy beneath would go on with
less the one that it had as a gradient of the server, upside down, keeps what it needs from round to
round as vectors of the state, and moves the model itself. Clients know nothing of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from lockstep_workers.learning.strategy import MODEL, ServerState, Strategy, Totals, Vector

MOMENTUM = "server-momentum"
SECOND_MOMENT = "server-second-moment"

_Fresh = Callable[[Vector], Mapping[str, Vector]]
"""The initial model → the optimiser's vectors before round 1."""
_Step = Callable[[Mapping[str, Vector], Vector], tuple[Vector, Mapping[str, Vector]]]
"""(its vectors, the change that the round asks for) → (what is added to the model, its vectors);
both vectors that come out are new, or lie in the change."""


def with_server_optimizer(
    base: Strategy, *, learning_rate: float = 1.0, momentum: float = 0.0
) -> Strategy:
    """FedAvgM (Hsu et al. 2019): m ← β·m + Δ, x ← x + η·m; momentum is not damped.

    With 1 and 0 it is the strategy itself.
    """

    def fresh(model: Vector) -> Mapping[str, Vector]:
        return {MOMENTUM: np.zeros_like(model)} if momentum else {}

    def step(own: Mapping[str, Vector], delta: Vector) -> tuple[Vector, Mapping[str, Vector]]:
        if not momentum:
            return np.multiply(delta, learning_rate, out=delta), {}
        lasting = own[MOMENTUM] * momentum
        lasting += delta
        return np.multiply(lasting, learning_rate, out=delta), {MOMENTUM: lasting}

    if (learning_rate, momentum) == (1.0, 0.0):
        return base
    return _with_server(base, fresh=fresh, step=step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive:
    """Parameters of FedAdam and FedYogi, named and set as in Reddi et al. 2021."""

    learning_rate: float = 0.01
    """η of the server."""
    beta1: float = 0.9
    """Share of the old first moment."""
    beta2: float = 0.99
    """Share of the old second moment."""
    tau: float = 1e-3
    """How adaptive it is: the second moment starts at τ², and τ is added to its root."""
    yogi: bool = False
    """FedYogi: the second moment falls no faster than it grows."""


def with_adaptive_server(base: Strategy, adaptive: Adaptive) -> Strategy:
    """FedAdam and FedYogi (Reddi et al. 2021, algorithm 2): x ← x + η·m/(√v + τ)."""
    beta1, beta2, tau = adaptive.beta1, adaptive.beta2, adaptive.tau

    def fresh(model: Vector) -> Mapping[str, Vector]:
        return {MOMENTUM: np.zeros_like(model), SECOND_MOMENT: np.full_like(model, tau**2)}

    def step(own: Mapping[str, Vector], delta: Vector) -> tuple[Vector, Mapping[str, Vector]]:
        first = own[MOMENTUM] * beta1
        first += (1 - beta1) * delta
        squared, second = np.square(delta, out=delta), own[SECOND_MOMENT].copy()
        missing = squared - second
        second += (1 - beta2) * (squared * np.sign(missing) if adaptive.yogi else missing)
        change = np.sqrt(second, out=delta)
        change += tau
        np.divide(first, change, out=change)
        change *= adaptive.learning_rate
        return change, {MOMENTUM: first, SECOND_MOMENT: second}

    return _with_server(base, fresh=fresh, step=step)


def _with_server(base: Strategy, *, fresh: _Fresh, step: _Step) -> Strategy:
    """The strategy with a server that makes this step of what each round asks for."""

    def start(model: Vector) -> ServerState:
        state = base.start(model)
        return replace(state, vectors={**state.vectors, **fresh(model)})

    def aggregate(
        state: ServerState, mean: Mapping[str, Vector], /, *, totals: Totals
    ) -> ServerState:
        old, after = state.vectors[MODEL], base.aggregate(state, mean, totals=totals)
        change, own = step(state.vectors, after.vectors[MODEL] - old)
        moved = np.add(old, change, out=change)
        return replace(after, vectors={**after.vectors, **own, MODEL: moved})

    return replace(base, start=start, aggregate=aggregate)
