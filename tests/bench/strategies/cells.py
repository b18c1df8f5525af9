"""What is compared: settings (cells), methods with their learning rates, and the job of each run.

Invariant: a run's key holds all that its result depends on, so that results that are kept stay
right when cells and methods are added, renamed or put in another order.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lockstep_api.spec import FederatedJobSpec
from tests.bench.strategies.examples import Source

CLIENTS, BATCH, SEEDS = 20, 32, (0, 1, 2)
WORK_PER_STEP = 0.01
"""Core-seconds of a local step: given, so that seconds and joules do not depend on the machine."""
LINK_MBPS = 20.0

EXTREME = {"perDevice": {"distribution": "extreme", "min": 5, "max": 100}}
REDRAWN = {"perDevice": {"distribution": "extreme", "min": 5, "max": 100, "redraw": True}}
LINEAR = {"perDevice": {"distribution": "linear", "min": 2, "max": 40}}
UNIFORM = {"perDevice": {"distribution": "uniform", "min": 2, "max": 40, "redraw": True}}
EQUAL = {"fixed": 10}


@dataclass(frozen=True, slots=True)
class Method:
    """A strategy with its parameters, and the learning rates that it is tried with."""

    name: str
    strategy: Mapping[str, Any]
    full: tuple[float, ...]
    """Learning rates when all clients take part."""
    part: tuple[float, ...]
    """Learning rates when a few do."""


FEDAVG, CALIBRATED, SCAFFOLD, DAMPED, DOUBLED, GENTLE = (
    "fedavg", "calibrated", "scaffold", "fedavg m.9 s.1", "calibrated s2", "calibrated w.3 m.7",
)  # fmt: skip
"""Methods that are spoken of; m: server momentum, s: its learning rate, w: calibration weight."""


def _method(
    name: str, full: Sequence[float], part: Sequence[float], **strategy: float | str
) -> Method:
    return Method(name, {"name": name.split(maxsplit=1)[0], **strategy}, tuple(full), tuple(part))


_FEDAVG_FULL, _FEDAVG_PART = (0.05, 0.1, 0.2, 0.3, 0.5), (0.03, 0.05, 0.1, 0.2)
_SMALL_FULL, _SMALL_PART = (0.03, 0.05, 0.1, 0.2), (0.02, 0.03, 0.05)
METHODS = {
    method.name: method
    for method in (
        _method(FEDAVG, _FEDAVG_FULL, _FEDAVG_PART),
        _method(CALIBRATED, _SMALL_FULL, _SMALL_PART),
        _method(DAMPED, (0.1, 0.2, 0.3), (0.05, 0.1, 0.2), serverMomentum=0.9,
                serverLearningRate=0.1),
        _method(SCAFFOLD, _SMALL_FULL, _SMALL_PART),
        _method(DOUBLED, (0.02, 0.03, 0.05), (0.01, 0.02, 0.03), serverLearningRate=2),
        _method("fedavg m.5", (0.05, 0.1, 0.2), _FEDAVG_PART, serverMomentum=0.5),
        _method(GENTLE, (0.1, 0.2, 0.3), (0.05, 0.1, 0.2), calibrationWeight=0.3,
                serverMomentum=0.7),
        _method("fedavg m.7", (0.1, 0.2, 0.3), (0.05, 0.1, 0.2), serverMomentum=0.7),
        _method("fedavg s2", (0.05, 0.1, 0.2), (0.03, 0.05, 0.1), serverLearningRate=2),
        _method("fednova", (0.05, 0.1, 0.2), (0.03, 0.05, 0.1)),
        _method("fedprox", (0.1, 0.2, 0.3), (0.05, 0.1, 0.2), mu=0.1),
        _method("fedagrac", (0.1, 0.2, 0.3), (0.05, 0.1, 0.2)),
        _method("fedadam", (0.03, 0.1), (0.03, 0.1)),
        _method("fedyogi", (0.03, 0.1), (0.03, 0.1)),
        _method("calibrated first", (0.003, 0.01), (0.003, 0.01), gradient="first"),
        _method("scaffold I", (0.003, 0.01), (0.003, 0.01), option="I"),
    )
}  # fmt: skip
MAIN = (FEDAVG, CALIBRATED, DAMPED, SCAFFOLD, DOUBLED, "fedavg m.5", GENTLE)
USUAL = (*MAIN, "fednova", "fedagrac")
FULL = (*MAIN, "fedavg m.7", "fednova", "fedagrac")
EVERY = tuple(METHODS)


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting, in which methods are compared."""

    name: str
    title: str
    data: str
    """`images` or `users`."""
    steps: Mapping[str, Any]
    """training.localSteps."""
    fraction: float
    rounds: int
    target: float
    """The accuracy that rounds, seconds, joules and bytes are counted to."""
    alpha: float | None = 0.1
    """Of the Dirichlet partition; None: by the data's own users."""
    momentum: float = 0.0
    model: Mapping[str, Any] = field(default_factory=lambda: {"name": "mlp"})
    methods: tuple[str, ...] = USUAL
    first: tuple[str, ...] = (FEDAVG, CALIBRATED, "fedavg m.5", SCAFFOLD)
    """Methods that are asked for most, as for a number to reach: they are run before all others."""
    clients: int = CLIENTS

    def rates(self, method: Method) -> tuple[float, ...]:
        """The learning rates to try; momentum m counts as 1/(1 − m)."""
        grid = method.full if self.fraction == 1 else method.part
        return tuple(rounded(rate * (1 - self.momentum)) for rate in grid)


def rounded(rate: float) -> float:
    """A learning rate in two digits."""
    return float(f"{rate:.2g}")


_CNN = {"name": "cnn", "args": {"channels": 4}}
_P, _F, _D1 = "20 % participation", "full participation", "Dirichlet 0.1"
_E, _R = "one client 100 steps, the others 5", "that client redrawn every round"
_L, _U = "steps linear 2 to 40", "steps uniform 2 to 40, redrawn"
CELLS = (
    Cell("p-ext", f"MLP, {_D1}, {_P}, {_E}", "images", EXTREME, 0.2, 100, 0.75, methods=EVERY,
         first=(FEDAVG, CALIBRATED, DAMPED, SCAFFOLD)),
    Cell("p-extR", f"MLP, {_D1}, {_P}, {_R}", "images", REDRAWN, 0.2, 100, 0.75,
         first=(FEDAVG, CALIBRATED, SCAFFOLD)),
    Cell("p-equal", f"MLP, {_D1}, {_P}, 10 steps each", "images", EQUAL, 0.2, 100, 0.75,
         first=(FEDAVG, CALIBRATED)),
    Cell("ext", f"MLP, {_D1}, {_F}, {_E}", "images", EXTREME, 1.0, 50, 0.78, methods=EVERY,
         first=(FEDAVG, CALIBRATED, DOUBLED, GENTLE, "fedavg m.5", "fedavg m.7")),
    Cell("users", f"MLP, natural users, {_F}, {_E}", "users", EXTREME, 1.0, 50, 0.76, alpha=None,
         first=(FEDAVG, CALIBRATED)),
    Cell("p-lin", f"MLP, {_D1}, {_P}, {_L}", "images", LINEAR, 0.2, 100, 0.75),
    Cell("lin", f"MLP, {_D1}, {_F}, {_L}", "images", LINEAR, 1.0, 50, 0.78, methods=FULL),
    Cell("p-uniR", f"MLP, {_D1}, {_P}, {_U}", "images", UNIFORM, 0.2, 100, 0.75),
    Cell("uniR", f"MLP, {_D1}, {_F}, {_U}", "images", UNIFORM, 1.0, 50, 0.78, methods=FULL),
    Cell("extR", f"MLP, {_D1}, {_F}, {_R}", "images", REDRAWN, 1.0, 50, 0.78, methods=FULL),
    Cell("p-ext.5", f"MLP, Dirichlet 0.5, {_P}, {_E}", "images", EXTREME, 0.2, 100, 0.80, 0.5),
    Cell("ext.5", f"MLP, Dirichlet 0.5, {_F}, {_E}", "images", EXTREME, 1.0, 50, 0.80, 0.5,
         methods=FULL),
    Cell("p-users", f"MLP, natural users, {_P}, {_E}", "users", EXTREME, 0.2, 100, 0.74, None),
    Cell("p-cnn", f"CNN, {_D1}, {_P}, {_E}", "images", EXTREME, 0.2, 50, 0.70, model=_CNN,
         methods=MAIN),
    Cell("p-ext-m", f"MLP, {_D1}, {_P}, {_E}, momentum 0.9", "images", EXTREME, 0.2, 100, 0.75,
         momentum=0.9, methods=MAIN),
    Cell("ext-m", f"MLP, {_D1}, {_F}, {_E}, momentum 0.9", "images", EXTREME, 1.0, 50, 0.78,
         momentum=0.9, methods=MAIN),
    Cell("cnn", f"CNN, {_D1}, {_F}, {_E}", "images", EXTREME, 1.0, 30, 0.74, model=_CNN,
         methods=MAIN),
)  # fmt: skip
"""The most important first: they are run in this order."""


@dataclass(frozen=True, slots=True)
class Run:
    """One job: a cell, a method, a learning rate, a seed."""

    cell: Cell
    method: Method
    rate: float
    seed: int

    def job(self, source: Source) -> dict[str, Any]:
        """The spec of the FederatedJob, as in a manifest."""
        cell = self.cell
        scheme = (
            {"scheme": "natural"}
            if cell.alpha is None
            else {"scheme": "dirichlet", "alpha": cell.alpha}
        )
        return {
            "model": source.fitted(cell.model),
            "data": {"name": "fashion-mnist", "partition": scheme},
            "training": {
                "rounds": cell.rounds, "batchSize": BATCH, "learningRate": self.rate,
                "momentum": cell.momentum, "seed": self.seed, "localSteps": cell.steps,
            },
            "strategy": dict(self.method.strategy),
            "participation": {"fraction": cell.fraction},
            "allocation": {"policy": "max"},
            "devices": [{
                "name": "d", "replicas": cell.clients, "cpuAtMax": "1",
                "frequency": {"minGHz": 0.5, "maxGHz": 2.0}, "energy": {"kappa": 2e-28},
                "uplink": {"mbps": LINK_MBPS}, "downlink": {"mbps": LINK_MBPS},
            }],
        }  # fmt: skip

    def spec(self, source: Source) -> FederatedJobSpec:
        """The same, checked."""
        return FederatedJobSpec.model_validate(self.job(source))

    def key(self, source: Source) -> str:
        """All that the result depends on, but for the code."""
        return json.dumps(
            {"data": source.identity, "work": WORK_PER_STEP, "job": self.job(source)},
            sort_keys=True,
        )
