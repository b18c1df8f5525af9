"""What is compared: settings, plans of frequency and steps, and the job of each run.

Invariant: a run's key holds all that its result depends on.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lockstep_api.names import client_name
from lockstep_api.spec import FederatedJobSpec

DEVICES, BATCH, SEEDS = 20, 32, (0, 1, 2)
FASTEST_GHZ, MIN_GHZ = 3.0, 0.1
CYCLES = 0.3
"""Gcycles of a local step."""
CORES_PER_GHZ = 1 / 3
HIDDEN = 64
VECTOR_MB = 0.4
"""What a vector of the built-in MLP takes; the bench's model is smaller, and so are its links."""
LINKS_MB_S = (0.8, 5.0)
PRICES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""allocation.energyWeight, s/J."""
TRACES = "traces"
_MOST_TRACES = 60


@dataclass(frozen=True, slots=True)
class Setting:
    """Who takes part, and on which devices and links."""

    name: str
    title: str
    fraction: float
    mixed: bool
    """Half of the spread of speeds is cycles per step; else all is clock."""
    traces: bool
    """Links follow real traces; else each is constant."""
    target: float
    rounds: int
    """After which a run that has not reached the target is given up."""


SETTINGS = (
    Setting("p-clock", "20 % participation, clocks 10 times apart, constant links",
            0.2, False, False, 0.75, 160),
    Setting("p-mixed", "20 % participation, half of the spread is cycles, constant links",
            0.2, True, False, 0.75, 160),
    Setting("p-clock-traces", "20 % participation, clocks 10 times apart, real traces",
            0.2, False, True, 0.75, 160),
    Setting("full-clock", "full participation, clocks 10 times apart, constant links",
            1.0, False, False, 0.79, 100),
    Setting("p-mixed-traces", "20 % participation, half of the spread is cycles, real traces",
            0.2, True, True, 0.75, 160),
    Setting("full-clock-traces", "full participation, clocks 10 times apart, real traces",
            1.0, False, True, 0.79, 100),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """How frequencies and steps are chosen, and how is learnt."""

    kind: str
    """`a` to `d`."""
    steps: Mapping[str, Any]
    """training.localSteps."""
    policy: str
    price: float
    rate: float
    """Learning rate."""
    strategy: Mapping[str, Any] = field(default_factory=lambda: {"name": "fedavg"})

    @property
    def method(self) -> str:
        """Of learning."""
        server = self.strategy.get("serverLearningRate")
        return f"{self.strategy['name']}{'' if server is None else f' s{server:g}'}"

    @property
    def told(self) -> str:
        """Its steps and price."""
        if "fixed" in self.steps:
            steps = f"K = {self.steps['fixed']}"
        elif "budgetSeconds" in self.steps:
            steps = f"{self.steps['budgetSeconds']:g} s"
        else:
            steps = f"K >= {self.steps['planned']['minSteps']}"
        return steps if self.policy == "max" else f"{steps}, {self.price:g} s/J"


WAYS = {
    "a": "equal steps, highest frequency",
    "b": "equal steps, equalised frequencies",
    "c": "what fits into a budget, highest frequency",
    "d": "steps and frequencies planned together",
}


def plans(setting: Setting) -> Iterator[Plan]:
    """All plans of a setting, the most important first."""
    full = setting.fraction == 1
    calibrated = {"name": "calibrated", **({"serverLearningRate": 2} if full else {})}
    planned = {"planned": {"minSteps": 2}}
    for price in PRICES:
        yield Plan("d", planned, "equalize", price, 0.05, calibrated)
    for count in (3, 5, 10):
        yield Plan("a", {"fixed": count}, "max", 0.01, 0.2)
        yield Plan("b", {"fixed": count}, "equalize", 0.01, 0.05, calibrated)
    for rate in (0.1, 0.3):
        yield Plan("a", {"fixed": 3}, "max", 0.01, rate)
    for count, rate in ((3, 0.2), (3, 0.1), (3, 0.3), (5, 0.2)):
        yield Plan("b", {"fixed": count}, "equalize", 0.01, rate)
    for price in (0.1, 1.0):
        yield Plan("b", {"fixed": 3}, "equalize", price, 0.05, calibrated)
    for budget in (2.0, 4.0):
        yield Plan("c", {"budgetSeconds": budget}, "max", 0.01, 0.2)
        yield Plan("c", {"budgetSeconds": budget}, "max", 0.01, 0.05, calibrated)
    yield Plan("d", {"planned": {"minSteps": 4}}, "equalize", 0.1, 0.05, calibrated)
    yield Plan("d", planned, "equalize", 0.1, 0.2)


@dataclass(frozen=True, slots=True)
class Run:
    """A plan in a setting, with a seed."""

    setting: Setting
    plan: Plan
    seed: int

    def key(self, data: str) -> str:
        """All that its result depends on."""
        told = asdict(self.setting)
        del told["name"], told["title"]
        return json.dumps([data, told, asdict(self.plan), self.seed], sort_keys=True)

    def spec(self, inputs: int, vector_mb: float) -> FederatedJobSpec:
        """Its job, for inputs of so many values and a model whose vector has so many MB."""
        ghz, _ = _speeds(self)
        own = np.random.default_rng((self.seed, 1)).uniform(*LINKS_MB_S, DEVICES)
        mbps = own * 8 * vector_mb / VECTOR_MB
        devices = [
            {
                "name": f"d{i:02}",
                "frequency": {"minGHz": MIN_GHZ, "maxGHz": float(ghz[i])},
                "cpuAtMax": f"{round(1000 * ghz[i] * CORES_PER_GHZ)}m",
                "uplink": {"trace": TRACES} if self.setting.traces else {"mbps": float(mbps[i])},
            }
            for i in range(DEVICES)
        ]
        training = {
            "rounds": self.setting.rounds, "batchSize": BATCH, "learningRate": self.plan.rate,
            "seed": self.seed, "localSteps": dict(self.plan.steps),
            "target": {"metric": "accuracy", "value": self.setting.target},
        }  # fmt: skip
        return FederatedJobSpec.model_validate(
            {
                "model": {"name": "mlp", "args": {"hidden": HIDDEN, "inputs": inputs}},
                "data": {
                    "name": "fashion-mnist",
                    "partition": {"scheme": "dirichlet", "alpha": 0.1},
                },
                "training": training,
                "strategy": dict(self.plan.strategy),
                "participation": {"fraction": self.setting.fraction},
                "allocation": {"policy": self.plan.policy, "energyWeight": self.plan.price},
                "devices": devices,
            }
        )

    def work(self) -> dict[str, float]:
        """Client → core-seconds of a step."""
        _, cycles = _speeds(self)
        return {
            client_name(f"d{i:02}", 0): float(cycles[i]) * CORES_PER_GHZ for i in range(DEVICES)
        }


def _speeds(run: Run) -> tuple[Any, Any]:
    """GHz and Gcycles a step of each device, dealt out by the seed."""
    order = np.random.default_rng((run.seed, 0)).permutation(DEVICES)
    if not run.setting.mixed:
        ghz = np.geomspace(FASTEST_GHZ / 10, FASTEST_GHZ, DEVICES)
        return np.round(ghz, 3)[order], np.full(DEVICES, CYCLES)
    ghz = np.geomspace(0.76, 2.4, DEVICES)
    cycles = CYCLES * np.geomspace(10**0.25, 10**-0.25, DEVICES)
    return np.round(ghz, 3)[order], cycles[order]


def read_traces(folder: Path, vector_mb: float) -> dict[str, str]:
    """File → csv, with bandwidths as the model's size makes them; some of every family."""
    families = sorted(path for path in folder.iterdir() if path.is_dir())
    each = max(1, _MOST_TRACES // max(1, len(families)))
    files = [file for family in families for file in sorted(family.glob("*.csv"))[:each]]
    return {
        f"{file.parent.name}-{file.name}": _scaled(file.read_text(), vector_mb / VECTOR_MB)
        for file in files
    }


def _scaled(text: str, factor: float) -> str:
    head, *rows = text.splitlines()
    cells = (row.split(",") for row in rows if row)
    return "\n".join([head, *(f"{cell[0]},{float(cell[1]) * factor:.6g}" for cell in cells)])
