"""What Prometheus would say of virtual devices before a round: links, work, uploads. Pure.

`planning` asks before every plan. It is scraped without a gap, and never down.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from lockstep_allocator.observation import EDGES_S
from lockstep_operator.core.insight import (
    ClientInsight,
    Insight,
    Samples,
    slots_from_counter,
    slots_from_gauge,
)
from lockstep_simulator.emulation import VirtualDevice

_MEMORY_S = 300.0
"""Work per step is a mean over so long."""
_MBIT = 8e-6


@dataclass(slots=True)
class _Seen:
    """What the series of one device have counted."""

    work: deque[tuple[float, float, int]] = field(default_factory=deque)
    """(moment, core-seconds, steps) of its trainings."""
    uploads: deque[tuple[float, float]] = field(default_factory=deque)
    """(moment, Mbit/s) of its uploads."""
    upload_bytes: int = 0
    upload_s: float = 0.0


@dataclass(slots=True)
class Telemetry:
    """The series of a job's devices."""

    devices: Mapping[str, VirtualDevice]
    up_since_s: float
    """When the devices came up, in seconds since round 1 began."""
    _seen: dict[str, _Seen] = field(default_factory=dict)

    def trained(self, client: str, *, at_s: float, cpu_s: float, steps: int) -> None:
        """A device has trained."""
        seen = self._seen.setdefault(client, _Seen())
        seen.work.append((at_s, cpu_s, steps))

    def uploaded(self, client: str, *, at_s: float, seconds: float, n_bytes: int) -> None:
        """An update was sent."""
        seen = self._seen.setdefault(client, _Seen())
        seen.upload_bytes += n_bytes
        seen.upload_s += seconds
        seen.uploads.append((at_s, n_bytes * _MBIT / max(seconds, 1e-9)))

    def insight(self, now_s: float) -> Insight:
        """What is known of the devices."""
        return Insight({client: self._of(client, now_s) for client in self.devices})

    def _of(self, client: str, now_s: float) -> ClientInsight:
        seen = self._seen.get(client, _Seen())
        while seen.work and seen.work[0][0] < now_s - _MEMORY_S:
            seen.work.popleft()
        steps = sum(n for at_s, _, n in seen.work if at_s <= now_s)
        cpu_s = sum(s for at_s, s, _ in seen.work if at_s <= now_s)
        mbps = seen.upload_bytes * _MBIT / seen.upload_s if seen.upload_s > 0 else None
        return ClientInsight(
            slots_mbps=self._slots(client, seen, now_s=now_s),
            mean_mbps=mbps,
            work_per_step=cpu_s / steps if cpu_s > 0 else None,
        )

    def _slots(self, client: str, seen: _Seen, *, now_s: float) -> tuple[float, ...] | None:
        device = self.devices[client]
        times = [now_s - edge for edge in reversed(EDGES_S) if now_s - edge > self.up_since_s]
        times = [self.up_since_s, *times] if EDGES_S[-1] > now_s - self.up_since_s else times
        if device.links.up.trace is None:
            return self._from_gauge(seen, times, now_s=now_s)
        carried = tuple(device.carried_mbit(self.up_since_s, at_s) for at_s in times)
        return slots_from_counter(Samples(tuple(times), carried), now_s)

    def _from_gauge(
        self, seen: _Seen, times: list[float], *, now_s: float
    ) -> tuple[float, ...] | None:
        """A gauge holds what the last upload before each moment had; 0 before the first."""
        while len(seen.uploads) > 1 and seen.uploads[1][0] < times[0]:
            seen.uploads.popleft()
        held = [
            next((mbps for at_s, mbps in reversed(seen.uploads) if at_s <= moment), 0.0)
            for moment in times
        ]
        return slots_from_gauge(Samples(tuple(times), tuple(held)), now_s)
