"""Small fleets and traces for the allocator's tests."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lockstep_allocator.bandwidth import Trace
from lockstep_allocator.devices import Array, Devices
from lockstep_allocator.experience import Experience
from lockstep_allocator.fleet import Fleet, Method, run_round
from lockstep_allocator.forecast import COMPONENTS, Forecaster
from lockstep_allocator.policy import FEATURES, OUTPUTS, Policy, Training
from lockstep_allocator.records import Record
from lockstep_allocator.scenarios import Pool, draw_fleet, paper
from lockstep_allocator.traces import NamedTrace, TraceSet
from lockstep_allocator.training.nets import ForecastNetwork, SetNetwork, exported


def trace(*mbps: float, step_s: float = 1.0) -> Trace:
    """Pieces of one length."""
    return Trace.of(
        np.arange(len(mbps), dtype=np.float64) * step_s,
        np.array(mbps, float),
        duration_s=len(mbps) * step_s,
    )


def random_traces(count: int, *, seconds: int = 120, seed: int = 0) -> list[NamedTrace]:
    """Traces of two families that jump about."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        level = np.exp(random.normal(3, 0.4))
        steps = np.exp(np.cumsum(0.3 * random.standard_normal(seconds)).clip(-1.5, 1.5))
        family = "a" if number % 2 else "b"
        made.append(
            NamedTrace(
                family=family,
                name=str(number),
                sha256=f"{number:064x}",
                trace=trace(*(level * steps)),
            )
        )
    return made


def fleet(envs: int = 3, devices: int = 4, *, weight: float = 1.0, seed: int = 0) -> Fleet:
    """Fleets of the paper's devices on random traces."""
    pool = Pool.of(random_traces(6))
    random = np.random.default_rng(seed)
    return draw_fleet(
        paper, pool, shape=(envs, devices), energy_weight=np.full((envs, 1), weight), random=random
    )


def fleet_on(devices: Devices, *traces: Trace, offset_s: float = 200.0) -> Fleet:
    """One fleet whose devices have these traces."""
    every = TraceSet.of(traces, least_mbps=1e-3, most_mbps=1e6)
    which = np.arange(len(traces), dtype=np.int64)[None]
    laps = np.ceil(offset_s / every.durations_s)[None]
    return Fleet(devices, every, which=which, offset_s=laps * every.durations_s[None])


def cost_of(devices: Devices, seconds: Array, compute_s: Array, upload_s: Array) -> Array:
    """(E,) time + λ·energy of a round."""
    return seconds + devices.weight[:, 0] * devices.energy(seconds, compute_s, upload_s=upload_s)


TRAINING = Training(
    seed=0, split=0, minutes=0.0, updates=0, stopped="test", train_sha256=(),
    validation_sha256=(), families=(), metrics={}, settings={},
)  # fmt: skip


def untrained(seed: int = 0, *, output_scale: float = 0.0) -> Policy:
    """A policy before training; with a scale, one whose last layer says something."""
    import torch  # noqa: PLC0415 - after the seeds of the test

    torch.manual_seed(seed)
    network = SetNetwork(len(FEATURES), OUTPUTS)
    if output_scale:
        torch.nn.init.normal_(next(network.leave[-1].parameters()), std=output_scale)
    forecaster = Forecaster(exported(ForecastNetwork(22).eval()))
    assert forecaster.weights["layers.4.weight"].shape[0] == 3 * COMPONENTS
    return Policy(forecaster, exported(network), TRAINING)


def never_trained(policy: Policy) -> Policy:
    """The same with a network that says nothing: the equaliser."""
    last = {name: value * 0 for name, value in policy.weights.items() if name.startswith("leave.2")}
    return replace(policy, weights={**policy.weights, **last})


def recorded(
    on: Fleet, method: Method, rounds: int, *, after: Callable[[Experience], Method] | None = None
) -> tuple[Experience, Array]:
    """Rounds of one fleet (E = 1) as a job would record them, and the cost of each.

    `after` every 20 rounds may give another method.
    """
    at_s, last = np.zeros((1, 1)), None
    experience, costs = Experience(), []
    for number in range(1, rounds + 1):
        seen = on.observe(at_s, last)
        ghz = method(seen)
        done = run_round(on, at_s, ghz=ghz)
        costs.append(float(done.cost[0]))
        count = ghz.shape[1]
        experience = experience.with_round(
            Record(
                round=number,
                at_s=1.7e9 + float(at_s[0, 0]),
                clients=tuple(f"d-{i}" for i in range(count)),
                observation=seen,
                ghz=ghz[0],
                seconds=float(done.seconds[0]),
                joules=np.full(count, done.joules[0] / count),
                upload_s=done.upload_s[0],
            )
        )
        at_s = at_s + done.seconds[:, None]
        last = on.met_mbps(done)
        if after is not None and number % 20 == 0:
            method = after(experience)
    return experience, np.array(costs)
