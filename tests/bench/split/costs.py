"""What a cut means for a device and its link, beside training the whole model: a table.

Figures come from `learning.cuts`, which the cloud pod measures a job's model with.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from lockstep_api.spec import Model
from lockstep_api.tiers import CutCandidate
from lockstep_workers.learning.cuts import candidates
from lockstep_workers.models import build_model

MODELS: tuple[tuple[str, Mapping[str, Any], tuple[int, ...]], ...] = (
    ("`cnn`", {"name": "cnn"}, (1, 28, 28)),
    ("`cnn`, 8 channels", {"name": "cnn", "args": {"channels": 8}}, (1, 28, 28)),
    ("`mlp`", {"name": "mlp"}, (1, 28, 28)),
    ("`resnet10`", {"name": "resnet10"}, (3, 32, 32)),
    ("`resnet18`", {"name": "resnet18"}, (3, 32, 32)),
)
_ROUND = 25 * 32  # examples of a client's usual round
_KB, _FLOAT, _BFLOAT = 1000, 4, 2


def rows() -> Iterator[str]:
    """The table, as markdown."""
    yield (
        "| model | cut after | device FLOPs / whole | saved activations / whole | values at the "
        "cut | KB an example, f32 / bf16 | FedAvg, KB a round | examples a round up to which split "
        "is cheaper, f32 / bf16 | bytes of 25 steps of 32 / FedAvg, bf16 |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for title, spec, shape in MODELS:
        module = build_model(Model.model_validate(spec), seed=0)
        values = sum(p.numel() for p in module.parameters())
        for cut in candidates(module, shape):
            yield _row(title, cut, values=values)


def _row(title: str, cut: CutCandidate, *, values: int) -> str:
    flops = cut.front_flops / (cut.front_flops + cut.back_flops)
    whole = 2 * _FLOAT * values  # down and up
    break_even = [
        2 * _FLOAT * (values - cut.front_values) / (2 * cut.cut_values * size)
        for size in (_FLOAT, _BFLOAT)
    ]
    kb = [2 * cut.cut_values * size / _KB for size in (_FLOAT, _BFLOAT)]
    cells = (
        title,
        cut.layer,
        f"{flops:.3f}",
        f"{cut.saved_bytes / cut.whole_saved_bytes:.2f}",
        f"{cut.cut_values:,}",
        f"{kb[0]:.1f} / {kb[1]:.1f}",
        f"{whole / _KB:,.0f}",
        f"{break_even[0]:.0f} / {break_even[1]:.0f}",
        f"{2 * cut.cut_values * _BFLOAT * _ROUND / whole:.1f}×",
    )
    return f"| {' | '.join(cells)} |"
