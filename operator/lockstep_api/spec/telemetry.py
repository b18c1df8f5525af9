"""What a job's pods tell Prometheus, and the energy that people want to hear of."""

from enum import StrEnum

from lockstep_api.base import ApiModel
from lockstep_api.spec.common import Positive

MOST_TOLD = 100
"""Devices up to which `auto` lets each tell all of its series."""


class PerDevice(StrEnum):
    """Whether each device tells all of its series."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class Telemetry(ApiModel):
    """What is told of the job, beside its status."""

    per_device: PerDevice = PerDevice.AUTO
    """Whether each device tells Prometheus all of its series: `always`; `never`: only those that
    rounds are planned from; `auto`: as always, for jobs of at most 100 devices. Series of groups
    of devices are there in any case. A change counts for pods that start after it."""
    energy_budget_joules: Positive | None = None
    """Energy in J (source `model`, of all devices since round 1) above which an alert is raised;
    it ends nothing. None when empty. A change counts from the next round."""

    def tells_each(self, clients: int) -> bool:
        """Whether each of so many devices tells all of its series."""
        if self.per_device is PerDevice.AUTO:
            return clients <= MOST_TOLD
        return self.per_device is PerDevice.ALWAYS
