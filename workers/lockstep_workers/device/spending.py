"""What a round's training cost a device: CPU time, the frequency it had, energy by source. Pure.

`device.loop` keeps an `Account`, and whoever plays devices in one process keeps one for each.
"""

from dataclasses import dataclass, field

from lockstep_api.energy import cycles, frequency_ghz, modelled_joules
from lockstep_api.settings import GroupSettings, JobSettings
from lockstep_api.status import EnergyJoules, told_joules
from lockstep_workers.device.cgroup import CpuReading


@dataclass(frozen=True, slots=True)
class Spent:
    """What a round's training took."""

    compute_s: float
    cpu_s: float
    """Core-seconds of this process: what others do in the same cgroup is not counted."""
    throttled_s: float
    quota_cores: float | None
    frequency_ghz: float
    """The frequency that the device had."""


NOTHING = Spent(0.0, 0.0, 0.0, None, 0.0)
"""Of a device that did not train."""


def spent(
    group: GroupSettings,
    *,
    before: CpuReading,
    after: CpuReading,
    compute_s: float,
    cpu_s: float,
    throttle_cores: float | None = None,
) -> Spent:
    """Reads two readings around the training.

    The quota is the one in force at the end of the training. Without a quota, or above maxGHz,
    the device counts as running at maxGHz. One that slowed itself to `throttle_cores`, not above
    its quota, had the frequency that its CPU time was measured to be.
    """
    throttled = (after.throttled_s or 0.0) - (before.throttled_s or 0.0)
    quota = after.quota_cores
    ghz = group.max_ghz
    if quota is not None:
        ghz = min(ghz, frequency_ghz(quota, cpu_at_max=group.cpu_at_max, max_ghz=group.max_ghz))
    if throttle_cores is not None and (quota is None or throttle_cores <= quota):
        cores = cpu_s / max(compute_s, 1e-9)
        ghz = min(ghz, frequency_ghz(cores, cpu_at_max=group.cpu_at_max, max_ghz=group.max_ghz))
    return Spent(compute_s, cpu_s, max(0.0, throttled), quota, ghz)


def energy(
    job: JobSettings, group: GroupSettings, *, used: Spent, idle_s: float, upload_s: float
) -> EnergyJoules:
    """A round's energy of one device by source, in J.

    Args:
        job: the job's settings.
        group: the device's.
        used: what the training took.
        idle_s: seconds that it was on before the training.
        upload_s: seconds of these in which it uploaded.
    """
    n_cycles = cycles(used.cpu_s, cpu_at_max=group.cpu_at_max, max_ghz=group.max_ghz)
    modelled = modelled_joules(
        group.energy_model(),
        n_cycles=n_cycles,
        ghz=used.frequency_ghz,
        on_s=idle_s + used.compute_s,
        transmit_s=upload_s,
    )
    return EnergyJoules(model=told_joules(modelled), cpu=told_joules(used.cpu_s * job.cpu_watts))


@dataclass(slots=True)
class Account:
    """What a device has spent and not told yet; its clock, in seconds, is the caller's."""

    job: JobSettings
    group: GroupSettings
    idle_since_s: float | None = None
    """When the last training ended; None: no work yet, the device is not part of a round."""
    upload_s: float = 0.0
    """Seconds of uploads since the last training."""
    untold: EnergyJoules = field(default_factory=EnergyJoules)
    """Energy since the last update that was taken: one that was not is told with the next."""

    def trained(
        self,
        used: Spent,
        *,
        began_s: float,
        ended_s: float,
        download_s: float,
        waited_s: float = 0.0,
    ) -> EnergyJoules:
        """A training is done; what it and the time before it took.

        `waited_s` are seconds of waiting within it: for an edge, in split training.
        """
        idle_s = download_s if self.idle_since_s is None else began_s - self.idle_since_s
        idle_s += waited_s
        joules = energy(self.job, self.group, used=used, idle_s=idle_s, upload_s=self.upload_s)
        self.idle_since_s, self.upload_s = ended_s, 0.0
        self.untold = self.untold.plus(joules)
        return joules

    def uploaded(self, seconds: float, *, taken: bool) -> None:
        """An update was sent; one that was taken has told what was to be told."""
        self.upload_s += seconds
        if taken:
            self.untold = EnergyJoules()

    def waited(self, now_s: float) -> EnergyJoules:
        """What the time since the last training took, of a device that will not train again."""
        idle_s = 0.0 if self.idle_since_s is None else now_s - self.idle_since_s
        return energy(self.job, self.group, used=NOTHING, idle_s=idle_s, upload_s=self.upload_s)
