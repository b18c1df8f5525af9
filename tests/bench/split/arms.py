"""What is compared: arms, the learning rates that each is tried with, and the runs of an arm.

Invariant: a run's key holds all that its result depends on but the code, so that results that are
kept stay right when arms are added, renamed or put in another order.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

SEEDS = (0, 1, 2)
BATCH, STEPS, MOMENTUM, ALPHA = 16, 5, 0.9, 0.1
"""Examples of a client in a step, steps of a round, momentum, concentration of the labels."""
IMAGES, SHAPES = "images", "shapes32"
FEDAVG, KL = "fedavg", "kl"


@dataclass(frozen=True, slots=True)
class Setting:
    """Data, model and clients: arms of one setting are compared."""

    name: str
    title: str
    data: str
    model: Mapping[str, Any]
    cut: str
    clients: int
    clusters: int
    rounds: int = 30


_CNN = {"name": "cnn", "args": {"channels": 8}}
_RESNET = {"name": "resnet10", "args": {"channels": 8}}
_CUT_CNN = "`cnn` with 8 channels, cut after its first pooling"
_CUT_RESNET = "`resnet10` with 8 channels, cut after its first stage"
_MANY, _FEW = "20 clients, 4 clusters", "8 clients, 2 clusters"
CNN20 = Setting("cnn20", f"{_CUT_CNN}; {_MANY}", IMAGES, _CNN, "3", clients=20, clusters=4)
CNN8 = Setting("cnn8", f"{_CUT_CNN}; {_FEW}", IMAGES, _CNN, "3", clients=8, clusters=2)
RES20 = Setting("res20", f"{_CUT_RESNET}; {_MANY}", SHAPES, _RESNET, "stage1", 20, 4)
SETTINGS = (CNN20, CNN8, RES20)


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train in a setting."""

    setting: Setting
    name: str
    rates: tuple[float, ...]
    """Tried with the first seed; of training, or where the arm distils, of distillation."""
    base: str | None = None
    """Arm whose best learning rate of training this one has; None: its own is looked for."""
    method: str = "kl"
    """Of clustering; `fedavg`: no split at all."""
    front: str = "step"
    wire: str = "bfloat16"
    distil: Mapping[str, Any] = field(default_factory=dict)
    """spec.distillation, without its learning rate; empty: none."""


@dataclass(frozen=True, slots=True)
class Run:
    """An arm at its learning rates, with a seed."""

    arm: Arm
    rate: float
    """Of training."""
    distil_rate: float | None
    seed: int

    def key(self, identity: str) -> str:
        """All that the result depends on; `identity` says which data."""
        arm = asdict(self.arm)
        for told_elsewhere in ("name", "rates", "base"):
            arm.pop(told_elsewhere)
        for words in ("name", "title"):
            arm["setting"].pop(words)
        rest = {"data": identity, "rate": self.rate, "distil": self.distil_rate, "seed": self.seed}
        return json.dumps({"arm": arm, **rest}, sort_keys=True)


_RATES = (0.02, 0.05)
_SOFT_RATES = (0.01,)


def _labels_only(**more: Any) -> dict[str, Any]:
    return {"enabled": True, "teacher": "none", **more}


def _distils(teacher: str, **more: Any) -> dict[str, Any]:
    return {"enabled": True, "teacher": teacher, **more}


LABELS, MUTUAL, UNGATED, CLOUD, EDGE = (
    "kl + labels only", "kl + mutual", "kl + mutual without gate", "kl + cloud teaches",
    "kl + edge teaches",
)  # fmt: skip
RANDOM, ONE, ROUND, FLOAT32 = (
    "random",
    "one cluster",
    "kl with a front a round",
    "kl with float32 wire",
)


def _arms(setting: Setting, *, fedavg: Sequence[float]) -> dict[str, Arm]:
    first = Arm(setting, FEDAVG, tuple(fedavg), method="fedavg")
    kl = Arm(setting, KL, _RATES)
    soft = replace(kl, rates=_SOFT_RATES, base=KL)
    arms = (
        first,
        kl,
        replace(soft, name=LABELS, distil=_labels_only()),
        replace(soft, name=MUTUAL, distil=_distils("mutual")),
        replace(soft, name=UNGATED, distil=_distils("mutual", gate=False)),
        replace(kl, name=RANDOM, method="random"),
        replace(kl, name=ROUND, front="round"),
        replace(kl, name=FLOAT32, base=KL, rates=(), wire="float32"),
        replace(kl, name=ONE, method="none"),
        replace(soft, name=CLOUD, distil=_distils("cloud")),
        replace(soft, name=EDGE, distil=_distils("edge")),
    )
    return {arm.name: arm for arm in arms}


_FEDAVG_RATES = (0.005, 0.01, 0.02, 0.05)
ARMS: Mapping[str, Mapping[str, Arm]] = {
    setting.name: _arms(setting, fedavg=_FEDAVG_RATES) for setting in SETTINGS
}
ORDER = (
    ("cnn20", (FEDAVG, KL, LABELS, MUTUAL, RANDOM, FLOAT32)),
    ("res20", (FEDAVG, KL, LABELS, MUTUAL)),
    ("cnn20", (UNGATED, ROUND, ONE, CLOUD, EDGE)),
    ("cnn8", (FEDAVG, KL, LABELS, MUTUAL, RANDOM)),
    ("cnn8", (ROUND, FLOAT32, ONE)),
    ("res20", (RANDOM, FLOAT32, UNGATED)),
)
"""What is run, the most important first."""
