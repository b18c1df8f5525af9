"""What the report of a round says of members that were not believed, or are left out. See `wire`.

Made by the cloud pod, read by the operator, the CLI and whoever draws a history.
"""

from typing import Annotated

from pydantic import AfterValidator, Field

from lockstep_api.base import WireModel
from lockstep_api.spec.job import MOST_CLIENTS
from lockstep_api.status import EnergyJoules
from lockstep_api.wire_types import ClientName, Number, Sentence, cut_at

MOST_TAKEN_BACK = 8
_MOST_WHY = 64


class LeftOut(WireModel):
    """Energy that a device cannot have used: it counts nowhere."""

    said: EnergyJoules
    """What it said, of the sources where that was too much."""
    most: EnergyJoules
    """The most that it can have used of these by its power, in the time that was seen."""


class SatOut(WireModel):
    """A client that was left out of a round."""

    client: ClientName
    """The client's name."""
    returns: Number
    """The round from which it may take part again."""
    why: Annotated[str, AfterValidator(cut_at(_MOST_WHY))] | None = None
    """How its update stood out, for which this round was taken back; empty: an earlier one was."""


class Mistrusted(WireModel):
    """Why a round was not played by all of its clients, or not at once."""

    taken_back: Annotated[list[Sentence], Field(max_length=MOST_TAKEN_BACK)] = Field(
        default_factory=list
    )
    """Why the round was taken back, each time, before it was played as it is reported."""
    sat_out: Annotated[list[SatOut], Field(max_length=MOST_CLIENTS, fail_fast=True)] = Field(
        default_factory=list
    )
    """Who was left out of it; a job that hides its clients never names one."""

    def stood_out(self) -> dict[str, str]:
        """Clients whose update stood out in this round, and how."""
        return {one.client: one.why for one in self.sat_out if one.why is not None}
