"""Which energy of a device is believed: what its power model allows in the time seen. Pure.

`rounds.round_report` asks, before anything is summed up. A device tells its energy since its last
update that was taken, with what it waited in between: since the beginning of that update's round at
the most, as the server's clock has it, and all of it at work at the highest frequency. What is more
is left out of the job's energy and told beside (`LeftOut`). Invariant: a device whose clock and
figures are right is always believed; whatever another says adds no more than its power allows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lockstep_api.energy import most_watts
from lockstep_api.mistrust import LeftOut
from lockstep_api.names import client_name
from lockstep_api.settings import GroupSettings, JobSettings
from lockstep_api.status import EnergyJoules, told_joules
from lockstep_api.wire import ClientPlan, ClientReport

_TOLERANCE = 1.5
_PERIODS_S = 0.2
"""A quota is one of periods: a few of them more or less."""
_UNLIMITED_CORES = 4.0
"""What a pod may have had whose limit is not in force."""


@dataclass(frozen=True, slots=True)
class Power:
    """What a device may draw."""

    group: GroupSettings
    cpu_watts: float
    """Of a busy core."""

    def most(self, seconds: float, *, limited: bool) -> EnergyJoules:
        """The most energy by source in so many seconds; `limited`: its CPU limit was in force.

        No device measures its energy.
        """
        known = self.group.cpu_at_max
        cores = known if limited else max(known, _UNLIMITED_CORES)
        watts = most_watts(
            self.group.energy_model(), max_ghz=self.group.max_ghz, times=cores / known
        )
        on_s = _TOLERANCE * max(0.0, seconds) + _PERIODS_S
        return EnergyJoules(
            model=told_joules(watts * on_s),
            cpu=told_joules(self.cpu_watts * cores * on_s),
            measured=0.0,
        )


Powers = Mapping[str, Power]
"""By client; one that is missing is believed."""


def powers_of(job: JobSettings) -> dict[str, Power]:
    """Of all clients of a job."""
    return {
        client_name(group.name, index): Power(group, job.cpu_watts)
        for group in job.groups
        for index in range(group.replicas)
    }


def believed(
    told: ClientReport, plan: ClientPlan, *, power: Power | None, seconds: float, planned: bool
) -> ClientReport:
    """The report without the energy that cannot be; `planned`: the plan knows of limits."""
    if power is None:
        return told
    joules = told.update.energy_joules.model_dump(exclude_none=True)
    most = power.most(seconds, limited=plan.applied and planned).model_dump()
    beyond = {source: value for source, value in joules.items() if value > most[source]}
    if not beyond:
        return told
    kept = EnergyJoules(**{source: joules[source] for source in joules.keys() - beyond.keys()})
    left_out = LeftOut(
        said=EnergyJoules(**beyond), most=EnergyJoules(**{one: most[one] for one in beyond})
    )
    update = told.update.model_copy(update={"energy_joules": kept})
    return told.model_copy(update={"update": update, "left_out": left_out})
