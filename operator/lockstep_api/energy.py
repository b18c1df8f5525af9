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
    """Either `kappa` (J per cycle per Hz²) or a frequency→power `table`; plus idle power (W)."""

    kappa: float
    table: tuple[PowerPoint, ...]
    idle_watts: float


def frequency_ghz(limit_cores: float, cpu_at_max: float, max_ghz: float) -> float:
    """The frequency that a CPU limit stands for: f = maxGHz · limit / cpuAtMax."""
    return max_ghz * limit_cores / cpu_at_max


def limit_cores(ghz: float, cpu_at_max: float, max_ghz: float) -> float:
    """The CPU limit that stands for a frequency: limit(f) = cpuAtMax · f / maxGHz."""
    return cpu_at_max * ghz / max_ghz


def cycles(cpu_seconds: float, cpu_at_max: float, max_ghz: float) -> float:
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


def modelled_joules(model: EnergyModel, *, n_cycles: float, ghz: float, idle_s: float) -> float:
    """Joules for `n_cycles` cycles at `ghz` and `idle_s` seconds without work.

    `kappa`: E = κ · cycles · f² (algorithm of CN113312169B); `table`: E = P(f) · cycles / f.
    """
    hertz = ghz * 1e9
    if model.table:
        busy = busy_watts(model.table, ghz) * n_cycles / hertz
    else:
        busy = model.kappa * n_cycles * hertz**2
    return busy + model.idle_watts * idle_s
