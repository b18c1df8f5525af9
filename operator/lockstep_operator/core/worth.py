"""What a local step is worth to a job: a, b of its rounds = a + b/K̄, by prior and history; pure.

Plans need only h = b/a, the mean steps K̄ (weighted by examples) with which a job needs twice the
rounds that it needs with very many steps. The prior is from measurements on small networks with few
classes a device; a job's own rounds move it as far as they tell rounds of few steps from rounds of
many. `planning` keeps the history, `planned` uses h. A restarted operator begins with the prior.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lockstep_allocator.devices import Array
from lockstep_api.spec import StrategyName, StrategySpec
from lockstep_api.wire import RoundReport

MOST_ROUNDS = 256
"""That are remembered."""
_FEWEST_ROUNDS = 12
_DEGREE = 4
_SPREAD = 0.5
"""Standard deviation of log h in the prior: two thirds within a factor of 1.65."""
_GRID = np.linspace(-2.2, 2.2, 89)
"""Of log h around the prior."""
_INDEPENDENT = 0.5
"""Errors of neighbouring rounds are alike: so much of them counts."""
_LEAST_LOSS = 1e-9

_FEDAVG, _CALIBRATED = 234 / 29, 220 / 15
_BOLD_SERVER, _SERVER_MOMENTUM = 229 / 6, 143 / 14.5
_OF_STRATEGY = {
    StrategyName.CALIBRATED: _CALIBRATED,
    StrategyName.SCAFFOLD: _CALIBRATED,
    StrategyName.FEDADAM: _SERVER_MOMENTUM,
    StrategyName.FEDYOGI: _SERVER_MOMENTUM,
}


@dataclass(frozen=True, slots=True)
class Progressed:
    """A finished round of a job."""

    round: int
    mean_steps: float
    """K̄ of its accepted updates."""
    loss: float | None
    """On the held-out data after it; None: not told, or not above 0."""


History = tuple[Progressed, ...]


def with_round(history: History, report: RoundReport) -> History:
    """The history with one more round; a round that is told again counts as it is told last."""
    steps = [(one.update.examples, one.update.steps) for one in report.clients]
    examples = sum(count for count, _ in steps)
    if not examples:
        return history
    mean = sum(count * done for count, done in steps) / examples
    loss = report.loss if report.loss is not None and report.loss > _LEAST_LOSS else None
    before = tuple(one for one in history if one.round < report.round)
    return (*before, Progressed(report.round, mean, loss))[-MOST_ROUNDS:]


def prior_half_steps(strategy: StrategySpec) -> float:
    """h of a job of which nothing is known yet."""
    rate, momentum = strategy.server_learning_rate or 1.0, strategy.server_momentum or 0.0
    usual = _OF_STRATEGY.get(strategy.name, _FEDAVG)
    if usual == _CALIBRATED and rate >= 1.5:
        return _BOLD_SERVER
    return _SERVER_MOMENTUM if usual == _FEDAVG and momentum > 0 else usual


def half_steps(history: Sequence[Progressed], *, prior: float) -> float:
    """h by prior and history: the mean of log h.

    For each h a round brings a job on by K̄/(K̄ + h). log loss should then be a smooth curve over
    the logarithm of what was gone so far: a polynomial, fitted by least squares. Where all rounds
    have the same K̄ each h fits as well as any other, and the prior is what remains. Rounds before
    the history count as its mean, and two more, so that the first ones do not stretch the curve.
    """
    told = [i for i, one in enumerate(history) if one.loss is not None]
    if len(told) < _FEWEST_ROUNDS:
        return prior
    mean_steps = np.array([one.mean_steps for one in history])
    log_loss = np.log([history[i].loss or 1.0 for i in told])
    brought = mean_steps / (mean_steps + prior * np.exp(_GRID)[:, None])  # (H, R)
    missing = (history[0].round + 1) * brought.mean(-1, keepdims=True)
    gone = (np.cumsum(brought, -1) + missing)[:, told]
    errors = np.array([_rest(np.log(row), log_loss) for row in gone])
    freedom = _INDEPENDENT * (len(told) - _DEGREE - 1) / 2
    chance = -0.5 * (_GRID / _SPREAD) ** 2 - freedom * np.log(errors)
    weights = np.exp(chance - chance.max())
    return float(prior * np.exp(weights @ _GRID / weights.sum()))


def _rest(at: Array, values: Array) -> float:
    """Sum of squares that a polynomial leaves, and a little, so that none fits perfectly."""
    at = (at - at.mean()) / max(float(at.std()), 1e-12)
    basis = np.stack([at**power for power in range(_DEGREE + 1)], -1)
    left = values - basis @ np.linalg.lstsq(basis, values, rcond=None)[0]
    return float(left @ left) + 1e-9 * len(values)
