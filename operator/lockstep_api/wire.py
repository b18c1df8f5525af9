"""What the pods say to each other, besides tensors (those travel as safetensors bodies).

device → server    UpdateReport (header of an update); `sessions` has what else it says
server → device    Task (header of the model)
cloud  → planner   PlanRequest (with the report of the round before), Outcome
planner → cloud    RoundPlan

A server is the cloud pod or an edge; `orders` has what these two say to each other.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from lockstep_api.base import WireModel
from lockstep_api.budget import bound_steps
from lockstep_api.mistrust import LeftOut, Mistrusted
from lockstep_api.privacy import LedgerMark, PrivacyPlan, PrivacyReport
from lockstep_api.sessions import Refusal, Registration
from lockstep_api.spec import Actuator, LayerName, Target
from lockstep_api.spec.job import MOST_CLIENTS
from lockstep_api.status import EnergyJoules, Joules
from lockstep_api.tiers import (
    MOST_CLUSTERS,
    MOST_CUTS,
    MOST_EDGES,
    ClusterPlan,
    ClusterReport,
    CutCandidate,
    DistillationReport,
    EdgeRegistration,
)
from lockstep_api.wire_types import (
    MOST_ACCOUNT,
    MOST_INT,
    MOST_LOSS,
    MOST_NOTICES,
    MOST_NUMBERS,
    MOST_VECTORS,
    Accuracy,
    Budget,
    Bytes,
    ClientName,
    ClusterName,
    Cores,
    Counted,
    Deadline,
    Distance,
    EdgeName,
    Finite,
    Frequency,
    Ghz,
    JobSeconds,
    Loss,
    Number,
    NumberName,
    Rate,
    Seconds,
    Sentence,
    cut_at,
    few_entries,
)


def told_loss(nats: float) -> float | None:
    """A loss as a report has it; None: it is not finite."""
    return nats if abs(nats) <= MOST_LOSS else None


class Task(WireModel):
    """What a device does in a round."""

    round: Number
    """The round, from 1."""
    turn: Counted
    """Grows with every task, also when a round is done again: a device asks for one after it."""
    steps: Counted
    """Local SGD steps, at most."""
    budget_seconds: Budget | None = None
    """Seconds of training after which it begins no further step; empty: it does all steps."""
    edge: EdgeName | None = None
    """The edge that it works with; empty: the cloud pod itself."""
    cluster: ClusterName | None = None
    """Its cluster in this round."""
    batch_size: Counted | None = None
    """Split: examples of each of its steps."""
    cut: LayerName | None = None
    """Split: the layer after which the model is cut."""
    frequency_ghz: Ghz
    """The frequency that was asked for, in GHz."""
    throttle_milli: Counted | None = None
    """Millicores that the device keeps itself to; empty: its CPU limit alone holds it."""
    base_round: Number | None = None
    """The round of this client's last update that is in the model: what it remembers from there
    fits. Empty: none is in it."""
    saved_round: Number = 0
    """The round that the job goes on from, should its cloud pod be lost now."""
    mean_steps: Annotated[float, Field(ge=0, le=MOST_INT)] = 0.0
    """Mean of the steps asked of the round's participants, weighted by examples."""
    numbers: Annotated[dict[NumberName, Finite], BeforeValidator(few_entries(MOST_NUMBERS))] = (
        Field(default_factory=dict)
    )
    """What the strategy's server has to tell beside vectors."""

    def asked_steps(self) -> int | None:
        """The steps as people are told them; None: the budget alone bounds them."""
        return bound_steps(self.steps, self.budget_seconds)

    def throttle_cores(self) -> float | None:
        """The same in cores."""
        return None if self.throttle_milli is None else self.throttle_milli / 1000


class Moved(WireModel):
    """What travelled between a device and its edge in a round of split training."""

    up_bytes: Bytes
    """Activations, labels and gradients of the front half, sent."""
    down_bytes: Bytes
    """Front halves and gradients at the cut, received."""
    up_seconds: Seconds
    """Seconds of sending."""
    down_seconds: Seconds
    """Seconds from the first to the last byte of what was received."""
    wait_seconds: Seconds
    """Seconds of waiting for the edge, and so for others."""


class UpdateReport(WireModel):
    """What a device says about its part of a round."""

    client: ClientName
    """The client's name."""
    round: Number
    """The round trained for."""
    examples: Counted
    """Training examples that it holds; it weighs what the job has dealt out to it."""
    steps: Counted
    """Local SGD steps done; more than were asked for never count."""
    memory_round: Number | None = None
    """The round whose memory it trained with; empty: it had none, or has lost it."""
    train_loss: Loss | None = None
    """Mean training loss over the steps, in nats; empty: it was not finite."""
    download_seconds: Seconds
    """Seconds to receive the model; for people, who find it in the history."""
    compute_seconds: Seconds
    """Seconds of local training."""
    cpu_seconds: Seconds
    """Core-seconds of CPU used by the training."""
    throttled_seconds: Seconds
    """Seconds for which the CPU quota held it back."""
    quota_cores: Cores | None = None
    """The CPU quota read from its own cgroup while training, in cores; empty: none is set."""
    frequency_ghz: Ghz
    """The frequency that it had, in GHz (at most maxGHz): what this quota stands for, or for a
    device that slowed itself what its CPU seconds a second stand for."""
    energy_joules: EnergyJoules
    """Energy since its update before this one, in J by source."""
    samples: Number | None = None
    """Split: examples that went through its front half."""
    moved: Moved | None = None
    """Split: what travelled between it and its edge."""


class ClientReport(WireModel):
    """An accepted update, as the cloud reports it to the planner."""

    update: UpdateReport
    """The device's own report."""
    arrived_seconds: Seconds
    """Seconds from the round's start to the complete update."""
    upload_seconds: Seconds
    """Seconds from the update's head to its last byte at the server: with the link's latency and
    the wait for its turn to be read. docs/metrics.md tells it from the other bandwidths."""
    bytes: Bytes
    """Size of the update in bytes."""
    asked_steps: Counted | None = None
    """Local SGD steps of its plan; empty where its budget alone bounded them."""
    distances: Annotated[list[Distance], Field(max_length=MOST_VECTORS)] = Field(
        default_factory=list
    )
    """How far each of its vectors went, as it came; the first is the model's. Empty: unknown."""
    kept: Annotated[list[Accuracy], Field(max_length=MOST_VECTORS)] = Field(default_factory=list)
    """The share of each that `strategy.clipNorm` left; empty: it was not clipped."""
    left_out: LeftOut | None = None
    """What it said of energy that cannot be; `update` does not have it. Empty: nothing."""


class RoundReport(WireModel):
    """A finished round."""

    round: Number
    """The round, from 1."""
    planned: bool
    """False: the planner could not be reached for this round."""
    seconds: Seconds
    """Seconds from its start to its aggregation."""
    elapsed_seconds: JobSeconds
    """Seconds since round 1 began."""
    clients: Annotated[list[ClientReport], Field(max_length=MOST_CLIENTS, fail_fast=True)]
    """The accepted updates."""
    lost: Annotated[list[ClientName], Field(max_length=MOST_CLIENTS, fail_fast=True)] = Field(
        default_factory=list
    )
    """Clients of the round that gave no update."""
    refused: Annotated[dict[Refusal, Number], BeforeValidator(few_entries(len(Refusal)))] = Field(
        default_factory=dict
    )
    """Refused updates by reason."""
    accuracy: Accuracy | None = None
    """Accuracy on the held-out data."""
    loss: Loss | None = None
    """Loss on the held-out data in nats."""
    energy_joules: EnergyJoules
    """Energy of all devices since round 1, in J by source."""
    clusters: Annotated[list[ClusterReport], Field(max_length=MOST_CLUSTERS, fail_fast=True)] = (
        Field(default_factory=list)
    )
    """What became of its clusters."""
    distillation: DistillationReport | None = None
    """What distillation did after it."""
    privacy: PrivacyReport | None = None
    """What its job has come to with its model, where that hides its clients."""
    mistrusted: Mistrusted | None = None
    """Why it was taken back before, and who was left out; empty: it was not, and nobody."""

    def upload_bytes(self) -> int:
        """Of all updates."""
        return sum(one.bytes for one in self.clients)


class NoticeReason(StrEnum):
    """What a cloud pod has to say beside its reports; the reason of a Kubernetes Event."""

    RESUMED = "Resumed"
    CHECKPOINT_CORRUPT = "CheckpointCorrupt"
    CHECKPOINT_FAILED = "CheckpointFailed"
    CLIENTS_MISSING = "ClientsMissing"
    ROUND_REPEATED = "RoundRepeated"
    ROUND_ROLLED_BACK = "RoundRolledBack"
    CLIENT_FAILED = "ClientFailed"
    EDGE_LOST = "EdgeLost"


class Notice(WireModel):
    """Something that people should read: it becomes one Event on the job."""

    type: Literal["Normal", "Warning"]
    """Type of the Event."""
    reason: NoticeReason
    """Reason of the Event."""
    message: Sentence
    """A sentence."""


class PlanRequest(WireModel):
    """The cloud pod asks for a round's plan."""

    round: Counted
    """The round to plan."""
    clients: Annotated[list[Registration], Field(max_length=MOST_CLIENTS, fail_fast=True)]
    """The clients connected now."""
    edges: Annotated[list[EdgeRegistration], Field(max_length=MOST_EDGES, fail_fast=True)] = Field(
        default_factory=list
    )
    """The edges connected now."""
    cuts: Annotated[list[CutCandidate], Field(max_length=MOST_CUTS, fail_fast=True)] = Field(
        default_factory=list
    )
    """Where the model can be cut (mode split)."""
    cut: LayerName | None = None
    """Where it was cut in the rounds before; empty: there were none."""
    report: RoundReport | None = None
    """The round before."""
    notices: Annotated[list[Notice], Field(max_length=MOST_NOTICES, fail_fast=True)] = Field(
        default_factory=list
    )
    """What happened since the last request that was answered."""
    checkpoint_problem: Sentence | None = None
    """Why the newest checkpoint is missing; empty: it is there."""
    private_rounds: Number | None = None
    """Models that the updates of a client are in, of that of which most are, also of rounds that
    were done again; empty: the job does not hide its clients."""
    ledger: LedgerMark | None = None
    """Of what says so."""
    given_up: Sentence | None = None
    """Which clients the job does without, since the user's code failed on them, and how."""


class PlanBasis(WireModel):
    """The figures that a participant's plan was made of; a figure that nobody knows is empty.

    What of `finish_seconds` is no work of its own steps is the rest of the round: the upload; in
    mode split also what it receives, and its edge's back half.
    """

    mbps: Rate | None = None
    """Bandwidth of its uplink that the plan counts on, in Mbit/s: the mean of the last 10 s; for
    policy static and planned steps, which go by no moment, a longer one."""
    upload_mbit: Rate | None = None
    """What it sends in the round, in Mbit: its update, in mode split what all its steps send."""
    work_per_step: Seconds
    """W of a local step, in core-seconds of CPU; in mode split of a step of its batch."""
    finish_seconds: Seconds
    """When its part of the round is expected to be in, from the round's start."""
    has_ghz: Annotated[Frequency | None, Field(alias="hasGHz")] = None
    """The frequency that it has whatever it is asked for, since its limit is not in force."""


class ClientPlan(WireModel):
    """A participant of a round."""

    client: ClientName
    """The client's name."""
    frequency_ghz: Ghz
    """Its frequency in GHz."""
    cpu_milli: Counted
    """The CPU limit for it, in millicores."""
    steps: Counted
    """Local SGD steps, at most."""
    budget_seconds: Budget | None = None
    """Seconds of training after which the device begins no further step."""
    batch_size: Counted | None = None
    """Split: examples of each of its steps."""
    actuator: Actuator = Actuator.RESIZE
    """`resize`: its pod has the limit; `cooperative`: the device is told to keep to it."""
    applied: bool
    """Whether the limit is in force (cooperative: the pod's own limit leaves room for it)."""
    reason: Sentence | None = None
    """Why it is not, or why the device has to keep to it itself although resize was asked for."""
    basis: PlanBasis | None = None
    """What it was made of; empty: nothing was measured yet, or it could not be used."""

    def asked_steps(self) -> int | None:
        """The steps as people are told them; None: the budget alone bounds them."""
        return bound_steps(self.steps, self.budget_seconds)

    def throttle_milli(self) -> int | None:
        """What the device has to keep itself to, in millicores; None: nothing.

        A split step waits so often that a quota never slows it: there the device always does.
        """
        itself = self.actuator is Actuator.COOPERATIVE or self.batch_size is not None
        return self.cpu_milli if itself else None


class RoundPlan(WireModel):
    """The plan of a round."""

    round: Number
    """The round planned."""
    rounds: Number
    """Rounds of the job as of now."""
    target: Target | None = None
    """The result that ends the job, as of now."""
    participants: Annotated[list[ClientPlan], Field(max_length=MOST_CLIENTS, fail_fast=True)]
    """Who takes part."""
    quorum: Number | None = None
    """Updates that suffice after the deadline; all when empty."""
    deadline_seconds: Deadline | None = None
    """Seconds until the round closes with the quorum; none when empty."""
    energy_budget_joules: Joules | None = None
    """The job's energy budget as of now, in J; empty: it has none."""
    planned: bool = True
    """False: made by the cloud pod from the plan before, without the planner."""
    clusters: Annotated[list[ClusterPlan], Field(max_length=MOST_CLUSTERS, fail_fast=True)] = Field(
        default_factory=list
    )
    """How the participants are grouped (modes hierarchical and split): each is in one."""
    cut: LayerName | None = None
    """The layer after which the model is cut (mode split)."""
    privacy: PrivacyPlan | None = None
    """The account of a job that hides its clients."""


class PolicyVerdict(WireModel):
    """The planner's answer to a policy that a trainer offers."""

    taken: bool
    """Whether the job's rounds are planned with it from now on."""
    message: Sentence
    """Why."""


class Outcome(WireModel):
    """How a job ended; the cloud pod repeats it until the planner has taken it."""

    result: Literal["RoundsCompleted", "TargetReached", "PrivacyBudgetSpent", "Failed"]
    """RoundsCompleted, TargetReached, PrivacyBudgetSpent or Failed."""
    message: Annotated[str, AfterValidator(cut_at(MOST_ACCOUNT))]
    """What people should know; a condition holds no more of it."""
    report: RoundReport | None = None
    """The last finished round."""
    private_rounds: Number | None = None
    """As of a `PlanRequest`."""
