"""Where a model is cut (mode split): the layer with the shortest step that fits the devices; pure.

`tiers` calls it when a round is planned, the simulator and `lockstep explain-cut` for people.
Invariant: a job is cut once. What was chosen stays, and it is chosen from the spec and the
candidates alone, so that the same manifest is cut at the same layer again.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from lockstep_api.names import client_name
from lockstep_api.spec import DeviceGroup, FederatedJobSpec, Split
from lockstep_api.text import few
from lockstep_api.tiers import CutCandidate
from lockstep_operator.core.batches import (
    bounds_of,
    equal_batches,
    proportional_batches,
    step_seconds,
)
from lockstep_operator.core.insight import Insight
from lockstep_operator.core.split_steps import (
    CORE_FLOPS,
    Placed,
    core_seconds,
    edge_cores,
    example_bytes,
    load_of,
    most_examples,
    paces,
)
from lockstep_operator.errors import UnfitRequest

AUTO = "auto"
_SHOWN = 8
_SHOWN_REFUSED = 3
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a model is cut."""

    candidate: CutCandidate
    """The layer that was taken."""
    why: str
    """For people."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Layer → what a step is expected to take when the model is cut there."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Layer → why `auto` does not take it."""
    candidates: tuple[CutCandidate, ...] = ()
    """All layers, in the model's order."""
    warning: str | None = None
    """What is not as it should be with the layer that was taken."""

    @property
    def layer(self) -> str:
        """Its name."""
        return self.candidate.layer


def flops_share(candidate: CutCandidate) -> float:
    """Operations of the front half, as a share of the whole model's."""
    whole = candidate.front_flops + candidate.back_flops
    return candidate.front_flops / whole if whole else 0.0


def choose_cut(
    spec: FederatedJobSpec, candidates: Sequence[CutCandidate], *, kept: str | None = None
) -> Choice:
    """The layer after which the model of a job is cut.

    Args:
        spec: of the job.
        candidates: where the model can be cut, in its order.
        kept: where it was cut before.

    Raises:
        UnfitRequest: there is no such layer, or none that fits the devices.
    """
    by_layer = {one.layer: one for one in candidates}
    refused = {name: why for name, one in by_layer.items() if (why := _refused(spec, one))}
    seconds = {name: cut_seconds(spec, one) for name, one in by_layer.items()}
    layer, why = _taken(spec, seconds, refused=refused, kept=kept)
    return Choice(
        by_layer[layer], why, seconds, refused, tuple(candidates), warning=refused.get(layer)
    )


def _taken(
    spec: FederatedJobSpec,
    seconds: Mapping[str, float],
    *,
    refused: Mapping[str, str],
    kept: str | None,
) -> tuple[str, str]:
    if kept is not None:
        return _named(seconds, kept), "the job was cut here before"
    if spec.model.front is not None and seconds:
        return next(iter(seconds)), "model.front ends here"
    if spec.model.cut is not None and spec.model.cut != AUTO:
        return _named(seconds, spec.model.cut), "model.cut names it"
    return _fastest(seconds, refused)


def cut_seconds(spec: FederatedJobSpec, candidate: CutCandidate) -> float:
    """What a step of the whole job is expected to take, with one cluster of all devices of a kind.

    The devices of all groups take part alike; an edge has its share of them.
    """
    split, size = spec.split or Split(), spec.training.batch_size
    load = load_of(candidate, split)
    members = [Placed(client_name(group.name, 0), group) for group in spec.devices]
    known = Insight()
    core_s = core_seconds([one.client for one in members], known, load=load)
    paced = paces(members, known, core_s=core_s)
    if split.batches == "equal":
        batches = equal_batches(len(members), size)
    else:
        bounds = bounds_of(size, [most_examples(candidate, group) for group in spec.devices])
        batches = proportional_batches(paced, load, batch_size=size, bounds=bounds)
    return step_seconds(batches, paced=paced, load=load) + _back_seconds(spec, load.back_flops)


def _back_seconds(spec: FederatedJobSpec, flops: float) -> float:
    """Of a step's back half, when all devices take part and the edges share them by their cores."""
    cores = sum(edge.replicas * edge_cores(edge) for edge in spec.edge_groups())
    examples = spec.training.batch_size * spec.clients() * spec.participation.fraction
    return examples * flops / (CORE_FLOPS * cores) if cores else 0.0


def _refused(spec: FederatedJobSpec, candidate: CutCandidate) -> str | None:
    """Why `auto` does not take a layer; None: it may."""
    most = (spec.split or Split()).max_device_flops
    if (share := flops_share(candidate)) > most:
        return (
            f"devices would have {share:.2f} of the model's operations, and"
            f" split.maxDeviceFlops is {most:g}"
        )
    size = spec.training.batch_size
    short = [one for one in spec.devices if most_examples(candidate, one) < size]
    return _too_large(candidate, short[0], size=size) if short else None


def _too_large(candidate: CutCandidate, group: DeviceGroup, *, size: int) -> str:
    most, need = most_examples(candidate, group), example_bytes(candidate) * size / _MIB
    return (
        f"a batch of {size} takes {need:.3g} MiB, and the memory of devices {group.name}"
        f" ({group.memory}) leaves room for {most} examples: raise it, or lower training.batchSize"
    )


def _named(layers: Collection[str], wanted: str) -> str:
    if wanted in layers:
        return wanted
    raise UnfitRequest(
        f"model.cut: there is no layer {wanted} after which the model can be cut;"
        f" it can be after {few([*layers], _SHOWN) or 'none'}"
    )


def _fastest(seconds: Mapping[str, float], refused: Mapping[str, str]) -> tuple[str, str]:
    """The layer with the shortest step, of equal ones the first."""
    left = {name: s for name, s in seconds.items() if name not in refused}
    if not left:
        told = few([f"{name}: {why}" for name, why in refused.items()], _SHOWN_REFUSED, comma="; ")
        raise UnfitRequest(
            f"model.cut auto: no layer fits the devices: {told or 'the model has no layers'}."
            " Name the layer in model.cut, or change what it says"
        )
    layer = min(left, key=left.__getitem__)
    others = sorted((s, name) for name, s in left.items() if name != layer)
    why = f"the shortest step of the layers that fit the devices: {left[layer]:.3g} s"
    if others:
        why += f", against {others[0][0]:.3g} s after {others[0][1]}"
    return layer, why
