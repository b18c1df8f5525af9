"""Made-up traces for machines that have none: Markov-modulated bandwidth.

A link is in one of a few states (good, fair, poor, outage), stays for a geometric time, and its
bandwidth varies around the state's level (first-order autoregressive in the logarithm), as cellular
traces do. Families differ in level and restlessness.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lockstep_allocator.devices import Array


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of link."""

    name: str
    level_mbps: float
    """Bandwidth of the good state."""
    stay_s: float
    """Mean seconds in a state."""
    spread: float
    """Standard deviation of the logarithm within a state."""


FAMILIES = (
    Family("generated_3g", 2.5, 30.0, 0.35),
    Family("generated_lte", 40.0, 20.0, 0.25),
    Family("generated_5g", 200.0, 8.0, 0.5),
)
_STATES = np.array([1.0, 0.5, 0.15, 0.0])
"""Level of each state relative to the good one; the last is an outage."""
_SHARES = np.array([0.45, 0.35, 0.17, 0.03])
"""How often each state follows another."""
_MEMORY = 0.8


def generate(family: Family, seconds: int, *, random: np.random.Generator) -> Array:
    """(seconds,) Mbit/s, one value a second."""
    level = family.level_mbps * np.exp(0.4 * random.standard_normal())
    state, noise = int(random.choice(len(_STATES), p=_SHARES)), 0.0
    values = np.empty(seconds)
    for second in range(seconds):
        stay_s = 3.0 if _STATES[state] == 0 else family.stay_s
        if random.random() < 1 / stay_s:
            state = int(random.choice(len(_STATES), p=_SHARES))
        fresh = random.standard_normal() * np.sqrt(1 - _MEMORY**2)
        noise = _MEMORY * noise + fresh
        values[second] = level * _STATES[state] * np.exp(family.spread * noise)
    if not values.any():
        values[0] = level
    return values


def write_traces(folder: Path, *, traces: int, seconds: int, seed: int) -> list[Path]:
    """Writes `traces` csv files for each family; the files."""
    written = []
    random = np.random.default_rng(seed)
    for family in FAMILIES:
        (folder / family.name).mkdir(parents=True, exist_ok=True)
        for number in range(traces):
            file = folder / family.name / f"{number:03d}.csv"
            with file.open("w", newline="") as text:
                rows = csv.writer(text)
                rows.writerow(("t_seconds", "bandwidth_mbps"))
                rows.writerows(
                    (second, f"{mbps:.4f}")
                    for second, mbps in enumerate(generate(family, seconds, random=random))
                )
            written.append(file)
    return written
