"""How the tiers work together: modes, and what belongs to the ones with edges."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from lockstep_api.base import ApiModel
from lockstep_api.spec.common import Positive


class Mode(StrEnum):
    """How the tiers work together."""

    FEDERATED = "federated"
    HIERARCHICAL = "hierarchical"
    SPLIT = "split"


class Clustering(ApiModel):
    """How clients are grouped (modes hierarchical and split)."""

    method: Literal["kl", "random", "none"] = "none"
    """`kl`: clusters whose joint label distribution is close to the whole one."""
    clusters: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Number of clusters; the number of edge servers when empty."""
    min_size: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Fewest clients in a cluster; ⌊0.75 · clients / clusters⌋ when empty."""


class Offload(ApiModel):
    """How clusters are matched to edge servers."""

    objective: Literal["sum", "bottleneck"] = "sum"
    """Minimise the sum of all transfer and compute times, or the longest one."""


class Distillation(ApiModel):
    """Mutual distillation between the edge model and a deeper cloud model (mode split)."""

    enabled: bool = False
    """Switches it on."""
    temperature: Positive = 3.0
    """Temperature τ of the softened predictions."""
    beta: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Weight β of the distillation loss."""
    cloud_model: Annotated[str, Field(max_length=100)] | None = None
    """Built-in name or entrypoint of the cloud's deeper back half."""
    warmup_rounds: Annotated[int, Field(ge=0, le=1000)] = 1
    """Rounds in which the cloud model learns from labels only."""
