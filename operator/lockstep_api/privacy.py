"""What cloud pod and planner say to each other of a private job's account.

cloud → planner    how many models the updates of a client are in (PlanRequest, Outcome), and which
                   ledger says so (LedgerMark, PlanRequest)
planner → cloud    PrivacyPlan, with each plan

The cloud pod counts, since it makes the models; the planner reckons ε, and knows the count from the
job's status when the cloud pod has lost it with its volume, or has an older one.
"""

from typing import Annotated

from pydantic import Field

from lockstep_api.base import WireModel
from lockstep_api.wire_types import Number

LedgerName = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Epsilon = Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)]


class LedgerMark(WireModel):
    """By which a ledger that is another one, or an older state of the same, is told."""

    ledger: LedgerName
    """Drawn when it was begun."""
    models: Number
    """Models that were made since, each with updates of some clients."""


class PrivacyPlan(WireModel):
    """What a private job has come to, and how far it may go."""

    rounds: Number
    """Models that the updates of a client are in, of that of which most are."""
    epsilon: Epsilon
    """ε of that client."""
    epsilon_after: Epsilon
    """The same with one more model."""
    delta: Annotated[float, Field(gt=0, lt=1)]
    """δ of both."""
    most_rounds: Number | None = None
    """Models that a client's updates may be in; empty: there is no budget."""
    least_rounds: Number = 0
    """Models in which every client counts as being, as the cloud pod has lost its account."""
    least_models: Number = 0
    """Models that its ledger counts as having seen then."""


class PrivacyReport(WireModel):
    """The account after a round."""

    rounds: Number
    """Models that the updates of a client are in, of that of which most are; models of rounds that
    were done again count, too."""
    epsilon: Epsilon | None = None
    """ε of that client; empty: the planner has not been there to say it."""
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    """δ of it."""
