"""FedNova: what each client adds counts by its direction, not by how many steps it took.

`learning.strategies` composes it.
"""

from collections.abc import Mapping
from dataclasses import replace

from lockstep_workers.learning.strategy import MODEL, ServerState, Strategy, Totals, Vector


def effective_steps(steps: int, momentum: float) -> float:
    """‖a‖₁ of so many steps: how often the gradients of all of them count where they end.

    Without momentum each counts once; with ρ the j-th last counts (1 − ρʲ)/(1 − ρ) times (Wang et
    al. 2020, section 4).
    """
    rest = momentum * (1.0 - momentum**steps) / (1.0 - momentum)
    return (steps - rest) / (1.0 - momentum)


def with_normalised_steps(base: Strategy, *, momentum: float) -> Strategy:
    """FedNova (Wang et al. 2020): x ← x + τ·Σ pᵢ·(xᵢ − x)/‖aᵢ‖₁, with τ = Σ pᵢ·‖aᵢ‖₁.

    p are the examples' shares among the round's participants; `momentum` is that of local SGD. An
    update's weight is pᵢ/‖aᵢ‖₁, so the mean of the models is all that has to be summed up.
    """

    def weigh(*, examples: int, steps: int) -> float:
        return examples / effective_steps(steps, momentum)

    def aggregate(
        state: ServerState, mean: Mapping[str, Vector], /, *, totals: Totals
    ) -> ServerState:
        given = totals.contributions
        examples = sum(one.examples for one in given)
        tau = sum(one.examples * effective_steps(one.steps, momentum) for one in given) / examples
        old, model = state.vectors[MODEL], mean[MODEL]
        model -= old
        model *= tau * totals.weights[MODEL] / examples
        model += old
        return replace(state, vectors={**state.vectors, MODEL: model})

    return replace(base, uploads={MODEL: weigh}, aggregate=aggregate)
