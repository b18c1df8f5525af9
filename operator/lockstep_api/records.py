"""What a cloud pod writes down of its rounds and clients, for whoever looks at a job later.

On its volume: `history.jsonl`, a line a round (RoundRecord; older ones become RoundSummary), and
`clients.json` (ClientsRecord). Read by the CLI (reports, explained plans) and the simulator
(plans that are played again).
"""

from typing import Annotated, Self

from pydantic import BeforeValidator, Field

from lockstep_api.base import WireModel
from lockstep_api.privacy import PrivacyReport
from lockstep_api.sessions import Refusal, Registration
from lockstep_api.spec.job import MOST_CLIENTS
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import RoundPlan, RoundReport
from lockstep_api.wire_types import (
    MOST_LABELS,
    Accuracy,
    ClientName,
    Counted,
    JobSeconds,
    Loss,
    Number,
    Seconds,
    few_entries,
)

HISTORY_FILE = "history.jsonl"
CLIENTS_FILE = "clients.json"
MODEL_FILE = "model.safetensors"
CLOUD_MODEL_FILE = "cloud-model.safetensors"
"""The cloud's half, where a job distils."""
MOST_HISTORY_BYTES = 32 << 20
"""What a cloud pod lets its history become at the most."""
MOST_CLIENTS_BYTES = 64 << 20
"""What is read of the clients: without labels, some 100 bytes of each of as many as a job may have.
"""


class RoundRecord(RoundReport):
    """A newer round: its report, and the plan that it followed."""

    plan: RoundPlan | None = None
    """What was asked for, and on what figures; empty in files of older releases."""

    @classmethod
    def of(cls, report: RoundReport, plan: RoundPlan) -> Self:
        """The record of a round that has finished."""
        return cls(**dict(report), plan=plan)


class RoundSummary(WireModel):
    """An older round: its report without its clients."""

    round: Number
    """The round, from 1."""
    planned: bool
    """False: the planner could not be reached for this round."""
    seconds: Seconds
    """Seconds from its start to its aggregation."""
    elapsed_seconds: JobSeconds
    """Seconds since round 1 began."""
    updates: Number
    """How many updates were accepted."""
    missing: Number
    """How many clients of the round gave none."""
    refused: Annotated[dict[Refusal, Number], BeforeValidator(few_entries(len(Refusal)))]
    """Refused updates by reason."""
    accuracy: Accuracy | None = None
    """Accuracy on the held-out data."""
    loss: Loss | None = None
    """Loss on the held-out data in nats."""
    energy_joules: EnergyJoules
    """Energy of all devices since round 1, in J by source."""
    taken_back: Number = 0
    """How often it was taken back before it was played so."""
    privacy: PrivacyReport | None = None
    """What its job had come to, where that hides its clients."""


class ClientRecord(WireModel):
    """What a client told when it registered."""

    client: ClientName
    """The client's name."""
    examples: Counted
    """Training examples that it holds."""
    labels: Annotated[list[Number], Field(max_length=MOST_LABELS)] = Field(default_factory=list)
    """Examples per label, as it told them (in modes with edges with its noise); empty: it told
    none, or there are too many for the file."""

    @classmethod
    def of(cls, told: Registration) -> Self:
        """The record of a registered client."""
        return cls(client=told.client, examples=told.examples, labels=told.label_histogram)


class ClientsRecord(WireModel):
    """The clients that a job has had."""

    clients: Annotated[list[ClientRecord], Field(max_length=MOST_CLIENTS)]
    """By name."""

    def without_labels(self) -> "ClientsRecord":
        """The same, smaller."""
        shortened = [one.model_copy(update={"labels": []}) for one in self.clients]
        return self.model_copy(update={"clients": shortened})
