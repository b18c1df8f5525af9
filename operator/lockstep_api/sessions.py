"""What a device says to open a session and beside its updates, and why an update is refused.

device → server    Registration (opens the session), ClientFailure (the user's code raised)
server → device    SessionOpened (first line of the session), FailureAnswer

A server is the cloud pod or an edge.
"""

import base64
import hmac
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from lockstep_api.base import WireModel
from lockstep_api.wire_types import (
    MOST_LABELS,
    ClientName,
    Counted,
    Incarnation,
    Number,
    Sentence,
    SessionKey,
)


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
    incarnation: Incarnation
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
    key: SessionKey = Field(repr=False)
    """What the device shows from now on (`names.SESSION_HEADER`), until the session ends."""


class ClientFailure(WireModel):
    """A device says that the user's code failed on it: it has nothing for this round."""

    client: ClientName
    """The client's name."""
    incarnation: Incarnation
    """That of its registration."""
    round: Number
    """The round that it trained for; 0: it could not begin."""
    message: Sentence
    """The error, and where in the user's code."""


def key_at_edge(key: str, edge: str) -> str:
    """What the holder of a session at the cloud pod shows at an edge, which is told this alone: it
    opens nothing at the cloud pod, and nothing at another edge."""
    made = hmac.digest(key.encode(), edge.encode(), "sha256")
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode()


class FailureAnswer(WireModel):
    """What becomes of a client whose code failed."""

    again: bool
    """Whether it may go on; false: the job does without it, or ends."""
