"""How the tiers work together: modes, and what belongs to the ones with edges."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from lockstep_api.base import ApiModel
from lockstep_api.rules import rules
from lockstep_api.spec.common import Entrypoint, Positive

LayerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=100)]


class Mode(StrEnum):
    """How the tiers work together."""

    FEDERATED = "federated"
    HIERARCHICAL = "hierarchical"
    SPLIT = "split"


class ClusteringMethod(StrEnum):
    """How a round's clients become clusters."""

    KL = "kl"
    RANDOM = "random"
    NONE = "none"
    LITERAL = "literal"


class Clustering(ApiModel):
    """How a round's clients are grouped (modes hierarchical and split)."""

    model_config = rules(
        (
            "self.method != 'none' || !has(self.clusters) || self.clusters == 1",
            "clustering: method none makes one cluster; remove clusters or use another method",
        ),
    )

    method: ClusteringMethod = ClusteringMethod.KL
    """`kl`: the labels of each cluster are together close to those of the whole round; `random`:
    drawn; `none`: one cluster of all; `literal`: the greedy text of the source, which leaves
    clusters empty where labels are very unequal and is refused then."""
    clusters: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Number of clusters; the number of edge servers when empty. Never more than clients."""
    min_size: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Fewest clients in a cluster; when empty sizes are within one of each other."""
    every_rounds: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Rounds for which clusters stay."""
    epsilon: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """ε of the Laplace noise, of scale 1/ε, that a device adds to each count of its label histogram
    before it tells it; with a large one counts are told as they are. The noise is drawn once; with
    training.deterministic from the seed, and hides nothing from who knows that."""

    def tells_labels(self, *, private: bool) -> bool:
        """Whether devices tell their histograms; of a private job only if clusters need them."""
        return not private or self.method in {ClusteringMethod.KL, ClusteringMethod.LITERAL}


class Offload(ApiModel):
    """How clusters are matched to edge servers."""

    objective: Literal["bottleneck", "sum"] = "bottleneck"
    """Make the longest cluster of a round as short as can be, or the sum of all."""


class FrontUpdate(StrEnum):
    """When the front half is updated."""

    STEP = "step"
    ROUND = "round"


class WireDtype(StrEnum):
    """How activations and their gradients travel."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class Split(ApiModel):
    """Split training (mode split): devices train the front half, edges the back half."""

    front_update: FrontUpdate = FrontUpdate.STEP
    """`step`: the edge owns the front and updates it in every step by the sum of its devices'
    gradients; `round`: each device steps its own front, the edge averages them once a round."""
    wire_dtype: WireDtype = WireDtype.BFLOAT16
    """How activations and their gradients travel; bfloat16 takes half of the bytes."""
    batches: Literal["proportional", "equal"] = "proportional"
    """`proportional`: faster devices take more of a step's examples, so that all finish together;
    the loss is weighted so that the objective stays. training.batchSize is the mean."""
    max_device_flops: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Most of the whole model's training operations that a device may have, as a share; model.cut
    auto keeps to it."""
    step_deadline_seconds: Annotated[float, Field(gt=0, le=1e6)] = 30.0
    """Seconds after which a step goes on without a device that stalls; it never does with
    training.deterministic."""


class Teacher(StrEnum):
    """Who teaches whom in distillation."""

    MUTUAL = "mutual"
    CLOUD = "cloud"
    EDGE = "edge"
    NONE = "none"


class Distillation(ApiModel):
    """Distillation between the edges' back half and a deeper cloud model (mode split), on the
    activations of each round."""

    model_config = rules(
        (
            "!(has(self.cloudModel) && has(self.cloudEntrypoint))",
            "distillation: set only one of cloudModel and cloudEntrypoint",
        ),
    )

    enabled: bool = False
    """Switches it on."""
    teacher: Teacher = Teacher.MUTUAL
    """`mutual`: both models learn from labels and from each other; `cloud`: the edges' model learns
    from the cloud's; `edge`: the other way round; `none`: both learn from labels only."""
    temperature: Positive = 3.0
    """Temperature τ of the softened predictions."""
    beta: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Weight β of the distillation loss β·τ²·KL."""
    cloud_model: Literal["deeper"] | None = None
    """A built-in back half for the cloud, deeper than the edges'; `deeper` when empty."""
    cloud_entrypoint: Entrypoint | None = None
    """`package.module:function` in the image; the function returns the cloud's back half, a
    torch.nn.Module that takes the activations at the cut."""
    warmup_rounds: Annotated[int, Field(ge=0, le=1000)] = 2
    """Rounds in which the cloud model learns from labels only and teaches nobody."""
    edge_epochs: Annotated[int, Field(ge=0, le=100)] = 1
    """Passes of the edges' back half over a round's activations."""
    cloud_epochs: Annotated[int, Field(ge=0, le=100)] = 1
    """Passes of the cloud model over them."""
    learning_rate: Positive | None = None
    """Step size of both; training.learningRate when empty."""
    gate: bool = True
    """What a model learnt from the other one is kept only while its loss on held-back activations
    of the round is not above what labels alone make it: a weak teacher does harm."""
    max_samples: Annotated[int, Field(ge=1, le=10_000_000)] = 20_000
    """Most examples of a round whose activations and labels go on to the cloud; beyond it they are
    drawn. They are forgotten after the round."""
