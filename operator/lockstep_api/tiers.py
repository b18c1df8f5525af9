"""What clusters, edges and cuts are to all planes; `wire` and `orders` have the messages with them.

cloud  → planner   EdgeRegistration, CutCandidate (in a PlanRequest), ClusterReport (in a report)
planner → cloud    ClusterPlan (in a RoundPlan)
"""

from typing import Annotated

from pydantic import Field

from lockstep_api.base import WireModel
from lockstep_api.spec.tiers import LayerName
from lockstep_api.wire_types import (
    Accuracy,
    Bytes,
    ClientName,
    ClusterName,
    Count,
    Counted,
    Divergence,
    EdgeName,
    Incarnation,
    Loss,
    Number,
    Seconds,
    Sentence,
)

MOST_EDGES = 1000
MOST_CLUSTERS = 1000
MOST_CUTS = 64
MOST_OFFERS = 8
_MOST_MEMBERS = 100_000


class CutCandidate(WireModel):
    """A layer after which a model can be cut, and what that means for an example."""

    layer: LayerName
    """The layer's name in the module."""
    front_flops: Count
    """Operations of a training step before the cut: forward and backward, as torch counts them."""
    back_flops: Count
    """The same behind the cut."""
    front_values: Number
    """Trained parameters before the cut."""
    cut_values: Counted
    """Activation values at the cut."""
    saved_bytes: Count
    """Bytes that the front half keeps for its backward pass."""
    whole_saved_bytes: Count
    """The same of the whole model."""


class EdgeRegistration(WireModel):
    """An edge says who it is when it opens its session at the cloud pod."""

    edge: EdgeName
    """The edge's name."""
    incarnation: Incarnation
    """Tells two runs of one edge apart."""

    @property
    def client(self) -> str:
        """Whose session it is."""
        return self.edge


class EdgeOffer(WireModel):
    """What a cluster would have taken on another edge, had the others stayed where they are."""

    edge: EdgeName
    """The edge."""
    cost_seconds: Seconds
    """What the cluster's part of the round would take there."""
    full: bool = False
    """Whether the edge has no room for it."""


class ClusterPlan(WireModel):
    """A cluster of a round's participants, and the edge that runs it."""

    cluster: ClusterName
    """Its name in the round."""
    edge: EdgeName
    """The edge that runs it."""
    fallbacks: Annotated[list[EdgeName], Field(max_length=MOST_EDGES, fail_fast=True)] = Field(
        default_factory=list
    )
    """The other edges, cheapest first: who runs it should its edge be lost."""
    clients: Annotated[
        list[ClientName], Field(min_length=1, max_length=_MOST_MEMBERS, fail_fast=True)
    ]
    """Its members, in the order of the plan."""
    divergence: Divergence | None = None
    """KL of its labels from those of the whole round, in nats; empty: labels are not known."""
    cost_seconds: Seconds | None = None
    """What its part of the round is expected to take on this edge; empty: nothing is known yet."""
    why: Sentence = ""
    """Why this edge."""
    offers: Annotated[list[EdgeOffer], Field(max_length=MOST_OFFERS)] = Field(default_factory=list)
    """The other edges as `fallbacks` has them, the first of many; empty: nothing is known yet."""


class ClusterReport(WireModel):
    """What became of a cluster in a round."""

    cluster: ClusterName
    """Its name in the round."""
    edge: EdgeName
    """The edge that ran it in the end."""
    tries: Counted = 1
    """Edges that had it, this one included."""
    clients: Number
    """Clients in its result."""
    examples: Number
    """Training examples that these hold."""
    seconds: Seconds
    """From its order to its result."""
    samples: Number = 0
    """Split: examples that went through the back half."""
    steps: Number = 0
    """Split: steps done."""
    back_cpu_seconds: Seconds = 0.0
    """Split: core-seconds of the back half."""
    missed: Number = 0
    """Split: steps of members that went on without them."""
    up_bytes: Bytes = 0
    """Received from its devices."""
    down_bytes: Bytes = 0
    """Sent to its devices."""


class DistillationReport(WireModel):
    """What distillation did after a round."""

    samples: Number
    """Examples in the pool."""
    edge_taught: bool
    """Whether the edges' model learnt from the cloud's."""
    cloud_taught: bool
    """Whether the cloud's model learnt from the edges'."""
    edge_loss: Loss | None = None
    """Of the edges' model on held-back activations before it, in nats."""
    cloud_loss: Loss | None = None
    """Of the cloud's model."""
    cloud_accuracy: Accuracy | None = None
    """Of front half and cloud model on the held-out data, after it."""
    seconds: Seconds = 0.0
    """What it took."""
