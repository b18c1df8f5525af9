"""Where the model of a job can be cut, as people are told it: `lockstep explain-cut`.

The CLI calls it. What the candidates are is measured by `learning.cuts`, and which of them
`model.cut: auto` takes is decided by the operator's `core/cuts`: this page decides nothing. A job
of another mode is looked at as if it were split.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lockstep_api.spec import FederatedJobSpec
from lockstep_api.tiers import CutCandidate
from lockstep_operator.core.cuts import AUTO, Choice, choose_cut, flops_share
from lockstep_operator.errors import UnfitRequest
from lockstep_workers.data import Dataset
from lockstep_workers.learning.cuts import candidates
from lockstep_workers.learning.parameters import flatten
from lockstep_workers.models import build_model, check_fit

_FLOAT32, _BFLOAT16 = 4, 2
_KB = 1e3
_HEADS = (
    "layer", "FLOPs", "memory", "values", "KB f32", "KB bf16", "parameters", "even f32",
    "even bf16", "step",
)  # fmt: skip
_LEGEND = (
    "FLOPs, memory: of a training step, the devices' share of the whole model's",
    "values: of an example at the cut; KB: what travels for an example, up and down",
    "parameters: trained ones of the front half",
    "even: examples of a device in a round below which split moves fewer bytes than whole models",
    "step: seconds that a step of all devices is expected to take before anything is measured",
)


@dataclass(frozen=True, slots=True)
class Explained:
    """What a cut means."""

    candidate: CutCandidate
    n_values: int
    """Trained parameters of the whole model."""

    @property
    def saved_share(self) -> float:
        """What devices keep for the backward pass, as a share of the whole model's."""
        whole = self.candidate.whole_saved_bytes
        return self.candidate.saved_bytes / whole if whole else 0.0

    def moved_bytes(self, value_bytes: int) -> int:
        """Activations up and their gradients down, for an example."""
        return 2 * value_bytes * self.candidate.cut_values

    def break_even(self, value_bytes: int) -> float:
        """Examples of a device in a round with which both ways move as many bytes.

        A round of whole models moves 8 P bytes a device, P parameters in float32 down and up; one
        of halves moves those of the front alike, and for each example what is at the cut.
        """
        behind = self.n_values - self.candidate.front_values
        return 2 * _FLOAT32 * behind / self.moved_bytes(value_bytes)


def explained_cuts(spec: FederatedJobSpec, dataset: Dataset) -> str:
    """The candidates of a job as a table, and which of them it takes.

    Raises:
        InvalidJob: its model can be cut nowhere, or does not fit the data.
    """
    entrypoint = spec.model.entrypoint or spec.model.front
    model = flatten(build_model(spec.model, seed=spec.training.seed))
    check_fit(model.module, dataset, own=entrypoint)
    shape = dataset.train.inputs.shape[1:]
    found = candidates(model.module, shape, entrypoint=entrypoint)
    n_values = model.vector.numel()
    return explanation(spec, [Explained(one, n_values) for one in found])


def explanation(spec: FederatedJobSpec, cuts: Sequence[Explained]) -> str:
    """The same of candidates that are known."""
    every = [one.candidate for one in cuts]
    try:
        taken = choose_cut(_auto(spec), every)
    except UnfitRequest as error:
        return "\n".join([_table(cuts, None), "", *_LEGEND, "", str(error)])
    told = [f"auto takes layer {taken.layer}: {taken.why}", *_refused(taken), *_named(spec, taken)]
    return "\n".join([_table(cuts, taken), "", *_LEGEND, "", *told])


def _auto(spec: FederatedJobSpec) -> FederatedJobSpec:
    return spec.model_copy(update={"model": spec.model.model_copy(update={"cut": None})})


def _refused(taken: Choice) -> list[str]:
    """Each reason once, with the layers that it holds for."""
    layers: dict[str, list[str]] = {}
    for name, why in taken.refused.items():
        layers.setdefault(why, []).append(name)
    return [f"auto does not take {', '.join(names)}: {why}" for why, names in layers.items()]


def _named(spec: FederatedJobSpec, taken: Choice) -> list[str]:
    """What becomes of a layer that the job names."""
    cut = spec.model.cut
    if cut is None or cut == AUTO:
        return []
    known = cut in taken.seconds
    return [f"model.cut names layer {cut}" + ("" if known else ", which is none of them")]


def _table(cuts: Sequence[Explained], taken: Choice | None) -> str:
    heads = _HEADS if taken is not None else _HEADS[:-1]
    rows = [heads, *(_row(one, taken) for one in cuts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    )


def _row(one: Explained, taken: Choice | None) -> tuple[str, ...]:
    cut = one.candidate
    mark = " *" if taken is not None and cut.layer == taken.layer else ""
    step = () if taken is None else (f"{taken.seconds[cut.layer]:.3g} s",)
    return (
        cut.layer + mark,
        f"{flops_share(cut):.3f}",
        f"{one.saved_share:.2f}",
        f"{cut.cut_values:,}",
        f"{one.moved_bytes(_FLOAT32) / _KB:,.3g}",
        f"{one.moved_bytes(_BFLOAT16) / _KB:,.3g}",
        f"{cut.front_values:,}",
        f"{one.break_even(_FLOAT32):,.0f}",
        f"{one.break_even(_BFLOAT16):,.0f}",
        *step,
    )
