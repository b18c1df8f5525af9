"""What a user should know of a job that can run, but is set in a way that seldom learns well. Pure.

`decide` tells it with one Warning event when a job is accepted; nothing is refused for it.
`lockstep validate` tells besides what it cannot know of an operator. The rates are those of the
built-in models in docs/calibration.md: of others nothing is known.
"""

from collections.abc import Iterator

from lockstep_api.spec import CalibrationGradient, FederatedJobSpec, Mode, StrategyName
from lockstep_operator.core.allowed import BY_DEFAULT
from lockstep_operator.core.model import EventNote

LEARNING_RATE_UNUSUAL = "LearningRateUnusual"
_BEST = {"mlp": 0.2, "cnn": 0.1}
"""The learning rate that suits fedavg, by built-in model."""
_BEST_CORRECTED = {"mlp": 0.05, "cnn": 0.03}
"""The same where each step is corrected by the gradients of other clients."""
_TOO_HIGH, _TOO_LOW = 2, 20
"""So many times above, or below, what suits is far from it."""
_MOST_AT_START = 0.4
"""Learning rate · steps up to which a gradient at the received model may be repeated."""
_AVERAGED = frozenset({None, CalibrationGradient.AVERAGE})


def advised(spec: FederatedJobSpec) -> tuple[EventNote, ...]:
    """The event for a job whose learning rate is far from what suits it; else nothing."""
    sentences = "; ".join(unusual(spec))
    if not sentences:
        return ()
    return (EventNote("Warning", LEARNING_RATE_UNUSUAL, sentences, once=sentences),)


def refused_by_default(spec: FederatedJobSpec) -> list[str]:
    """What an operator refuses unless its configuration says otherwise."""
    return BY_DEFAULT.refusals(spec)


def left_to_operator(spec: FederatedJobSpec) -> list[str]:
    """What only an operator can tell of a job, since it alone has the accountant of ε."""
    budget = None if spec.privacy is None else spec.privacy.epsilon_budget
    if budget is None:
        return []
    return [
        f"privacy.epsilonBudget {budget:g}: the operator alone reckons ε, and does not accept "
        "a job whose budget no round fits in"
    ]


def unusual(spec: FederatedJobSpec) -> list[str]:
    """A sentence for each thing about the learning rate that is far from what suits the job.

    In mode split a step has the examples of a whole cluster, which suits other rates: of these
    nothing is known.
    """
    if spec.mode is Mode.SPLIT:
        return []
    return [*_momentum(spec), *_rate(spec), *_steps(spec)]


def _factor(spec: FederatedJobSpec) -> float:
    """How much further momentum m carries a step: 1/(1 − m) times, less where a round is short.

    Its state starts at 0 in every round, so of K gradients the j-th last counts (1 − mʲ)/(1 − m).
    """
    momentum, steps = spec.training.momentum, _most_steps(spec)
    lasting = 1.0 / (1.0 - momentum)
    if steps is None:
        return lasting
    return lasting * (1.0 - momentum * (1.0 - momentum**steps) * lasting / steps)


def _rate_of(spec: FederatedJobSpec) -> float:
    """What a step comes to, in learning rates."""
    return round(spec.training.learning_rate * _factor(spec), 12)


def _is_corrected(spec: FederatedJobSpec) -> bool:
    """Whether what other clients found counts about as much in a step as the own gradient."""
    weight = spec.strategy.calibration_weight
    match spec.strategy.name:
        case StrategyName.SCAFFOLD:
            return True
        case StrategyName.CALIBRATED:
            return weight is None or weight >= 0.5
        case StrategyName.FEDAGRAC:
            return weight is not None and weight >= 0.5
    return False


def _momentum(spec: FederatedJobSpec) -> Iterator[str]:
    momentum = spec.training.momentum
    if momentum and _is_corrected(spec):
        yield (
            f"training.momentum {momentum:g} with strategy {spec.strategy.name} repeats each "
            f"correction too, and training.learningRate {spec.training.learning_rate:g} counts as "
            f"{_rate_of(spec):.2g}: set momentum 0"
        )


def _rate(spec: FederatedJobSpec) -> Iterator[str]:
    model, strategy = spec.model.name, spec.strategy.name
    if model not in _BEST:
        return
    corrected = _is_corrected(spec)
    suits = (_BEST_CORRECTED if corrected else _BEST)[model]
    rate = _rate_of(spec)
    if suits <= _TOO_LOW * rate and rate <= _TOO_HIGH * suits:
        return
    is_high = rate > suits
    why = "accuracy saws or collapses" if is_high else "the job learns hardly anything in a round"
    rule = f", which takes about a third of fedavg's {_BEST[model]:g}" if corrected else ""
    yield (
        f"training.learningRate {spec.training.learning_rate:g}{_counted(spec)} is far "
        f"{'above' if is_high else 'below'} {suits:g}, what suits strategy {strategy} with model "
        f"{model}{rule}: {why}; set about {suits / _factor(spec):.2g}"
    )


def _counted(spec: FederatedJobSpec) -> str:
    momentum = spec.training.momentum
    return f" (with momentum {momentum:g} it counts as {_rate_of(spec):.2g})" if momentum else ""


def _steps(spec: FederatedJobSpec) -> Iterator[str]:
    """A gradient at the received model moves a client by its rate times its steps, however far."""
    which, most = _at_the_start(spec), _most_steps(spec)
    if which is None or most is None or _rate_of(spec) * most <= _MOST_AT_START:
        return
    yield (
        f"strategy.{which} takes gradients at the received model, which holds up to "
        f"learningRate · local steps = {_MOST_AT_START:g}, and here it is "
        f"{_rate_of(spec) * most:.3g} ({most} steps): lower training.learningRate to "
        f"{_MOST_AT_START / most / _factor(spec):.2g}, or do without it"
    )


def _at_the_start(spec: FederatedJobSpec) -> str | None:
    """The field that asks for gradients at the received model."""
    strategy = spec.strategy
    if strategy.name is StrategyName.CALIBRATED and strategy.gradient not in _AVERAGED:
        return f"gradient {strategy.gradient}"
    if strategy.name is StrategyName.SCAFFOLD and strategy.option == "I":
        return "option I"
    return None


def _most_steps(spec: FederatedJobSpec) -> int | None:
    """Steps that a device may do in a round; None: the time decides."""
    steps = spec.training.local_steps
    if steps.per_device is not None:
        return steps.per_device.max
    if steps.planned is not None:
        return int(steps.planned.min_steps * steps.planned.max_ratio)
    return steps.fixed
