"""Small jobs to simulate: a few devices, a data set of ten noisy prototypes, hand-made figures."""

from typing import Any

import numpy as np

from lockstep_api.spec import FederatedJobSpec
from lockstep_simulator.emulation import NO_OVERHEADS
from lockstep_simulator.simulated import SimulatedRound
from lockstep_simulator.simulation import Setup, simulate
from lockstep_simulator.work import given
from lockstep_workers.data import Dataset, Examples

WORK = 0.02
"""Core-seconds of a step."""


def examples(count: int, *, seed: int) -> Examples:
    """Images of ten noisy prototypes, easy to tell apart."""
    prototypes = np.random.default_rng(0).integers(0, 256, (10, 1, 28, 28))
    rng = np.random.default_rng((1, seed))
    labels = rng.integers(0, 10, count)
    noisy = prototypes[labels] / 4 + rng.normal(96, 60, (count, 1, 28, 28))
    return Examples(noisy.clip(0, 255).astype(np.uint8), labels, mean=100.0, scale=70.0)


DATASET = Dataset(examples(400, seed=0), examples(100, seed=1), classes=10)


def group(name: str, replicas: int = 1, **more: Any) -> dict[str, Any]:
    """A device group: 1 core at 2 GHz."""
    frequency = {"minGHz": 0.2, "maxGHz": 2.0}
    return {"name": name, "replicas": replicas, "frequency": frequency, "cpuAtMax": "1"} | more


def spec(*groups: dict[str, Any], **more: Any) -> FederatedJobSpec:
    """A job of these groups; `more` are fields of the spec, those of `training` beside others."""
    training = {"rounds": 3, "learningRate": 0.05, "localSteps": {"fixed": 5}, "seed": 3}
    body = {
        "model": {"name": "mlp", "args": {"hidden": 8}},
        "data": {"name": "fashion-mnist"},
        "devices": list(groups) or [group("fast", 2), group("slow", 2, cpuAtMax="500m")],
        "allocation": {"policy": "max"},
        **more,
        "training": training | more.get("training", {}),
    }
    return FederatedJobSpec.model_validate(body)


def setup(job: FederatedJobSpec, **more: Any) -> Setup:
    """A simulation of a job without overheads, whose steps take `WORK`."""
    given_too: dict[str, Any] = {"dataset": DATASET, "work": given(WORK), "overheads": NO_OVERHEADS}
    return Setup(spec=job, **(given_too | more))


def rounds(job: FederatedJobSpec, **more: Any) -> list[SimulatedRound]:
    """All rounds of it."""
    return list(simulate(setup(job, **more)))
