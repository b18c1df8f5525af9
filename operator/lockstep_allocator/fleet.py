"""The simulator: fleets of devices on looped traces, E environments at once.

A device computes, then uploads along its trace; a round lasts until the last upload is complete,
and the next begins then (CN113312169B: devices upload as soon as they finish).
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace

import numpy as np

from lockstep_allocator.devices import Array, Devices
from lockstep_allocator.observation import EDGES_S, Observation
from lockstep_allocator.traces import Index, TraceSet

Method = Callable[[Observation], Array]
"""Observation → (E, N) frequencies in GHz: a policy or a baseline."""

_EDGES = np.array(EDGES_S)


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """Devices, and the trace that each has from a moment on."""

    devices: Devices
    """What each round asks of them."""
    traces: TraceSet
    """All traces."""
    _: KW_ONLY
    which: Index
    """(E, N) trace of each device."""
    offset_s: Array
    """(E, N) where in its trace moment 0 lies; at least a loop in, so that there is a history."""

    def upload_s(self, start_s: Array, compute_s: Array) -> Array:
        """Upload times of devices that compute from `start_s` on; (E, N) or (E, N, K)."""
        which, offset, size = self.which, self.offset_s + start_s, self.devices.upload
        if compute_s.ndim == 3:
            shape = compute_s.shape
            which = np.broadcast_to(which[..., None], shape)
            offset, size = offset[..., None], size[..., None]
        begin = offset + compute_s
        return self.traces.when(which, self.traces.carried(which, begin) + size) - begin

    def latest_compute_s(self, start_s: Array, finish_s: Array) -> Array:
        """(E, N, G) longest compute times that still let devices finish at `finish_s` (E, 1, G).

        The right-most inverse of the carried bytes; negative where the upload alone takes longer.
        """
        shape = (*self.which.shape, finish_s.shape[-1])
        which = np.broadcast_to(self.which[..., None], shape)
        begin = (self.offset_s + start_s)[..., None]
        done = self.traces.carried(which, begin + finish_s)
        # Before a round there was at least one loop: nothing becomes negative.
        return self.traces.when(which, done - self.devices.upload[..., None]) - begin

    def observe(self, at_s: Array, last_mbps: Array | None = None) -> Observation:
        """What is known at `at_s` (E, 1)."""
        now = (self.offset_s + at_s)[..., None]
        which = np.broadcast_to(self.which[..., None], (*self.which.shape, len(_EDGES)))
        carried = self.traces.carried(which, now - _EDGES)
        slots = (carried[..., :-1] - carried[..., 1:]) / np.diff(_EDGES)
        mean = (self.traces.totals_mbit / self.traces.durations_s)[self.which]
        recent = (carried[..., 0] - carried[..., EDGES_S.index(10)]) / 10
        return Observation(
            devices=self.devices,
            slots_mbps=slots,
            last_mbps=recent if last_mbps is None else last_mbps,
            mean_mbps=mean,
        )

    def met_mbps(self, played: "PlayedRound") -> Array:
        """(E, N) bandwidth that the uploads of a round met."""
        return self.devices.upload / np.maximum(played.upload_s, 1e-9)

    def rows(self, index: Index) -> "Fleet":
        """Some of the environments."""
        return replace(
            self,
            devices=self.devices.rows(index),
            which=self.which[index],
            offset_s=self.offset_s[index],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedRound:
    """How a round went, for E environments."""

    seconds: Array
    """(E,) from its start to the last update."""
    joules: Array
    """(E,) energy of all devices."""
    cost: Array
    """(E,) seconds + λ·joules."""
    compute_s: Array
    """(E, N)."""
    upload_s: Array
    """(E, N)."""


def run_round(fleet: Fleet, start_s: Array, *, ghz: Array) -> PlayedRound:
    """Plays a round from `start_s` (E, 1) at these frequencies (E, N)."""
    compute_s = fleet.devices.work / ghz
    upload_s = fleet.upload_s(start_s, compute_s)
    seconds = (compute_s + upload_s).max(-1)
    joules = fleet.devices.energy(seconds, compute_s, upload_s=upload_s)
    return PlayedRound(
        seconds=seconds,
        joules=joules,
        cost=seconds + fleet.devices.weight[:, 0] * joules,
        compute_s=compute_s,
        upload_s=upload_s,
    )


def run_rounds(
    fleet: Fleet, method: Method, *, rounds: int, tick: Callable[[], None] = lambda: None
) -> list[PlayedRound]:
    """Plays rounds one after the other, each planned by `method` from what was seen before."""
    at_s = np.zeros((len(fleet.which), 1))
    last_mbps: Array | None = None
    played = []
    for _ in range(rounds):
        done = run_round(fleet, at_s, ghz=method(fleet.observe(at_s, last_mbps)))
        last_mbps = fleet.met_mbps(done)
        at_s = at_s + done.seconds[:, None]
        played.append(done)
        tick()
    return played
