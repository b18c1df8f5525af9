"""What the pods say to each other, besides tensors (those travel as safetensors bodies).

device → cloud     Registration (opens the session), UpdateReport (header of an update),
                   ClientFailure (the user's code raised)
cloud  → device    SessionOpened (first line of the session), Task (header of the model),
                   FailureAnswer
cloud  → planner   PlanRequest (with the report of the round before), Outcome
planner → cloud    RoundPlan
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from lockstep_api.base import WireModel
from lockstep_api.budget import bound_steps
from lockstep_api.spec import Actuator, Target
from lockstep_api.spec.job import MOST_CLIENTS
from lockstep_api.status import EnergyJoules
from lockstep_api.text import cut

MOST_LABELS = 1024
"""A device of more classes tells no histogram."""
MOST_NOTICES = 64
MOST_NUMBERS = 16
"""Numbers of a strategy."""
MOST_TEXT = 1024
"""Characters of a sentence."""
MOST_ACCOUNT = 4096
"""Characters of how a job ended."""
_MOST_INT = 2**31 - 1
"""Examples or steps above it could make the sum of a round overflow: they are its weights."""
_MOST_LOSS = 3.5e38
"""float32 ends before."""


def _cut(length: int) -> Callable[[str], str]:
    return lambda text: cut(text, length)


def _few(most: int) -> Callable[[Any], Any]:
    """Before its items are looked at: a wrong one would be told each."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > most:
            raise ValueError(f"at most {most} entries")
        return value

    return check


ClientName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Sentence = Annotated[str, AfterValidator(_cut(MOST_TEXT))]
"""For people: a longer one is cut, never refused."""
Number = Annotated[int, Field(ge=0, le=_MOST_INT)]
Counted = Annotated[int, Field(ge=1, le=_MOST_INT)]
Ghz = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False, alias="frequencyGHz")]
Cores = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]
"""Of a round, at most 115 days."""
JobSeconds = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]
"""Of a whole job."""
Budget = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0, le=2**40)]
Deadline = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
NumberName = Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Accuracy = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Loss = Annotated[float, Field(ge=-_MOST_LOSS, le=_MOST_LOSS, allow_inf_nan=False)]


def told_loss(nats: float) -> float | None:
    """A loss as a report has it; None: it is not finite."""
    return nats if abs(nats) <= _MOST_LOSS else None


def most_bytes(clients: int) -> int:
    """Size of a job's largest request to the planner, in bytes.

    A client has its registration, its report and its name among the lost ones: less than 1 KiB.
    A character takes 6 bytes at most.
    """
    return clients * 2048 + 6 * (MOST_TEXT * (MOST_NOTICES + 2) + MOST_ACCOUNT) + (64 << 10)


def most_values(clients: int) -> int:
    """Commas and brackets in such a request; sentences may be of commas only."""
    return clients * 64 + MOST_TEXT * (MOST_NOTICES + 2) + MOST_ACCOUNT + 1024


class Refusal(StrEnum):
    """Why an update was refused; the label of `lockstep_updates_refused_total`."""

    UNKNOWN_CLIENT = "unknown_client"
    NO_SESSION = "no_session"
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

    client: ClientName
    """The client's name."""
    incarnation: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/-]{1,128}$")]
    """Tells two runs of one client apart."""
    examples: Counted
    """Training examples that it holds."""
    label_histogram: Annotated[list[Number], Field(max_length=MOST_LABELS, fail_fast=True)] = Field(
        default_factory=list
    )
    """Examples per label; empty where there are too many, and in what the planner is told."""

    def without_labels(self) -> "Registration":
        """What the planner is told of it."""
        return self.model_copy(update={"label_histogram": []})


class SessionOpened(WireModel):
    """The cloud pod's answer to a registration, to its sender alone."""

    session: Literal["open"] = "open"
    """What has become of it."""
    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{16,128}$", repr=False)]
    """What the device shows from now on (`names.SESSION_HEADER`), until the session ends."""


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
    frequency_ghz: Ghz
    """The frequency that was asked for, in GHz."""
    throttle_milli: Counted | None = None
    """Millicores that the device keeps itself to; empty: its CPU limit alone holds it."""
    base_round: Number | None = None
    """The round of this client's last update that is in the model: what it remembers from there
    fits. Empty: none is in it."""
    saved_round: Number = 0
    """The round that the job goes on from, should its cloud pod be lost now."""
    mean_steps: Annotated[float, Field(ge=0, le=_MOST_INT)] = 0.0
    """Mean of the steps asked of the round's participants, weighted by examples."""
    numbers: Annotated[dict[NumberName, Finite], BeforeValidator(_few(MOST_NUMBERS))] = Field(
        default_factory=dict
    )
    """What the strategy's server has to tell beside vectors."""

    def asked_steps(self) -> int | None:
        """The steps as people are told them; None: the budget alone bounds them."""
        return bound_steps(self.steps, self.budget_seconds)

    def throttle_cores(self) -> float | None:
        """The same in cores."""
        return None if self.throttle_milli is None else self.throttle_milli / 1000


class UpdateReport(WireModel):
    """What a device says about its part of a round."""

    client: ClientName
    """The client's name."""
    round: Number
    """The round trained for."""
    examples: Counted
    """Its weight: training examples that it holds."""
    steps: Counted
    """Local SGD steps done."""
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


class ClientFailure(WireModel):
    """A device says that the user's code failed on it: it has nothing for this round."""

    client: ClientName
    """The client's name."""
    incarnation: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/-]{1,128}$")]
    """That of its registration."""
    round: Number
    """The round that it trained for; 0: it could not begin."""
    message: Sentence
    """The error, and where in the user's code."""


class FailureAnswer(WireModel):
    """What becomes of a client whose code failed."""

    again: bool
    """Whether it may go on; false: the job does without it, or ends."""


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
    refused: Annotated[dict[Refusal, Number], BeforeValidator(_few(len(Refusal)))] = Field(
        default_factory=dict
    )
    """Refused updates by reason."""
    accuracy: Accuracy | None = None
    """Accuracy on the held-out data."""
    loss: Loss | None = None
    """Loss on the held-out data in nats."""
    energy_joules: EnergyJoules
    """Energy of all devices since round 1, in J by source."""

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
    CLIENT_FAILED = "ClientFailed"


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
    report: RoundReport | None = None
    """The round before."""
    notices: Annotated[list[Notice], Field(max_length=MOST_NOTICES, fail_fast=True)] = Field(
        default_factory=list
    )
    """What happened since the last request that was answered."""
    checkpoint_problem: Sentence | None = None
    """Why the newest checkpoint is missing; empty: it is there."""
    given_up: Sentence | None = None
    """Which clients the job does without, since the user's code failed on them, and how."""


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
    actuator: Actuator = Actuator.RESIZE
    """`resize`: its pod has the limit; `cooperative`: the device is told to keep to it."""
    applied: bool
    """Whether the limit is in force (cooperative: the pod's own limit leaves room for it)."""
    reason: Sentence | None = None
    """Why it is not, or why the device has to keep to it itself although resize was asked for."""

    def asked_steps(self) -> int | None:
        """The steps as people are told them; None: the budget alone bounds them."""
        return bound_steps(self.steps, self.budget_seconds)

    def throttle_milli(self) -> int | None:
        """What the device has to keep itself to, in millicores; None: nothing."""
        return self.cpu_milli if self.actuator is Actuator.COOPERATIVE else None


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
    planned: bool = True
    """False: made by the cloud pod from the plan before, without the planner."""


class PolicyVerdict(WireModel):
    """The planner's answer to a policy that a trainer offers."""

    taken: bool
    """Whether the job's rounds are planned with it from now on."""
    message: Sentence
    """Why."""


class Outcome(WireModel):
    """How a job ended; the cloud pod repeats it until the planner has taken it."""

    result: Literal["RoundsCompleted", "TargetReached", "Failed"]
    """RoundsCompleted, TargetReached or Failed."""
    message: Annotated[str, AfterValidator(_cut(MOST_ACCOUNT))]
    """What people should know; a condition holds no more of it."""
    report: RoundReport | None = None
    """The last finished round."""
