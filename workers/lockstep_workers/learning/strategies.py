"""The strategies that a job can ask for, composed rather than inherited, and which its spec means.

Called by whoever builds a client or a server; `learning.strategy` says what a strategy may do.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from lockstep_api.settings import JobSettings
from lockstep_api.spec import StrategyName, StrategySpec
from lockstep_workers.learning.calibrated import calibrated, calibration_of
from lockstep_workers.learning.fedagrac import DEFAULT_WEIGHT, fedagrac
from lockstep_workers.learning.normalised import with_normalised_steps
from lockstep_workers.learning.privacy import with_equal_weights
from lockstep_workers.learning.scaffold import scaffold
from lockstep_workers.learning.server_optimizer import (
    Adaptive,
    with_adaptive_server,
    with_server_optimizer,
)
from lockstep_workers.learning.strategy import (
    MODEL,
    NO_MEMORY,
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

DEFAULT_MU = 0.01
_ADAPTIVE = (StrategyName.FEDADAM, StrategyName.FEDYOGI)


def _model_only(model: Vector) -> ServerState:
    return ServerState({MODEL: model})


def _upload_model(result: LocalResult) -> tuple[Mapping[str, Tensor], ClientMemory]:
    return {MODEL: result.weights}, NO_MEMORY


def _plain(
    _: Mapping[str, Tensor], /, *, plan: LocalPlan, memory: ClientMemory, probe: Probe
) -> LocalPart:
    return LocalPart(None, _upload_model)


def _take_mean(state: ServerState, mean: Mapping[str, Vector], /, *, totals: Totals) -> ServerState:
    return replace(state, vectors={**state.vectors, MODEL: mean[MODEL]})


def fedavg() -> Strategy:
    """FedAvg: the mean of the models weighted by examples (McMahan et al. 2017, algorithm 1)."""
    return Strategy(
        broadcasts=(MODEL,),
        uploads={MODEL: by_examples},
        start=_model_only,
        begin=_plain,
        aggregate=_take_mean,
    )


def with_proximal(base: Strategy, mu: float) -> Strategy:
    """Adds μ·(w − w_global) to each local gradient (FedProx, Li et al. 2020, eq. 2)."""

    def begin(
        received: Mapping[str, Tensor], /, *, plan: LocalPlan, memory: ClientMemory, probe: Probe
    ) -> LocalPart:
        part = base.begin(received, plan=plan, memory=memory, probe=probe)
        anchor = received[MODEL]

        def correct(weights: Tensor, gradient: Tensor) -> None:
            if part.correct is not None:
                part.correct(weights, gradient)
            gradient.add_(weights - anchor, alpha=mu)

        return replace(part, correct=correct)

    return replace(base, begin=begin)


def build_strategy(spec: StrategySpec, *, momentum: float, private: bool = False) -> Strategy:
    """The strategy that a job asks for, whose clients train with this momentum.

    Where clients are hidden (`private`) each update weighs the same.
    """
    strategy = _with_server(_method(spec, momentum), spec)
    return with_equal_weights(strategy) if private else strategy


def strategy_of(job: JobSettings) -> Strategy:
    """The strategy of a job."""
    return build_strategy(
        job.strategy, momentum=job.training.momentum, private=job.privacy is not None
    )


def _method(spec: StrategySpec, momentum: float) -> Strategy:
    """What clients do and how their updates are combined."""
    match spec.name:
        case StrategyName.FEDAVG | StrategyName.FEDADAM | StrategyName.FEDYOGI:
            return fedavg()
        case StrategyName.FEDPROX:
            return with_proximal(fedavg(), DEFAULT_MU if spec.mu is None else spec.mu)
        case StrategyName.FEDNOVA:
            return with_normalised_steps(fedavg(), momentum=momentum)
        case StrategyName.SCAFFOLD:
            return scaffold(at_start=spec.option == "I")
        case StrategyName.CALIBRATED:
            return calibrated(calibration_of(spec))
        case StrategyName.FEDAGRAC:
            weight = spec.calibration_weight
            return fedagrac(weight=DEFAULT_WEIGHT if weight is None else weight)


def _with_server(method: Strategy, spec: StrategySpec) -> Strategy:
    """The method with the server's own optimiser around it, if there is one."""
    rate, momentum = spec.server_learning_rate, spec.server_momentum
    if spec.name in _ADAPTIVE:
        given = {"learning_rate": rate, "beta1": momentum}
        chosen = {name: value for name, value in given.items() if value is not None}
        adaptive = Adaptive(**chosen, yogi=spec.name is StrategyName.FEDYOGI)
        return with_adaptive_server(method, adaptive)
    return with_server_optimizer(
        method, learning_rate=1.0 if rate is None else rate, momentum=momentum or 0.0
    )
