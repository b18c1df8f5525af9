"""The modelled energy of an as-if DVFS device: pure functions, one definition for all parts.

A device whose CPU limit is `cpu_at_max` cores stands for one that runs at `max_ghz`. A CPU quota
does not change the clock of the machine: these figures say what the emulated device would use,
never what this machine used. Model: CN113312169B and Tran et al. (INFOCOM 2019).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class PowerPoint:
    """A measured point: `watts` drawn by the busy CPU at `ghz`."""

    ghz: float
    watts: float


@dataclass(frozen=True, slots=True)
class EnergyModel:
    """`kappa` (J per cycle per Hz²) or a frequency→power `table`; idle and transmit power (W)."""

    kappa: float
    table: tuple[PowerPoint, ...]
    """In any order; frequencies differ, and power does not fall when frequency rises."""
    idle_watts: float
    transmit_watts: float = 0.0
    """Power of the radio, beyond everything else, while an update is uploaded."""

    def __post_init__(self) -> None:
        """Raises ValueError: a table that says two things of one frequency, or falls."""
        for low, high in pairwise(sorted(self.table, key=lambda p: p.ghz)):
            if low.ghz == high.ghz:
                raise ValueError(f"energy.table has {low.ghz:g} GHz twice: remove one")
            if low.watts > high.watts:
                raise ValueError(
                    f"energy.table falls from {low.watts:g} W at {low.ghz:g} GHz to "
                    f"{high.watts:g} W at {high.ghz:g} GHz: watts must not fall when ghz rises"
                )


def frequency_ghz(limit_cores: float, *, cpu_at_max: float, max_ghz: float) -> float:
    """The frequency that a CPU limit stands for: f = maxGHz · limit / cpuAtMax."""
    return max_ghz * limit_cores / cpu_at_max


def limit_cores(ghz: float, *, cpu_at_max: float, max_ghz: float) -> float:
    """The CPU limit that stands for a frequency: limit(f) = cpuAtMax · f / maxGHz."""
    return cpu_at_max * ghz / max_ghz


def cycles(cpu_seconds: float, *, cpu_at_max: float, max_ghz: float) -> float:
    """The as-if device's cycles for `cpu_seconds` core-seconds of work."""
    return cpu_seconds / cpu_at_max * max_ghz * 1e9


def busy_watts(table: Sequence[PowerPoint], ghz: float) -> float:
    """Power at `ghz` by linear interpolation, constant beyond the ends of the table."""
    points = sorted(table, key=lambda p: p.ghz)
    if ghz <= points[0].ghz:
        return points[0].watts
    for low, high in pairwise(points):
        if ghz <= high.ghz:
            share = (ghz - low.ghz) / (high.ghz - low.ghz)
            return low.watts + share * (high.watts - low.watts)
    return points[-1].watts


def most_watts(model: EnergyModel, *, max_ghz: float, times: float = 1.0) -> float:
    """The most that a device draws by its model, all the time at work, and sending meanwhile.

    `times`: as much CPU as at `max_ghz` it may have had, where its limit was not in force.
    """
    busy = busy_watts(model.table, max_ghz) if model.table else model.kappa * (max_ghz * 1e9) ** 3
    return busy * times + model.idle_watts + model.transmit_watts


def modelled_joules(
    model: EnergyModel, *, n_cycles: float, ghz: float, on_s: float, transmit_s: float = 0.0
) -> float:
    """Joules of a device that was on for `on_s` seconds and did `n_cycles` cycles at `ghz` then.

    `kappa`: E = κ · cycles · f² + P_idle · on (algorithm of CN113312169B; κ·f² is only what the
    cycles take, so idle power counts all the time). `table`: E = P(f) · busy + P_idle · (on - busy)
    with busy = cycles / f (P(f) is all that the busy device draws). Either: + P_transmit ·
    `transmit_s`, the seconds of its uploads (Tran et al. 2019).
    """
    hertz = ghz * 1e9
    sending = model.transmit_watts * transmit_s
    if not model.table:
        return model.kappa * n_cycles * hertz**2 + model.idle_watts * on_s + sending
    busy_s = n_cycles / hertz if n_cycles else 0.0
    busy = busy_watts(model.table, ghz) * busy_s
    return busy + model.idle_watts * max(0.0, on_s - busy_s) + sending
