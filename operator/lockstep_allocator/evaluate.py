"""Judges methods on the same rounds: cost, excess over the optimum, share of the gap closed.

Closed loop: every method plays its own rounds one after the other, from the same start, on the same
devices and traces. Standard errors are over environments (jackknife for ratios); they do not
contain the choice of traces.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from lockstep_allocator.baselines import (
    BASELINES,
    SLACK_CAUTIONS,
    SLACK_SHARES,
    slack,
)
from lockstep_allocator.devices import Array
from lockstep_allocator.fleet import Fleet, Method, PlayedRound, run_round, run_rounds
from lockstep_allocator.forecast import Forecaster, look_ahead
from lockstep_allocator.observation import Observation, see
from lockstep_allocator.optimum import optimum
from lockstep_allocator.policy import Policy
from lockstep_allocator.scenarios import Pool, Scenario, draw_fleet
from lockstep_allocator.traces import Index

REFERENCE = "equalize-10s"
_PLAN_TURNS = 20


@dataclass(frozen=True, slots=True)
class Question:
    """One cell of the table."""

    scenario: str
    devices: int
    energy_weight: float
    rounds: int
    seeds: tuple[int, ...]
    fleets: int
    """Fleets a seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A method's line in a cell; means over fleets and rounds."""

    scenario: str
    devices: int
    energy_weight: float
    method: str
    cost: float
    """Time + λ·energy of a round."""
    cost_sem: float | None
    """Standard errors are empty for a single fleet."""
    time_s: float
    energy_j: float
    regret: float
    """cost / cost of the hindsight optimum - 1."""
    regret_sem: float | None
    gap_closed: float | None
    """(cost of equalize-10s - cost) / (cost of equalize-10s - cost of the optimum); empty where
    there is no gap."""
    gap_closed_sem: float | None


def forecast_plan(forecaster: Forecaster) -> Method:
    """The plan of least expected cost under forecast upload times, without the policy network."""

    def method(observation: Observation) -> Array:
        plan = look_ahead(forecaster, see(observation)).plan(_PLAN_TURNS)
        return observation.devices.frequency(plan)

    return method


def evaluate(
    question: Question,
    *,
    scenario: Scenario,
    pool: Pool,
    tuning: Pool,
    policy: Policy,
    tick: Callable[[str], None] = lambda method: None,
) -> list[Result]:
    """All methods in one cell.

    Args:
        question: the cell.
        scenario: draws the devices.
        pool: the traces to judge on.
        tuning: the traces that slack is tuned on.
        policy: the policy to judge.
        tick: called with the name of each method that is done.
    """
    random = np.random.default_rng([*question.seeds, question.devices])
    shape = (question.fleets * len(question.seeds), question.devices)
    weight = np.full((shape[0], 1), question.energy_weight)
    fleet = draw_fleet(scenario, pool, shape=shape, energy_weight=weight, random=random)
    methods: dict[str, Method] = {
        **BASELINES,
        "slack": tuned_slack(question, scenario=scenario, pool=tuning),
        "forecast": forecast_plan(policy.forecaster),
        "ppo": policy,
    }
    played: dict[str, list[PlayedRound]] = {"optimum": _optimum_rounds(fleet, question.rounds)}
    tick("optimum")
    for name, method in methods.items():
        played[name] = run_rounds(fleet, method, rounds=question.rounds)
        tick(name)
    costs = {name: _mean(rounds, "cost") for name, rounds in played.items()}
    return [
        _result(question, name, rounds=rounds, costs=costs) for name, rounds in played.items()
    ]  # fmt: skip


def tuned_slack(question: Question, *, scenario: Scenario, pool: Pool) -> Method:
    """`slack` with the share and caution that cost least on these traces (grid search)."""
    envs = max(8, 64 // question.devices)
    shape, weight = (envs, question.devices), np.full((envs, 1), question.energy_weight)

    def cost(choice: tuple[float, float]) -> float:
        fleet = draw_fleet(
            scenario, pool, shape=shape, energy_weight=weight, random=np.random.default_rng(5)
        )
        return float(_mean(run_rounds(fleet, slack(*choice), rounds=24), "cost").mean())

    return slack(*min(product(SLACK_SHARES, SLACK_CAUTIONS), key=cost))


def _optimum_rounds(fleet: Fleet, rounds: int) -> list[PlayedRound]:
    at_s = np.zeros((len(fleet.which), 1))
    played = []
    for _ in range(rounds):
        best = optimum(fleet, at_s)
        played.append(run_round(fleet, at_s, ghz=fleet.devices.work / best.compute_s))
        at_s = at_s + best.finish_s[:, None]
    return played


def _mean(rounds: Sequence[PlayedRound], what: str) -> Array:
    """(E,) mean over rounds."""
    return np.asarray(np.mean([getattr(one, what) for one in rounds], axis=0))


def _jackknife(ratio: Callable[[Index], float | None], count: int) -> float | None:
    """Standard error of a ratio of means over `count` environments; empty: cannot be said."""
    every = np.arange(count, dtype=np.int64)
    found = [ratio(np.delete(every, i)) for i in every] if count > 1 else []
    if not found or None in found:
        return None
    left_out = np.array(found, dtype=float)
    return float(np.sqrt((count - 1) / count * ((left_out - left_out.mean()) ** 2).sum()))


def _result(
    question: Question, name: str, *, rounds: Sequence[PlayedRound], costs: dict[str, Array]
) -> Result:
    cost, best, even = costs[name], costs["optimum"], costs[REFERENCE]
    count = len(cost)

    def regret(of: Index) -> float:
        return float(cost[of].mean() / best[of].mean() - 1)

    def closed(of: Index) -> float | None:
        gap = even[of].mean() - best[of].mean()
        return float((even[of].mean() - cost[of].mean()) / gap) if gap > 0 else None

    every = np.arange(count, dtype=np.int64)
    return Result(
        scenario=question.scenario,
        devices=question.devices,
        energy_weight=question.energy_weight,
        method=name,
        cost=float(cost.mean()),
        cost_sem=float(cost.std(ddof=1) / np.sqrt(count)) if count > 1 else None,
        time_s=float(_mean(rounds, "seconds").mean()),
        energy_j=float(_mean(rounds, "joules").mean()),
        regret=regret(every),
        regret_sem=_jackknife(regret, count),
        gap_closed=closed(every),
        gap_closed_sem=_jackknife(closed, count),
    )


def questions(
    scenario: str, devices: Sequence[int], *, weights: Sequence[float], rounds: int,
    seeds: Sequence[int], fleets: int | None = None,
) -> Iterator[Question]:  # fmt: skip
    """The cells of a table; small fleets are played more often, as they vary more."""
    ask = partial(Question, rounds=rounds, seeds=tuple(seeds))
    for size, weight in product(devices, weights):
        few = 16 if size <= 10 else 8 if size <= 50 else 4
        yield ask(scenario, size, weight, fleets=fleets or few)
