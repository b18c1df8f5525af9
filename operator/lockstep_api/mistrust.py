"""What the report of a round says of members that were not believed. See `wire`.

Made by the cloud pod, read by the operator, the CLI and whoever draws a history.
"""

from lockstep_api.base import WireModel
from lockstep_api.status import EnergyJoules


class LeftOut(WireModel):
    """Energy that a device cannot have used: it counts nowhere."""

    said: EnergyJoules
    """What it said, of the sources where that was too much."""
    most: EnergyJoules
    """The most that it can have used of these by its power, in the time that was seen."""
