"""Fleets to train and to judge on: `paper`, `phones`, and `varied` for training only.

`paper`: the constants of the code beside Zhan et al. (IPDPS 2020). `phones`: measured
frequency→power tables, frequency ranges of their own, unequal data. `varied`: scales, energy shares
and ranges of many kinds, so that a policy does not rest on one set of constants.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from lockstep_allocator.devices import Array, Devices, energy_curve, stack_curves
from lockstep_allocator.fleet import Fleet
from lockstep_allocator.traces import Index, NamedTrace, TraceSet
from lockstep_api.energy import EnergyModel, PowerPoint

LEAST_MBPS, MOST_MBPS = 1.6, 80.0
"""Bandwidths are clipped to 0.2 … 10 MB/s, as in the paper's code."""
UPDATE_MBIT = 40.0
"""5 MB."""
PAPER_WEIGHT = 0.1
"""λ of the paper in s/J, times the energy weight asked for."""
PHONES_WEIGHT = 0.01
"""λ of the phones in s/J, times the energy weight asked for."""

_TAU = 2.0
_PAPER_KAPPA = 0.1 / _TAU
"""J/(Gcycle·GHz²): (α/2)·C·D·f² with α = 2e-28, and W = τ·C·D counts the cycles τ times."""

Random = np.random.Generator


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Traces that devices draw from: first a family, then one of its traces."""

    traces: TraceSet
    families: tuple[Index, ...]
    """Indices of each family's traces."""

    @classmethod
    def of(cls, traces: Sequence[NamedTrace]) -> "Pool":
        """All traces, by family."""
        names = sorted({trace.family for trace in traces})
        members = tuple(
            np.array([i for i, trace in enumerate(traces) if trace.family == name])
            for name in names
        )
        every = TraceSet.of(
            [trace.trace for trace in traces], least_mbps=LEAST_MBPS, most_mbps=MOST_MBPS
        )
        return cls(every, members)

    def draw(
        self, shape: tuple[int, int], random: Random, *, alike: bool = False
    ) -> tuple[Index, Array]:
        """(E, N) traces, and moments to begin at, with a history before; `alike`: of one family."""
        families = (shape[0], 1) if alike else shape
        family = random.integers(len(self.families), size=families)
        share = random.random(shape)
        which = np.zeros(shape, dtype=np.int64)
        for number, members in enumerate(self.families):
            chosen = members[(share * len(members)).astype(np.int64)]
            which = np.where(family == number, chosen, which)
        length = self.traces.durations_s[which]
        laps = 1 + np.ceil(100 / length)
        return which, (random.random(shape) + laps) * length


@dataclass(frozen=True, slots=True, kw_only=True)
class Phone:
    """A measured CPU cluster."""

    name: str
    """Device or SoC, and the cluster."""
    min_ghz: float
    """Its lowest frequency."""
    max_ghz: float
    """Its highest."""
    energy: EnergyModel
    """Its table."""


def read_phones(file: Path) -> list[Phone]:
    """CPU clusters of the freqbench collection (csv: soc, cluster_cpu, freq_khz, power_mw, valid).

    Raises:
        ValueError: no usable rows; says which columns are needed.
    """
    clusters: dict[str, list[PowerPoint]] = {}
    with file.open(newline="") as text:
        for row in csv.DictReader(text):
            try:
                if row["valid"] == "True":
                    ghz, watts = float(row["freq_khz"]) / 1e6, float(row["power_mw"]) / 1e3
                    name = f"{row['soc']} cpu {row['cluster_cpu']}"
                    clusters.setdefault(name, []).append(PowerPoint(ghz, watts))
            except (KeyError, TypeError, ValueError) as error:
                needed = "soc, cluster_cpu, freq_khz, power_mw, valid"
                raise ValueError(f"{file}: {error}: needs columns {needed}") from error
    phones = [_phone(name, points) for name, points in clusters.items() if len(points) > 2]
    if not phones:
        raise ValueError(f"{file} has no valid rows")
    return phones


def _phone(name: str, points: list[PowerPoint]) -> Phone:
    """Measurements are noisy: power may not fall when frequency rises."""
    rising: list[PowerPoint] = []
    for point in sorted(points, key=lambda p: p.ghz):
        least = rising[-1].watts if rising else 0.0
        if not rising or point.ghz > rising[-1].ghz:
            rising.append(PowerPoint(point.ghz, max(point.watts, least)))
    return Phone(
        name=name,
        min_ghz=rising[0].ghz,
        max_ghz=rising[-1].ghz,
        energy=EnergyModel(0.0, tuple(rising), 0.0),
    )


@cache
def generic_phones() -> tuple[Phone, ...]:
    """Made-up clusters for machines without measurements: P = leakage + c·f·V², V linear in f."""
    random = np.random.default_rng(0)
    phones = []
    for number in range(24):
        top = float(random.uniform(1.2, 3.0))
        bottom = top * float(random.uniform(0.15, 0.3))
        leakage, peak = float(random.uniform(0.01, 0.08)), float(random.uniform(0.4, 4.0))
        ghz = np.linspace(bottom, top, 9)
        volts = 0.6 + 0.4 * (ghz - bottom) / (top - bottom)
        watts = leakage + (peak - leakage) * ghz * volts**2 / top
        table = tuple(PowerPoint(float(f), float(w)) for f, w in zip(ghz, watts, strict=True))
        phones.append(
            Phone(
                name=f"generic {number}",
                min_ghz=bottom,
                max_ghz=top,
                energy=EnergyModel(0.0, table, 0.0),
            )
        )
    return tuple(phones)


def phones_beside(traces: Path) -> tuple[Phone, ...]:
    """The measurements that lie beside a folder of traces, or the made-up ones."""
    for above in (traces, *traces.resolve().parents[:2]):
        file = above / "devices" / "cpu_dvfs_freqbench.csv"
        if file.is_file():
            return tuple(read_phones(file))
    return generic_phones()


# -- drawing fleets --------------------------------------------------------------------------


class Scenario(Protocol):
    """Draws devices; one to train on can be pickled."""

    def __call__(self, shape: tuple[int, int], energy_weight: Array, *, random: Random) -> Devices:
        """Fleets of `shape` (E, N) with energy weights (E, 1)."""
        ...


def paper(shape: tuple[int, int], energy_weight: Array, *, random: Random) -> Devices:
    """f from 1 to 2 GHz; C of 18 … 26 cycles a bit, D of 0.06 … 0.09 Gbit, τ = 2 passes."""
    cycles = _TAU * random.uniform(18, 26, shape) * random.uniform(0.06, 0.09, shape)
    ones = np.ones(shape)
    nothing = np.zeros((*shape, 0))
    return Devices(
        work=cycles,
        upload=UPDATE_MBIT * ones,
        min_ghz=ones,
        max_ghz=2 * ones,
        kappa=_PAPER_KAPPA * ones,
        alpha=nothing,
        beta=nothing,
        idle_watts=0 * ones,
        transmit_watts=0 * ones,
        weight=PAPER_WEIGHT * energy_weight,
    )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _OfPhones:
    """A scenario: devices of P kinds, with 6 Gcycles times a lognormal amount of data."""

    lowest: Array
    """(P,) GHz."""
    highest: Array
    """(P,) GHz."""
    alpha: Array
    """(P, L) J/Gcycle, as `Devices.alpha`."""
    beta: Array
    """(P, L) W."""

    def __call__(self, shape: tuple[int, int], energy_weight: Array, *, random: Random) -> Devices:
        kind = random.integers(len(self.lowest), size=shape)
        work = 6 * np.exp(0.5 * random.standard_normal(shape)).clip(0.25, 4)
        nothing = np.zeros(shape)
        return Devices(
            work=work,
            upload=np.full(shape, UPDATE_MBIT),
            min_ghz=self.lowest[kind],
            max_ghz=self.highest[kind],
            kappa=nothing,
            alpha=self.alpha[kind],
            beta=self.beta[kind],
            idle_watts=nothing,
            transmit_watts=nothing,
            weight=PHONES_WEIGHT * energy_weight,
        )


def phones_of(phones: Sequence[Phone]) -> Scenario:
    """Devices that are these phones."""
    curves = [energy_curve(p.energy, min_ghz=p.min_ghz, max_ghz=p.max_ghz) for p in phones]
    alpha, beta = stack_curves(curves)
    return _OfPhones(
        lowest=np.array([curve.efficient_ghz for curve in curves]),
        highest=np.array([phone.max_ghz for phone in phones]),
        alpha=alpha,
        beta=beta,
    )


def varied(shape: tuple[int, int], energy_weight: Array, *, random: Random) -> Devices:
    """Scales of many kinds; `energy_weight` (1 … 10) sets energy's share of the cost."""
    one = (shape[0], 1)
    top = random.uniform(0.8, 3, shape)
    bottom = top * np.where(random.random(one) < 0.5, 0.5, random.uniform(0.1, 0.7, shape))
    base_s = np.exp(random.uniform(np.log(0.7), np.log(15), one))
    work = top * base_s * np.exp(random.uniform(0, 0.6, one) * random.standard_normal(shape))
    ratio = np.exp(random.uniform(np.log(0.1), np.log(2), one))
    upload = np.clip(base_s * ratio * 25, 0.5, 400) * np.ones(shape)
    watts = np.exp(random.normal(0, 0.6, shape))
    kappa = watts / top**3
    # Some have leakage besides: alpha + beta/f is one line, f·κ on top of it.
    beta = np.where(random.random(one) < 0.5, 0, random.uniform(0, 0.15, shape)) * watts
    efficient = np.cbrt(beta / (2 * kappa))  # where κf² + beta/f is least
    bottom = np.clip(np.maximum(bottom, efficient), None, top)
    busy = watts * work / top
    share = 0.03 * energy_weight * np.exp(random.normal(0, 0.7, one))
    weight = share * (base_s * (1 + ratio)) / busy.sum(-1, keepdims=True) * np.sqrt(shape[1])
    nothing, silent = np.zeros((*shape, 1)), np.zeros(shape)
    return Devices(
        work=work,
        upload=upload,
        min_ghz=bottom,
        max_ghz=top,
        kappa=kappa,
        alpha=nothing,
        beta=beta[..., None],
        idle_watts=silent,
        transmit_watts=silent,
        weight=weight,
    )


def with_radio(scenario: Scenario, watts: float) -> Scenario:
    """The same devices, which draw so many W besides while they upload."""

    def draw(shape: tuple[int, int], energy_weight: Array, *, random: Random) -> Devices:
        return replace(
            scenario(shape, energy_weight, random=random), transmit_watts=np.full(shape, watts)
        )

    return draw


def draw_fleet(
    scenario: Scenario,
    pool: Pool,
    *,
    shape: tuple[int, int],
    energy_weight: Array,
    random: Random,
    alike: bool = False,
) -> Fleet:
    """A batch of fleets; `alike`: the devices of a fleet have traces of one family."""
    which, offset_s = pool.draw(shape, random, alike=alike)
    return Fleet(
        scenario(shape, energy_weight, random=random), pool.traces, which=which, offset_s=offset_s
    )
