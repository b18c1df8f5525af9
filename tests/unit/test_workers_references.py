"""Strategies against their papers' algorithm boxes, client by client in float64.

What the oracle's other authors do not have: clients of unequal size, local momentum, SCAFFOLD's
option I, FedaGrac, FedAdam and FedYogi.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from lockstep_workers.learning.fedagrac import fedagrac
from lockstep_workers.learning.normalised import effective_steps, with_normalised_steps
from lockstep_workers.learning.scaffold import scaffold
from lockstep_workers.learning.server_optimizer import (
    Adaptive,
    with_adaptive_server,
    with_server_optimizer,
)
from lockstep_workers.learning.strategies import fedavg
from lockstep_workers.learning.strategy import Strategy
from tests.support.quadratics import Quadratic, QuadraticJob

Float = NDArray[np.float64]
Model = Callable[[Sequence[str]], Float]
"""(participants) → the model after a round of theirs."""

RATE = 0.05
CLIENTS = {
    "a": Quadratic((0.5, 1.0, 1.5), (3.0, -1.0, 2.0), steps=2, examples=1),
    "b": Quadratic((1.5, 0.7, 0.5), (-2.0, 1.0, 0.5), steps=11, examples=4),
    "c": Quadratic((1.0, 1.0, 1.2), (1.0, 2.0, -3.0), steps=5, examples=2),
    "d": Quadratic((0.8, 1.3, 0.6), (-1.0, -2.0, 1.0), steps=7, examples=7),
}
ROUNDS = [["a", "b", "c", "d"], ["b"], ["a", "d"], ["c", "b", "d"], ["a", "b", "c", "d"], ["a"]]


def weights(names: Sequence[str]) -> Float:
    held = np.array([CLIENTS[name].examples for name in names], np.float64)
    shares: Float = held / held.sum()
    return shares


def slope(name: str, x: Float) -> Float:
    gradient: Float = np.array(CLIENTS[name].curvature) * (x - np.array(CLIENTS[name].optimum))
    return gradient


def descend(
    name: str, x: Float, *, shift: Float | float = 0.0, momentum: float = 0.0
) -> tuple[Float, list[Float]]:
    """(where the client's steps end, its raw gradients)."""
    seen: list[Float] = []
    velocity = np.zeros_like(x)
    for _ in range(CLIENTS[name].steps):
        seen.append(slope(name, x))
        velocity = momentum * velocity + seen[-1] + shift
        x = x - RATE * velocity
    return x, seen


def assert_follows(strategy: Strategy, reference: Model, *, momentum: float = 0.0) -> None:
    """The same model after every round."""
    job = QuadraticJob(strategy, CLIENTS, RATE, momentum)
    for names in ROUNDS:
        np.testing.assert_allclose(job.play(1, names), reference(names), rtol=2e-5, atol=2e-6)


class Scaffold:
    """Karimireddy et al. 2020, algorithm 1, lines 3 to 17, with shares of examples for 1/N."""

    def __init__(self, *, option: str, momentum: float) -> None:
        self.x, self.c = np.zeros(3), np.zeros(3)
        self.own = {name: np.zeros(3) for name in CLIENTS}
        self.option, self.momentum = option, momentum
        self.share = dict(zip(CLIENTS, weights([*CLIENTS]), strict=True))

    def __call__(self, names: Sequence[str]) -> Float:
        ends, changes = [], []
        for name in names:
            shift = self.c - self.own[name]
            end, seen = descend(name, self.x, shift=shift, momentum=self.momentum)
            new = slope(name, self.x) if self.option == "I" else np.mean(seen, axis=0)
            ends.append(end)
            changes.append(self.share[name] * (new - self.own[name]))
            self.own[name] = new
        self.x = np.average(ends, axis=0, weights=weights(names))
        self.c = self.c + np.sum(changes, axis=0)
        return self.x


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("option", ["I", "II"])
def test_scaffold(option: str, momentum: float) -> None:
    reference = Scaffold(option=option, momentum=momentum)
    assert_follows(scaffold(at_start=option == "I"), reference, momentum=momentum)


class Fednova:
    """Wang et al. 2020, with ‖a‖₁ counted step by step as in the authors' optimiser."""

    def __init__(self, momentum: float) -> None:
        self.x, self.momentum = np.zeros(3), momentum

    def norm(self, steps: int) -> float:
        counter = total = 0.0
        for _ in range(steps):
            counter = self.momentum * counter + 1
            total += counter
        return total

    def __call__(self, names: Sequence[str]) -> Float:
        norms = np.array([self.norm(CLIENTS[name].steps) for name in names])
        ends = [descend(name, self.x, momentum=self.momentum)[0] for name in names]
        directions = [(self.x - end) / norm for end, norm in zip(ends, norms, strict=True)]
        step = (weights(names) * norms).sum() * np.average(
            directions, axis=0, weights=weights(names)
        )
        self.x = self.x - step
        return self.x


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_fednova(momentum: float) -> None:
    strategy = with_normalised_steps(fedavg(), momentum=momentum)
    assert_follows(strategy, Fednova(momentum), momentum=momentum)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_effective_steps_are_what_the_gradients_count(steps: int, momentum: float) -> None:
    assert effective_steps(steps, momentum) == pytest.approx(Fednova(momentum).norm(steps))


class Fedagrac:
    """As its authors' code: fast clients tell their first gradient, slow ones their average."""

    def __init__(self, weight: float) -> None:
        self.x, self.mu, self.weight = np.zeros(3), np.zeros(3), weight
        self.own = {name: np.zeros(3) for name in CLIENTS}

    def __call__(self, names: Sequence[str]) -> Float:
        steps = [CLIENTS[name].steps for name in names]
        mean_steps = (weights(names) * steps).sum()
        ends, told = [], []
        for name in names:
            shift = self.weight * (self.mu - self.own[name])
            end, seen = descend(name, self.x, shift=shift)
            average = np.mean(seen, axis=0)
            ends.append(end)
            told.append(average if CLIENTS[name].steps <= mean_steps else seen[0])
            self.own[name] = average
        self.x = np.average(ends, axis=0, weights=weights(names))
        self.mu = np.average(told, axis=0, weights=weights(names))
        return self.x


@pytest.mark.parametrize("weight", [0.03, 1.0])
def test_fedagrac(weight: float) -> None:
    assert_follows(fedagrac(weight=weight), Fedagrac(weight))


class Server:
    """FedAvg under a server's optimiser: (the change that a round asks for) → the change made."""

    def __init__(self, step: Callable[[Float], Float]) -> None:
        self.x, self.step = np.zeros(3), step

    def __call__(self, names: Sequence[str]) -> Float:
        ends = [descend(name, self.x)[0] for name in names]
        self.x = self.x + self.step(np.average(ends, axis=0, weights=weights(names)) - self.x)
        return self.x


def momentum_step(rate: float, beta: float) -> Callable[[Float], Float]:
    """Hsu et al. 2019: v ← βv + Δw."""
    seen: list[Float] = []

    def step(delta: Float) -> Float:
        seen.append(delta)
        aged = [beta**age * one for age, one in enumerate(reversed(seen))]
        change: Float = rate * np.sum(aged, axis=0)
        return change

    return step


@pytest.mark.parametrize(("rate", "beta"), [(1.0, 0.9), (0.1, 0.9), (2.0, 0.0)])
def test_fedavgm(rate: float, beta: float) -> None:
    strategy = with_server_optimizer(fedavg(), learning_rate=rate, momentum=beta)
    assert_follows(strategy, Server(momentum_step(rate, beta)))


class Moments:
    """Reddi et al. 2021, algorithm 2, lines 9 to 13."""

    def __init__(self, *, yogi: bool) -> None:
        self.m, self.v, self.yogi = np.zeros(3), np.full(3, 1e-6), yogi

    def __call__(self, delta: Float) -> Float:
        self.m = 0.9 * self.m + 0.1 * delta
        if self.yogi:
            self.v = self.v - 0.01 * delta**2 * np.sign(self.v - delta**2)
        else:
            self.v = 0.99 * self.v + 0.01 * delta**2
        return 0.01 * self.m / (np.sqrt(self.v) + 1e-3)


@pytest.mark.parametrize("yogi", [False, True])
def test_adaptive_servers(yogi: bool) -> None:
    assert_follows(with_adaptive_server(fedavg(), Adaptive(yogi=yogi)), Server(Moments(yogi=yogi)))


def test_a_server_that_does_nothing_of_its_own_is_not_there() -> None:
    plain = fedavg()
    assert with_server_optimizer(plain, learning_rate=1.0, momentum=0.0) is plain
