"""The local steps of each participant of a round; pure. `plan` calls it.

Invariant: what is drawn is drawn for all devices of the job from seed and round, so that a client
gets the same number whoever else takes part.
"""

from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray

from lockstep_allocator.fleet import Method
from lockstep_api.budget import MOST_STEPS, step_seconds, steps_within
from lockstep_api.quantity import parse_quantity
from lockstep_api.spec import FederatedJobSpec, PerDeviceSteps
from lockstep_operator.core.allocate import groups_by_client
from lockstep_operator.core.insight import Insight, work_per_step
from lockstep_operator.core.planned import planned_steps

_STREAM = 0x57E9
"""Tells these draws from others of the same seed and round."""
_SDS = 2.0
"""Standard deviations of distribution `gaussian` from its mean to either end."""

Numbers = NDArray[np.int64]


def local_steps(
    spec: FederatedJobSpec,
    clients: Sequence[str],
    *,
    round: int,
    insight: Insight,
    policy: Method | None = None,
) -> dict[str, int]:
    """The steps of each of `clients`, who are of the job.

    Raises:
        NotComputable: what is known has no answer.
    """
    rule = spec.training.local_steps
    if rule.fixed is not None:
        return dict.fromkeys(clients, rule.fixed)
    if rule.per_device is not None:
        drawn = drawn_steps(
            rule.per_device, [*groups_by_client(spec)], seed=spec.training.seed, round=round
        )
        return {client: drawn[client] for client in clients}
    if rule.planned is not None:
        return planned_steps(spec, clients, rule=rule.planned, insight=insight, policy=policy)
    assert rule.budget_seconds is not None  # the CRD demands one of the four
    return _within(rule.budget_seconds, spec, clients=clients, insight=insight)


def why_steps(spec: FederatedJobSpec) -> str:
    """How the job's rule comes to the steps of a round, for people."""
    rule = spec.training.local_steps
    if rule.fixed is not None:
        return f"localSteps.fixed asks every device for {rule.fixed}"
    if (drawn := rule.per_device) is not None:
        when = "anew for each round" if drawn.redraw else "once"
        return f"localSteps.perDevice draws {drawn.min} to {drawn.max} for each device, {when}"
    if (planned := rule.planned) is not None:
        return (
            "localSteps.planned chooses them with the frequencies: what a round costs for what it "
            f"is worth, {planned.min_steps} at least, the most {planned.max_ratio:g} times the "
            "fewest"
        )
    return (
        f"localSteps.budgetSeconds asks for what fits into {rule.budget_seconds:g} s, by each "
        "device's work per step"
    )


def drawn_steps(
    rule: PerDeviceSteps, clients: Sequence[str], *, seed: int, round: int
) -> dict[str, int]:
    """The steps of all clients of a job, in the order of the partition."""
    random = default_rng(SeedSequence((seed, round if rule.redraw else 0, _STREAM)))
    numbers = _DRAWS[rule.distribution](random, rule, count=len(clients))
    return dict(zip(clients, numbers.tolist(), strict=True))


def _uniform(random: Generator, rule: PerDeviceSteps, *, count: int) -> Numbers:
    return random.integers(rule.min, rule.max, size=count, endpoint=True)


def _gaussian(random: Generator, rule: PerDeviceSteps, *, count: int) -> Numbers:
    """Mean in the middle, standard deviation a quarter of the range, truncated to it."""
    normal = NormalDist()
    shares = random.uniform(normal.cdf(-_SDS), normal.cdf(_SDS), size=count)
    middle, sd = (rule.min + rule.max) / 2, (rule.max - rule.min) / (2 * _SDS)
    numbers = [round(middle + sd * normal.inv_cdf(share)) for share in shares]
    return np.clip(np.array(numbers, np.int64), rule.min, rule.max)


def _linear(random: Generator, rule: PerDeviceSteps, *, count: int) -> Numbers:
    """Spread evenly, in an order that is drawn."""
    return random.permutation(np.rint(np.linspace(rule.min, rule.max, count)).astype(np.int64))


def _extreme(random: Generator, rule: PerDeviceSteps, *, count: int) -> Numbers:
    """One that is drawn has most, all others fewest."""
    numbers = np.full(count, rule.min, np.int64)
    numbers[random.integers(count)] = rule.max
    return numbers


_DRAWS = {"uniform": _uniform, "gaussian": _gaussian, "linear": _linear, "extreme": _extreme}


def _within(
    budget_s: float, spec: FederatedJobSpec, *, clients: Sequence[str], insight: Insight
) -> dict[str, int]:
    """What fits into the budget at the maximum frequency, or at the pace of a device that had less
    than its cores; nobody knows it before work was measured: then the devices' own clocks bound it.
    """
    work = work_per_step(clients, insight)
    if work is None:
        return dict.fromkeys(clients, MOST_STEPS)
    cores = _cores(spec)
    step_s = {
        client: step_seconds(float(core_s), cores=cores[client])
        for client, core_s in zip(clients, work, strict=True)
    }
    return {
        client: steps_within(budget_s, step_s=max(least_s, insight.of(client).step_s or 0.0))
        for client, least_s in step_s.items()
    }


def _cores(spec: FederatedJobSpec) -> Mapping[str, float]:
    groups = groups_by_client(spec)
    return {client: parse_quantity(group.cpu_at_max) for client, group in groups.items()}
