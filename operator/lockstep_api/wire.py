"""What the pods say to each other, besides tensors (those travel as safetensors bodies).

device → cloud     Registration (opens the session), UpdateReport (header of an update)
cloud  → device    Task (header of the model)
cloud  → planner   PlanRequest (with the report of the round before), Outcome
planner → cloud    RoundPlan
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from lockstep_api.base import WireModel
from lockstep_api.spec import Actuator, Target
from lockstep_api.status import EnergyJoules

Ghz = Annotated[float, Field(ge=0, allow_inf_nan=False, alias="frequencyGHz")]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Refusal(StrEnum):
    """Why an update was refused; the label of `lockstep_updates_refused_total`."""

    UNKNOWN_CLIENT = "unknown_client"
    NOT_IN_ROUND = "not_in_round"
    WRONG_ROUND = "wrong_round"
    DUPLICATE = "duplicate"
    CONTENT_TYPE = "content_type"
    BAD_REPORT = "bad_report"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    SHAPE = "shape"
    DTYPE = "dtype"
    NON_FINITE = "non_finite"
    TOO_SLOW = "too_slow"


class Registration(WireModel):
    """A device says who it is when it opens its session."""

    client: str
    """The client's name."""
    incarnation: str
    """Tells two runs of one client apart."""
    examples: Annotated[int, Field(ge=1)]
    """Training examples that it holds."""
    label_histogram: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)
    """Examples per label."""


class Task(WireModel):
    """What a device does in a round."""

    round: int
    """The round, from 1."""
    steps: Annotated[int, Field(ge=1)]
    """Local SGD steps."""
    frequency_ghz: Ghz
    """The frequency that was asked for, in GHz."""
    throttle_milli: Annotated[int, Field(ge=1)] | None = None
    """Millicores that the device keeps itself to; empty: its CPU limit alone holds it."""
    base_round: int | None = None
    """The round of this client's last update that is in the model: what it remembers from there
    fits. Empty: none is in it."""
    saved_round: int = 0
    """The round that the job goes on from, should its cloud pod be lost now."""

    def throttle_cores(self) -> float | None:
        """The same in cores."""
        return None if self.throttle_milli is None else self.throttle_milli / 1000


class UpdateReport(WireModel):
    """What a device says about its part of a round."""

    client: str
    """The client's name."""
    round: int
    """The round trained for."""
    examples: Annotated[int, Field(ge=1)]
    """Its weight: training examples that it holds."""
    steps: Annotated[int, Field(ge=1)]
    """Local SGD steps done."""
    memory_round: int | None = None
    """The round whose memory it trained with; empty: it had none, or has lost it."""
    train_loss: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Mean training loss over the steps, in nats; empty: it was not finite."""
    download_seconds: NonNegative
    """Seconds to receive the model; for people, who find it in the history."""
    compute_seconds: NonNegative
    """Seconds of local training."""
    cpu_seconds: NonNegative
    """Core-seconds of CPU used by the training."""
    throttled_seconds: NonNegative
    """Seconds for which the CPU quota held it back."""
    quota_cores: NonNegative | None = None
    """The CPU quota read from its own cgroup while training, in cores; empty: none is set."""
    frequency_ghz: Ghz
    """The frequency that it had, in GHz (at most maxGHz): what this quota stands for, or for a
    device that slowed itself what its CPU seconds a second stand for."""
    energy_joules: EnergyJoules
    """Energy since its update before this one, in J by source."""


class ClientReport(WireModel):
    """An accepted update, as the cloud reports it to the planner."""

    update: UpdateReport
    """The device's own report."""
    arrived_seconds: NonNegative
    """Seconds from the round's start to the complete update."""
    upload_seconds: NonNegative
    """Seconds from the update's head to its last byte at the server: with the link's latency and
    the wait for its turn to be read. docs/metrics.md tells it from the other bandwidths."""
    bytes: Annotated[int, Field(ge=0)]
    """Size of the update in bytes."""


class RoundReport(WireModel):
    """A finished round."""

    round: int
    """The round, from 1."""
    planned: bool
    """False: the planner could not be reached for this round."""
    seconds: NonNegative
    """Seconds from its start to its aggregation."""
    elapsed_seconds: NonNegative
    """Seconds since round 1 began."""
    clients: list[ClientReport]
    """The accepted updates."""
    lost: list[str] = Field(default_factory=list)
    """Clients of the round that gave no update."""
    refused: dict[Refusal, int] = Field(default_factory=dict)
    """Refused updates by reason."""
    accuracy: float | None = None
    """Accuracy on the held-out data."""
    loss: float | None = None
    """Loss on the held-out data in nats."""
    energy_joules: EnergyJoules
    """Energy of all devices since round 1, in J by source."""


class NoticeReason(StrEnum):
    """What a cloud pod has to say beside its reports; the reason of a Kubernetes Event."""

    RESUMED = "Resumed"
    CHECKPOINT_CORRUPT = "CheckpointCorrupt"
    CHECKPOINT_FAILED = "CheckpointFailed"
    CLIENTS_MISSING = "ClientsMissing"
    ROUND_REPEATED = "RoundRepeated"


class Notice(WireModel):
    """Something that people should read: it becomes one Event on the job."""

    type: Literal["Normal", "Warning"]
    """Type of the Event."""
    reason: NoticeReason
    """Reason of the Event."""
    message: Annotated[str, Field(max_length=1024)]
    """A sentence."""


class PlanRequest(WireModel):
    """The cloud pod asks for a round's plan."""

    round: Annotated[int, Field(ge=1)]
    """The round to plan."""
    clients: list[Registration]
    """The clients connected now."""
    report: RoundReport | None = None
    """The round before."""
    notices: Annotated[list[Notice], Field(max_length=64)] = Field(default_factory=list)
    """What happened since the last request that was answered."""
    checkpoint_problem: Annotated[str, Field(max_length=1024)] | None = None
    """Why the newest checkpoint is missing; empty: it is there."""


class ClientPlan(WireModel):
    """A participant of a round."""

    client: str
    """The client's name."""
    frequency_ghz: Ghz
    """Its frequency in GHz."""
    cpu_milli: Annotated[int, Field(ge=1)]
    """The CPU limit for it, in millicores."""
    steps: Annotated[int, Field(ge=1)]
    """Local SGD steps."""
    actuator: Actuator = Actuator.RESIZE
    """`resize`: its pod has the limit; `cooperative`: the device is told to keep to it."""
    applied: bool
    """Whether the limit is in force (cooperative: the pod's own limit leaves room for it)."""
    reason: str | None = None
    """Why it is not, or why the device has to keep to it itself although resize was asked for."""

    def throttle_milli(self) -> int | None:
        """What the device has to keep itself to, in millicores; None: nothing."""
        return self.cpu_milli if self.actuator is Actuator.COOPERATIVE else None


class RoundPlan(WireModel):
    """The plan of a round."""

    round: int
    """The round planned."""
    rounds: int
    """Rounds of the job as of now."""
    target: Target | None = None
    """The result that ends the job, as of now."""
    participants: list[ClientPlan]
    """Who takes part."""
    quorum: int | None = None
    """Updates that suffice after the deadline; all when empty."""
    deadline_seconds: float | None = None
    """Seconds until the round closes with the quorum; none when empty."""
    planned: bool = True
    """False: made by the cloud pod from the plan before, without the planner."""


class PolicyVerdict(WireModel):
    """The planner's answer to a policy that a trainer offers."""

    taken: bool
    """Whether the job's rounds are planned with it from now on."""
    message: str
    """Why."""


class Outcome(WireModel):
    """How a job ended; the cloud pod repeats it until the planner has taken it."""

    result: Literal["RoundsCompleted", "TargetReached", "Failed"]
    """RoundsCompleted, TargetReached or Failed."""
    message: str
    """A sentence for people."""
    report: RoundReport | None = None
    """The last finished round."""
