"""Trains a policy: the forecaster, then PPO until it stops paying; the best held-out one stays."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from lockstep_allocator.baselines import equalize_10s
from lockstep_allocator.devices import Array
from lockstep_allocator.fleet import Fleet, run_round
from lockstep_allocator.forecast import Forecaster
from lockstep_allocator.networks import Weights, set_network
from lockstep_allocator.optimum import optimum
from lockstep_allocator.policy import (
    FEATURES,
    Policy,
    Situation,
    Training,
    asked_compute_s,
    clipped_position,
    compute_at,
    situation,
)
from lockstep_allocator.scenarios import Phone, Pool, Scenario, draw_fleet, paper, phones_of
from lockstep_allocator.traces import (
    NamedTrace,
    reversed_in_time,
    split_by_trace,
    without,
)
from lockstep_allocator.training.collecting import Actor
from lockstep_allocator.training.forecasting import fit_forecaster
from lockstep_allocator.training.nets import SetNetwork, blend, exported
from lockstep_allocator.training.ppo import new_networks, update
from lockstep_allocator.training.rollouts import Draw, Rollouts
from lockstep_allocator.training.window import PpoSettings, Window


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How to train; everything that a run depends on, so that it can be repeated."""

    seed: int = 0
    """Seed of weights, fleets and orders."""
    split: int = 0
    """Seed of the split by trace."""
    exclude: tuple[str, ...] = ()
    """Families to leave out (globs), after the split: it does not depend on them."""
    minutes: float = 25.0
    """Hard budget of the whole run."""
    cores: int = 1
    """Processes that play rounds, and threads of torch: how far a budget goes, nothing else."""
    devices: tuple[int, int] = (2, 128)
    """Fewest and most devices of a fleet, drawn log-uniformly."""
    energy_weight: tuple[float, float] = (1.0, 10.0)
    """Least and greatest energy weight, drawn log-uniformly."""
    forecast_share: float = 0.12
    """Part of the budget for the forecaster."""
    groups: int = 6
    """Groups of fleets of one size in a window."""
    rows: int = 800
    """Devices in a group."""
    learning_rate: float = 7e-4
    """Of Adam at the start; follows a cosine down to 2 %."""
    spread: tuple[float, float] = (0.35, 0.12)
    """Standard deviation of actions (logits) at the start and at the end."""
    value_condition: float = 0.5
    """The patent's condition on the loss: the critic's error over the variance of the returns."""
    patience: int = 10
    """Evaluations without gain after which training may stop."""
    gain: float = 0.2
    """What counts as a gain, in points of the held-out gap."""
    ppo: PpoSettings = field(default_factory=PpoSettings)
    """The algorithm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A moment of a run, for the curves."""

    seconds: float
    updates: int
    gap_closed: float
    """On the validation traces, in % of the gap from equalize-10s to the optimum."""
    regret: float
    """Mean excess over the optimum there, in %."""
    value_loss: float
    policy_loss: float
    kl: float
    clip_fraction: float
    spread: float


@dataclass(frozen=True, slots=True)
class Trained:
    """A policy, and how it got there."""

    policy: Policy
    curve: list[Point]


# -- validation ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Rounds on validation traces, with all about them that does not depend on the policy."""

    name: str
    fleet: Fleet
    start_s: Array
    at: Situation
    even: float
    best: float

    def cost(self, weights: Weights) -> float:
        """Mean cost of the rounds."""
        outputs = set_network(weights, self.at.features).astype(float)
        devices = self.fleet.devices
        where = clipped_position(devices, asked_compute_s(self.at, outputs))
        done = run_round(self.fleet, self.start_s, ghz=devices.work / compute_at(devices, where))
        return float(done.cost.mean())


def validation_cells(
    pool: Pool, scenarios: dict[str, Scenario], *, forecaster: Forecaster
) -> list[Cell]:
    """A fixed set of rounds: every scenario, fleets alike and mixed, small and large."""
    cells = []
    for number, (name, alike, size, weight) in enumerate(
        (name, alike, size, weight)
        for name in scenarios
        for alike in (True, False)
        for size in (3, 10, 30, 100)
        for weight in (1.0, 10.0)
    ):
        random = np.random.default_rng(1000 + number)
        shape = (max(24, 600 // size), size)
        weights = np.full((shape[0], 1), weight)
        fleet = draw_fleet(
            scenarios[name], pool, shape=shape, energy_weight=weights, random=random, alike=alike
        )
        start_s = np.zeros((shape[0], 1))
        first = run_round(fleet, start_s, ghz=equalize_10s(fleet.observe(start_s)))
        start_s = start_s + first.seconds[:, None]
        observation = fleet.observe(start_s)
        even = run_round(fleet, start_s, ghz=equalize_10s(observation)).cost.mean()
        best = optimum(fleet, start_s).cost.mean()
        at = situation(forecaster, observation)
        title = f"{name} {'alike' if alike else 'mixed'} N={size} x{weight:g}"
        cells.append(
            Cell(
                name=title, fleet=fleet, start_s=start_s, at=at, even=float(even), best=float(best)
            )
        )
    return cells


def judge(cells: Sequence[Cell], weights: Weights) -> tuple[float, float, dict[str, float]]:
    """Mean gap closed and mean regret in %, and the gap closed in each cell."""
    gaps, regrets = {}, []
    for cell in cells:
        cost = cell.cost(weights)
        gaps[cell.name] = 100 * (cell.even - cost) / max(cell.even - cell.best, 1e-9)
        regrets.append(100 * (cost / cell.best - 1))
    return float(np.mean(list(gaps.values()))), float(np.mean(regrets)), gaps


# -- training --------------------------------------------------------------------------------


class _Course:
    """A run: the networks, and how far they have come."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        self.orders = torch.Generator().manual_seed(settings.seed)
        self.actor, self.critic = new_networks(len(FEATURES), seed=settings.seed)
        self.average = copy.deepcopy(self.actor)
        self.steps = 0
        self.optimizer = torch.optim.Adam(
            [*self.actor.parameters(), *self.critic.parameters()], lr=settings.learning_rate
        )

    def spread(self, share: float) -> float:
        """Standard deviation of actions after this share of the budget."""
        begin, end = self.settings.spread
        return begin * (end / begin) ** min(1.0, share)

    def player(self, forecaster: Forecaster, spread: float) -> Actor:
        """What plays the next window."""
        return Actor(
            forecaster=forecaster,
            weights=exported(self.actor),
            critic=exported(self.critic),
            spread=spread,
        )

    def learn(self, windows: Sequence[Window], share: float, *, spread: float) -> dict[str, float]:
        """One update; the windows are of no use afterwards."""
        rate = self.settings.learning_rate * (0.02 + 0.49 * (1 + math.cos(math.pi * share)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * min(1.0, (self.steps + 1) / 100)
        told: list[dict[str, float]] = []
        for stats in update(
            self.actor,
            self.critic,
            optimizer=self.optimizer,
            windows=windows,
            spread=spread,
            settings=self.settings.ppo,
            random=self.orders,
        ):
            self.steps += 1
            blend(self.average, self.actor, share=1 / min(self.steps + 1, 300))
            told.append(asdict(stats))
        return {name: float(np.mean([one[name] for one in told])) for name in told[0]}


def train(
    traces: Sequence[NamedTrace],
    phones: Sequence[Phone],
    *,
    settings: TrainSettings,
    tick: Callable[[float, str], None] = lambda share, text: None,
) -> Trained:
    """Trains a policy on the training part of the split.

    Args:
        traces: all traces; a third of each family is never looked at.
        phones: clusters with measured power.
        settings: see there.
        tick: told the share of the budget that is used, and how it goes.
    """
    began = time.monotonic()
    parts = without(split_by_trace(traces, seed=settings.split), settings.exclude)
    pool = Pool.of([*parts.train, *(reversed_in_time(trace) for trace in parts.train)])
    held_out = Pool.of(parts.validation)
    budget_s = settings.minutes * 60
    fit = fit_forecaster(
        pool, held_out, seed=settings.seed, seconds=budget_s * settings.forecast_share,
        tick=lambda text: tick((time.monotonic() - began) / budget_s, text),
    )  # fmt: skip
    measured = phones_of(phones)
    cells = validation_cells(
        held_out, {"paper": paper, "phones": measured}, forecaster=fit.forecaster
    )
    draw = Draw(
        pool=pool,
        phones=measured,
        devices=settings.devices,
        energy_weight=settings.energy_weight,
        rows=settings.rows,
        ppo=settings.ppo,
    )
    course = _Course(settings)
    best = _Best(course.average, cells)
    curve: list[Point] = []
    updates, stopped, looked = 0, "budget", 0.0
    with Rollouts(draw, seed=settings.seed, cores=settings.cores) as rollouts:
        while (passed := time.monotonic() - began) < budget_s:
            done = passed / budget_s
            share = (done - settings.forecast_share) / (1 - settings.forecast_share)
            spread = course.spread(share)
            player = course.player(fit.forecaster, spread)
            stats = course.learn(rollouts.windows(player, settings.groups), share, spread=spread)
            updates += 1
            if time.monotonic() - looked < min(30.0, budget_s / 60):
                continue
            looked = time.monotonic()
            gap, regret = best.look(settings.gain)
            curve.append(
                Point(
                    seconds=passed,
                    updates=updates,
                    gap_closed=gap,
                    regret=regret,
                    value_loss=stats["value_loss"],
                    policy_loss=stats["policy_loss"],
                    kl=stats["kl"],
                    clip_fraction=stats["clip_fraction"],
                    spread=spread,
                )
            )
            tick(done, f"update {updates}: gap closed {gap:.1f} %, best {best.gap:.1f} %")
            if best.waited >= settings.patience and stats["value_loss"] <= settings.value_condition:
                stopped = "no gain"
                break
    best.look(settings.gain)
    told = Training(
        seed=settings.seed, split=settings.split, minutes=(time.monotonic() - began) / 60,
        updates=updates, stopped=stopped,
        train_sha256=tuple(sorted(trace.sha256 for trace in parts.train)),
        validation_sha256=tuple(sorted(trace.sha256 for trace in parts.validation)),
        families=tuple(sorted({trace.family for trace in parts.train})),
        metrics=best.gaps | {"gap closed": best.gap, "forecast nats": fit.validation_loss},
        settings=asdict(settings),
    )  # fmt: skip
    return Trained(Policy(fit.forecaster, best.weights, told), curve)


class _Best:
    """The best averaged weights so far; before any training that is the equaliser."""

    def __init__(self, average: SetNetwork, cells: Sequence[Cell]) -> None:
        self.average, self.cells = average, cells
        self.weights = exported(average)
        self.gap, _, self.gaps = judge(cells, self.weights)
        self.mark = self.gap
        self.waited = 0

    def look(self, gain: float) -> tuple[float, float]:
        """Gap and regret of the average now; kept if it is the best."""
        weights = exported(self.average)
        gap, regret, gaps = judge(self.cells, weights)
        if gap > self.gap:
            self.gap, self.weights, self.gaps = gap, weights, gaps
        if gap > self.mark + gain:
            self.mark, self.waited = gap, 0
        else:
            self.waited += 1
        return gap, regret
