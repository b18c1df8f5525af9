"""What is known of a job's devices before a round, and the fleet that the allocator sees; pure.

`telemetry` reads it from Prometheus, the report of the round before stands in where that says
nothing; `figures` says what of it is believed. What nobody has measured yet is taken from the other
devices of the job, and work that is far from theirs counts as nearer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lockstep_allocator.devices import Array, Devices, energy_curve, stack_curves
from lockstep_allocator.observation import EDGES_S, LEAST_MBPS, Observation, recent_mbps
from lockstep_api.energy import cycles
from lockstep_api.quantity import parse_quantity
from lockstep_api.settings import energy_model_of
from lockstep_api.spec import DeviceGroup
from lockstep_api.tiers import CutCandidate

_SLOTS = len(EDGES_S) - 1
_FRESH_S = 10.0
"""Samples that are older say nothing of now, unless they come no more often."""
NO_UPLOAD_MBPS = 1e6
"""Stands for a bandwidth that nobody has measured yet."""
LEAST_MBIT = 1e-6
"""Stands for an upload whose size nobody knows yet."""
_UNLIKE = 10.0
"""A step's work is that of the median device, times or divided by this at most."""


@dataclass(frozen=True, slots=True)
class Samples:
    """A series as Prometheus has it."""

    times_s: tuple[float, ...]
    """Unix seconds, rising."""
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Way:
    """Bandwidth between a device and an edge, as its last round there met it; None: not known."""

    up_mbps: float | None = None
    down_mbps: float | None = None


@dataclass(frozen=True, slots=True)
class ClientInsight:
    """What is known of one device; None where nothing is."""

    slots_mbps: tuple[float, ...] | None = None
    """Mean uplink bandwidth in the allocator's slots, newest first."""
    mean_mbps: float | None = None
    """Mean bandwidth of all its uploads."""
    last_mbps: float | None = None
    """Bandwidth of its last upload."""
    work_per_step: float | None = None
    """W: core-seconds of CPU that a local step takes."""
    step_s: float | None = None
    """Seconds that a step of its last training took."""
    upload_mbit: float | None = None
    """Size of its last update."""
    has_ghz: float | None = None
    """Frequency that it had in its last round."""
    most_work: float | None = None
    """Core-seconds that a step can have taken, by what was seen of its last round."""
    doubted: tuple[str, ...] | None = None
    """Series of it that hold no numbers that a device can have."""
    work_per_example: float | None = None
    """Core-seconds of CPU that the front half of an example takes, forward and backward."""
    down_mbps: float | None = None
    """Bandwidth of what it received last, in split training."""
    by_edge: Mapping[str, Way] | None = None
    """Edge → what its link to it carried last."""


@dataclass(frozen=True, slots=True)
class Insight:
    """What is known of a job's devices, and of its edges."""

    clients: Mapping[str, ClientInsight] = field(default_factory=dict)
    problem: str | None = None
    """Why telemetry is not what it should be; empty: it is."""
    examples: Mapping[str, int] = field(default_factory=dict)
    """Client → training examples that it holds."""
    half_steps: float | None = None
    """What the job's rounds say of the worth of steps (`worth`); None: nothing."""
    back_work: Mapping[str, float] = field(default_factory=dict)
    """Edge → core-seconds of CPU that the back half of an example takes on it."""
    cuts: Sequence[CutCandidate] = ()
    """Where the model can be cut, in mode split."""

    def of(self, client: str) -> ClientInsight:
        """What is known of a client."""
        return self.clients.get(client, ClientInsight())

    def met(self, clients: Iterable[str]) -> set[str]:
        """The edges of whose way to one of these clients something is known."""
        return {edge for client in clients for edge in self.of(client).by_edge or ()}


# -- series → insight ------------------------------------------------------------------------


def slots_from_counter(samples: Samples, now_s: float) -> tuple[float, ...] | None:
    """Bandwidth in the slots from a counter of Mbit that the link could have carried.

    A counter that falls was reset (the pod restarted): what it says then is what came since.
    Slots from before the first sample have the mean of the others. None: too little, or too old.
    """
    if len(samples.times_s) < 2 or not _are_fresh(samples.times_s, now_s):
        return None
    times, values = np.array(samples.times_s), np.array(samples.values)
    steps = np.diff(values)
    carried = np.concatenate([[0.0], np.cumsum(np.where(steps < 0, values[1:], steps))])
    return _slots(times, carried, now_s=now_s)


def slots_from_gauge(samples: Samples, now_s: float) -> tuple[float, ...] | None:
    """Bandwidth in the slots from a gauge that holds the bandwidth of the last upload."""
    known = [(t, v) for t, v in zip(samples.times_s, samples.values, strict=True) if v > 0]
    if not known or not _are_fresh([t for t, _ in known], now_s):
        return None
    times = np.array([t for t, _ in known])
    values = np.array([v for _, v in known])
    edges = np.append(times, max(now_s, times[-1] + 1e-3))
    carried = np.concatenate([[0.0], np.cumsum(np.diff(edges) * values)])
    return _slots(edges, carried, now_s=now_s)


def _are_fresh(times_s: Sequence[float], now_s: float) -> bool:
    """Whether the newest sample says something of now; devices of large jobs are scraped rarely."""
    usual_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
    return times_s[-1] >= now_s - max(_FRESH_S, 1.5 * usual_s)


def _slots(times: Array, carried: Array, *, now_s: float) -> tuple[float, ...]:
    """The newest sample counts as now: what came since is not known yet."""
    now_s = min(now_s, float(times[-1]))
    edges = now_s - np.array(EDGES_S)
    at = np.interp(edges, times, carried)
    span_s = np.diff(np.maximum(edges[::-1], times[0]))[::-1]
    got = at[:-1] - at[1:]
    mean = (carried[-1] - carried[0]) / max(float(times[-1] - times[0]), 1e-9)
    rates = np.where(span_s > 1e-6, got / np.maximum(span_s, 1e-6), mean)
    return tuple(float(rate) for rate in rates)


def merged(newer: ClientInsight, older: ClientInsight) -> ClientInsight:
    """`newer`, and where it says nothing what `older` says."""
    told = {
        name: value
        for name in ClientInsight.__dataclass_fields__
        if (value := getattr(newer, name)) is not None
    }
    if newer.by_edge and older.by_edge:
        told["by_edge"] = {**older.by_edge, **newer.by_edge}
    return replace(older, **told)


def combined(
    found: Mapping[str, ClientInsight], measured: Mapping[str, ClientInsight]
) -> dict[str, ClientInsight]:
    """What Prometheus says, and for the rest what the reports said."""
    return {
        client: merged(found.get(client, ClientInsight()), measured.get(client, ClientInsight()))
        for client in {*found, *measured}
    }


def stale(found: Mapping[str, ClientInsight], reported: Iterable[str]) -> str | None:
    """What is wrong with telemetry: devices that uploaded and have no fresh bandwidth in it."""
    expected = sorted(reported)
    without = [c for c in expected if found.get(c, ClientInsight()).slots_mbps is None]
    if not without:
        return None
    named = ", ".join(without[:3]) + (" …" if len(without) > 3 else "")
    count = f"{len(without)} of {len(expected)}"
    return f"Prometheus has no fresh bandwidth of {count} devices: {named}"


# -- insight → fleet -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """A device that takes part in a round."""

    client: str
    group: DeviceGroup
    steps: int
    """Local steps that it is asked for."""
    fixed_ghz: float | None = None
    """The frequency that it has whatever is asked; None: what is asked."""


def observation_of(
    members: Sequence[Member], insight: Insight, *, energy_weight: float
) -> Observation | None:
    """The devices as the allocator sees them (one fleet); None: no work was ever measured."""
    known = [insight.of(member.client) for member in members]
    work_cores = work_per_step([member.client for member in members], insight)
    if work_cores is None:
        return None
    everyone = insight.clients.values()
    usual_mbit = usual(one.upload_mbit for one in everyone) or 0.0
    sizes = filled([one.upload_mbit for one in known], usual_mbit)
    slots = [*map(_slots_of, known)]
    unknown = _usual_slots(insight) if None in slots else ()
    history = np.maximum(np.array([one or unknown for one in slots]), LEAST_MBPS)[None]
    recent = recent_mbps(history)
    last = np.array([[one.last_mbps or recent[0, i] for i, one in enumerate(known)]])
    mean = np.array(
        [[one.mean_mbps or one.last_mbps or recent[0, i] for i, one in enumerate(known)]]
    )
    devices = devices_of(members, work_cores, sizes=sizes, energy_weight=energy_weight)
    return Observation(devices=devices, slots_mbps=history, last_mbps=last, mean_mbps=mean)


def _usual_slots(insight: Insight) -> tuple[float, ...]:
    """Those of a device of which nothing is known."""
    known = [slots for one in insight.clients.values() if (slots := _slots_of(one)) is not None]
    usual_mbps = usual(float(np.mean(slots)) for slots in known)
    return (NO_UPLOAD_MBPS if usual_mbps is None else usual_mbps,) * _SLOTS


def _slots_of(one: ClientInsight) -> tuple[float, ...] | None:
    if one.slots_mbps is not None:
        return one.slots_mbps
    return None if one.last_mbps is None else (one.last_mbps,) * _SLOTS


def work_per_step(clients: Sequence[str], insight: Insight) -> Array | None:
    """Core-seconds of a step of each of `clients`; None: no work was ever measured.

    Steps are the same work on all devices, however many they do: none is far from the median.
    """
    middle = usual(one.work_per_step for one in insight.clients.values())
    if middle is None:
        return None
    each = filled([insight.of(client).work_per_step for client in clients], middle)
    return np.clip(each, middle / _UNLIKE, middle * _UNLIKE)


def usual(values: Iterable[float | None]) -> float | None:
    """The median of those that are known; None: all are missing."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def filled(values: Sequence[float | None], middle: float) -> Array:
    """Missing values replaced by what is usual."""
    return np.array([middle if value is None else value for value in values])


def devices_of(
    members: Sequence[Member], work_cores: Array, *, sizes: Array, energy_weight: float
) -> Devices:
    """Devices whose steps take so many core-seconds each, and that upload so many Mbit."""
    groups = {member.group.name: member.group for member in members}
    curve_of = {
        name: energy_curve(
            energy_model_of(group), min_ghz=group.frequency.min_ghz, max_ghz=group.frequency.max_ghz
        )
        for name, group in groups.items()
    }
    curves = [curve_of[member.group.name] for member in members]
    alpha, beta = stack_curves(curves)
    work = [
        cycles(cores * member.steps, cpu_at_max=parse_quantity(member.group.cpu_at_max),
               max_ghz=member.group.frequency.max_ghz) / 1e9
        for member, cores in zip(members, work_cores, strict=True)
    ]  # fmt: skip
    low = [m.fixed_ghz or curve.efficient_ghz for m, curve in zip(members, curves, strict=True)]
    high = [m.fixed_ghz or m.group.frequency.max_ghz for m in members]
    upload = np.maximum(sizes, LEAST_MBIT)
    return Devices(
        work=np.array([work]),
        upload=upload[None],
        min_ghz=np.array([low]),
        max_ghz=np.array([high]),
        kappa=np.array([[curve.kappa for curve in curves]]),
        alpha=alpha[None],
        beta=beta[None],
        idle_watts=np.array([[curve.idle_watts for curve in curves]]),
        transmit_watts=np.array([[curve.transmit_watts for curve in curves]]),
        weight=np.array([[energy_weight]]),
    )
