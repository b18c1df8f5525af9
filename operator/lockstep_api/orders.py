"""What cloud pod and edges say to each other: a cluster's part of a round, and what came of it.

Both travel as the text of a parcel beside its tensors (`lockstep_workers.parcels`).
"""

from typing import Annotated

from pydantic import BeforeValidator, Field

from lockstep_api.base import WireModel
from lockstep_api.sessions import Refusal
from lockstep_api.spec.tiers import LayerName
from lockstep_api.tiers import ClusterReport
from lockstep_api.wire import ClientPlan, ClientReport
from lockstep_api.wire_types import (
    MOST_NUMBERS,
    ClientName,
    ClusterName,
    Counted,
    Deadline,
    Distance,
    Finite,
    Number,
    NumberName,
    Sentence,
    SessionKey,
    few_entries,
)

_MOST_MEMBERS = 100_000


class MemberOrder(WireModel):
    """A client of a cluster, as its edge needs to know it."""

    plan: ClientPlan
    """What it is asked for."""
    key: SessionKey | None = Field(default=None, repr=False)
    """What it shows at this edge, made of the key of its session at the cloud pod
    (`sessions.key_at_edge`); empty: it has none yet, and is told of as soon as it has one."""
    examples: Counted
    """Training examples that it holds."""
    base_round: Number | None = None
    """The round of its last update that is in the model."""

    @property
    def client(self) -> str:
        """Its name."""
        return self.plan.client


class ClusterOrder(WireModel):
    """A cluster's part of a round, for one edge."""

    round: Counted
    """The round."""
    cluster: ClusterName
    """The cluster."""
    turn: Counted
    """Grows with every order: tells it from one that another edge has, or had."""
    members: Annotated[list[MemberOrder], Field(min_length=1, max_length=_MOST_MEMBERS)]
    """Its clients, in the order of the plan."""
    tries: Counted = 1
    """Edges that had it, this one included."""
    saved_round: Number = 0
    """The round that the job goes on from, should its cloud pod be lost now."""
    mean_steps: Annotated[float, Field(ge=0, le=2**31)] = 0.0
    """Mean of the steps asked of all of the round's participants, weighted by examples."""
    numbers: Annotated[dict[NumberName, Finite], BeforeValidator(few_entries(MOST_NUMBERS))] = (
        Field(default_factory=dict)
    )
    """Of the strategy's state."""
    bounds: Annotated[dict[NumberName, Distance], BeforeValidator(few_entries(MOST_NUMBERS))] = (
        Field(default_factory=dict)
    )
    """How far an update may go (`strategy.clipNorm`), by vector, and for how many steps."""
    cut: LayerName | None = None
    """Split: the layer after which the model is cut."""
    cut_shape: Annotated[list[Counted], Field(max_length=8)] = Field(default_factory=list)
    """Split: shape of an example's activations at the cut."""
    classes: Counted | None = None
    """Split: classes of the data."""
    pool_samples: Number = 0
    """Split: examples whose activations go on to the cloud, at most."""
    quorum: Number | None = None
    """Clients that suffice after the deadline; all when empty."""
    deadline_seconds: Deadline | None = None
    """Seconds from now until it may close with the quorum."""


class ClusterResult(WireModel):
    """What an edge sends up when its cluster's part of a round is done."""

    report: ClusterReport
    """The cluster's."""
    round: Counted
    """The round."""
    turn: Counted
    """That of its order."""
    clients: Annotated[list[ClientReport], Field(max_length=_MOST_MEMBERS, fail_fast=True)]
    """The clients whose work is in it."""
    lost: Annotated[dict[ClientName, Sentence], BeforeValidator(few_entries(_MOST_MEMBERS))] = (
        Field(default_factory=dict)
    )
    """Members whose work is not, and why."""
    rejected: Annotated[list[ClientName], Field(max_length=_MOST_MEMBERS, fail_fast=True)] = Field(
        default_factory=list
    )
    """The lost ones whose update was bad."""
    refused: Annotated[dict[Refusal, Number], BeforeValidator(few_entries(len(Refusal)))] = Field(
        default_factory=dict
    )
    """Refused updates by reason."""
    failure: Sentence | None = None
    """The user's code raised at the edge: there is nothing in it."""


class ClusterNews(WireModel):
    """What has changed for a cluster since its order."""

    round: Counted
    """The round."""
    cluster: ClusterName
    """The cluster."""
    turn: Counted
    """That of its order."""
    keys: Annotated[dict[ClientName, SessionKey], BeforeValidator(few_entries(_MOST_MEMBERS))] = (
        Field(default_factory=dict, repr=False)
    )
    """Members that have opened a session anew, with what they show from now on."""
    gone: Annotated[dict[ClientName, Sentence], BeforeValidator(few_entries(_MOST_MEMBERS))] = (
        Field(default_factory=dict)
    )
    """Members that will give nothing any more, and why."""
    close: bool = False
    """Whether the quorum is in, so that the cluster closes with what it has."""
    dropped: Sentence | None = None
    """Why nobody waits for the cluster's result any more; empty: somebody does."""


class ClusterProgress(WireModel):
    """What an edge says of a cluster whose deadline has passed: the quorum is the whole round's."""

    round: Counted
    """The round."""
    cluster: ClusterName
    """The cluster."""
    turn: Counted
    """That of its order."""
    accepted: Number
    """Clients whose work is in so far."""


class EdgeWork(WireModel):
    """An answer of an edge's long-poll: an order, with the vectors beside it, or news of one."""

    number: Counted
    """Counts the answers of a session: the edge asks for the one after it."""
    order: ClusterOrder | None = None
    """A cluster to run."""
    news: ClusterNews | None = None
    """What has changed for one that runs."""
