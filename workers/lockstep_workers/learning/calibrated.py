"""Local steps that are calibrated by everybody's gradient: unequal numbers of them without bias.

CN112990488B, claim 1, with what neural networks need beside it (docs/calibration.md). In a round a
client adds one vector to each of its K gradients:

    c = weight · min(1, K'/K) · (ṽ - v) + λ / (η K) · (x̃ - x)

v is the gradient that stands for the client, of its last update in the model, and K' the number of
steps behind it; ṽ is the mean over all clients' (`latest`); x̃ is the model received, x where the
client's own steps ended the last time, η the learning rate, with momentum m divided by 1 - m. In
its first round, and after it has lost its memory, c is 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from lockstep_api.spec import CalibrationGradient, StrategySpec
from lockstep_workers.learning.gradients import RawMean
from lockstep_workers.learning.latest import CHANGE, MEAN, folded, told, with_mean
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

GRADIENT, END = "gradient", "end"
"""What a client remembers: its v and its x."""
_STEPS = "steps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The parameters of the method."""

    weight: float = 1.0
    """Of the difference of gradients."""
    deviation_weight: float = 0.1
    """λ of the model-deviation term, in (-1, 1)."""
    gradient: CalibrationGradient = CalibrationGradient.AVERAGE
    """Which one stands for a client."""
    minibatches: int | None = None
    """With gradient `minibatches`: how many."""


def calibration_of(spec: StrategySpec) -> Calibration:
    """What a job asks for; empty fields take the defaults."""
    given = {
        "weight": spec.calibration_weight,
        "deviation_weight": spec.deviation_weight,
        "gradient": spec.gradient,
        "minibatches": spec.minibatches,
    }
    return Calibration(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def calibrated(how: Calibration) -> Strategy:
    """The method of the module's head."""
    averages = how.gradient is CalibrationGradient.AVERAGE

    def begin(
        received: Mapping[str, Tensor], /, *, plan: LocalPlan, memory: ClientMemory, probe: Probe
    ) -> LocalPart:
        own, probed, mean = memory.vectors.get(GRADIENT), _probed(how, probe), RawMean()
        calibration = None if own is None else _calibration(how, received, plan=plan, memory=memory)

        def correct(_weights: Tensor, gradient: Tensor) -> None:
            if probed is None and (averages or not mean.steps):
                mean.add(gradient)
            if calibration is not None:
                gradient.add_(calibration)

        def finish(result: LocalResult) -> tuple[Mapping[str, Tensor], ClientMemory]:
            new = mean.take() if probed is None else probed
            kept = {GRADIENT: new, END: result.weights}
            uploads = {MODEL: result.weights, CHANGE: told(new, own, plan=plan)}
            return uploads, ClientMemory(kept, {_STEPS: float(result.steps)})

        return LocalPart(correct, finish)

    return Strategy(
        broadcasts=(MODEL, MEAN),
        uploads={MODEL: by_examples, CHANGE: by_examples},
        remembers=(GRADIENT, END) if how.deviation_weight else (GRADIENT,),
        start=with_mean,
        begin=begin,
        aggregate=_aggregate,
    )


def _probed(how: Calibration, probe: Probe) -> Tensor | None:
    """The gradient at the received model, if that is what stands for a client."""
    match how.gradient:
        case CalibrationGradient.FULL:
            return probe()
        case CalibrationGradient.MINIBATCHES:
            return probe(how.minibatches)
    return None


def _calibration(
    how: Calibration, received: Mapping[str, Tensor], *, plan: LocalPlan, memory: ClientMemory
) -> Tensor:
    """What is added to each gradient of a client that remembers.

    An average over K' steps is smaller than the gradient that the client began with, the more so
    the more steps: over more steps than its own it would push further than they have shown.
    Gradients at the received model know of no steps. The λ term needs where the *last* round ended.
    """
    weight = how.weight
    if how.gradient is CalibrationGradient.AVERAGE:
        weight *= min(1.0, memory.numbers[_STEPS] / plan.steps)
    calibration = (received[MEAN] - memory.vectors[GRADIENT]).mul_(weight)
    if how.deviation_weight and plan.base_round == plan.round - 1:
        deviation = received[MODEL] - memory.vectors[END]
        share = how.deviation_weight / (plan.effective_rate * plan.steps)
        calibration.add_(deviation, alpha=share)
    return calibration


def _aggregate(state: ServerState, mean: Mapping[str, Vector], /, *, totals: Totals) -> ServerState:
    after = folded(state, mean[CHANGE], totals=totals, weight=totals.weights[CHANGE])
    return replace(after, vectors={**after.vectors, MODEL: mean[MODEL]})
