"""Jobs with edges, and where their models can be cut, as the planner's tests need them."""

from collections.abc import Iterable, Mapping
from typing import Any

from lockstep_api.spec import FederatedJobSpec
from lockstep_api.tiers import CutCandidate
from lockstep_api.wire import PlanRequest
from lockstep_operator.core.allocate import groups_by_client

CNN: tuple[CutCandidate, ...] = tuple(
    CutCandidate(
        layer=layer, front_flops=front, back_flops=34e6 - front, front_values=values,
        cut_values=cut, saved_bytes=saved, whole_saved_bytes=180_000,
    )
    for layer, front, values, cut, saved in (
        ("0", 2.6e6, 416, 12544, 3_000), ("2", 2.6e6, 448, 12544, 90_000),
        ("3", 2.6e6, 448, 3136, 110_000), ("4", 33.8e6, 13_280, 6272, 120_000),
        ("7", 33.9e6, 13_344, 1568, 160_000),
    )
)  # fmt: skip
"""Of the built-in cnn on 28 × 28 images, roughly: a later cut has almost all of the operations."""


def group(name: str = "d", cores: str = "1", *, replicas: int = 1, **more: Any) -> dict[str, Any]:
    frequency = {"minGHz": 0.2, "maxGHz": 2.0}
    return {"name": name, "replicas": replicas, "cpuAtMax": cores, "frequency": frequency, **more}


def hierarchical_job(*groups: dict[str, Any], **more: Any) -> FederatedJobSpec:
    """A job of mode hierarchical with two edges."""
    return split_job(*groups, **({"mode": "hierarchical"} | more))


def split_job(*groups: dict[str, Any], **more: Any) -> FederatedJobSpec:
    """A job of mode split with two edges."""
    return FederatedJobSpec.model_validate(
        {
            "mode": "split", "model": {"name": "cnn"}, "data": {"name": "fashion-mnist"},
            "training": {"rounds": 9, "batchSize": 32, "localSteps": {"fixed": 10}},
            "edges": [{"name": "e", "replicas": 2, "cpu": "2"}],
            "devices": list(groups) or [group(replicas=4)], **more,
        }
    )  # fmt: skip


def asking(
    spec: FederatedJobSpec,
    *,
    round: int = 1,
    edges: Iterable[str] = ("e-0", "e-1"),
    labels: Mapping[str, list[int]] | None = None,
    **more: Any,
) -> PlanRequest:
    """A request for a round's plan, with all devices connected."""
    clients = [
        {"client": one, "incarnation": "a", "examples": 100,
         "labelHistogram": (labels or {}).get(one, [])}
        for one in groups_by_client(spec)
    ]  # fmt: skip
    return PlanRequest.model_validate(
        {
            "round": round, "clients": clients,
            "edges": [{"edge": one, "incarnation": "a"} for one in edges],
            "cuts": [one.model_dump(by_alias=True) for one in CNN], **more,
        }
    )  # fmt: skip
