"""An emulated link: paces what a device sends and receives, and adds a delay.

Used by `connection`; whoever plays devices in one process asks `Link.end_s`. A token bucket whose
tokens are the integral of the bandwidth since the transfer began, so that a sleep that took too
long (a CPU quota parks the process for up to 100 ms) is made up for at the next piece, and nothing
adds up.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lockstep_allocator.bandwidth import InvalidTrace, Trace, draw_link, parse_trace, text_of
from lockstep_api import names
from lockstep_api.settings import JobSettings, LinkSettings
from lockstep_workers.errors import InvalidJob

TICK_S = 0.025
"""Between two pieces: few enough that pacing costs no CPU to speak of."""
_LEAST = 1024
"""Bytes of a piece, at the least; a link that stands still is waited for until it carries them."""


@dataclass(slots=True)
class Transfer:
    """One transfer over a link: how much may have gone by now. Pure but for the clock."""

    trace: Trace
    start_s: float
    """Where in the trace it began."""
    began_s: float
    """On the clock, with the link's delay."""
    size: int
    done: int = 0

    def allowed(self, now_s: float) -> int:
        """Bytes that may go now; 0: wait first."""
        passed_s = now_s - self.began_s
        if passed_s < 0:
            return 0
        carried = self.trace.bits_until(self.start_s + passed_s) - self._before()
        # Rounding must not hold back the last byte of what `when` says has arrived.
        due = min(self.size, int(carried / 8 + 1e-3)) - self.done
        return due if due >= min(_LEAST, self.size - self.done) else 0

    def next_s(self, now_s: float) -> float:
        """When to look again, on the clock."""
        least = min(self.size, self.done + _LEAST)
        ready_s = self.began_s + self.trace.when(self._before() + 8 * least) - self.start_s
        return max(ready_s, min(now_s + TICK_S, self.end_s()))

    def end_s(self) -> float:
        """When all of it has gone, on the clock."""
        return self.began_s + self.trace.when(self._before() + 8 * self.size) - self.start_s

    def _before(self) -> float:
        return self.trace.bits_until(self.start_s)


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of a device's connection; without a trace it is as fast as it is."""

    trace: Trace | None = None
    offset_s: float = 0.0
    """Where the trace stands when the job begins."""
    origin_s: float = 0.0
    """When that was, on the wall clock: the trace goes on when a pod starts anew."""
    delay_s: float = 0.0
    clock: Callable[[], float] = field(default=time.monotonic)
    wall_clock: Callable[[], float] = field(default=time.time)
    sleep: Callable[[float], None] = field(default=time.sleep)

    def carry(self, size: int, move: Callable[[int, int], int]) -> None:
        """Moves `size` bytes at the link's pace; `move(start, n)` moves at most n, and tells."""
        now_s = self.clock()
        if self.trace is None:
            self._wait(self.delay_s)
            done = 0
            while done < size:
                done += move(done, size - done)
            return
        transfer = Transfer(self.trace, self.position_s(), now_s + self.delay_s, size)
        while transfer.done < size:
            if (allowed := transfer.allowed(self.clock())) > 0:
                transfer.done += move(transfer.done, allowed)
            if transfer.done < size:
                now_s = self.clock()
                self._wait(transfer.next_s(now_s) - now_s)

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self.sleep(seconds)

    def position_s(self) -> float:
        """Where the trace stands now, in seconds from its start."""
        assert self.trace is not None
        return self._position_s(self.trace, self.wall_clock())

    def _position_s(self, trace: Trace, at_s: float) -> float:
        return (at_s - self.origin_s + self.offset_s) % trace.duration_s

    def end_s(self, size: int, at_s: float) -> float:
        """When a transfer that begins at a moment of the wall clock has arrived, on that clock."""
        if self.trace is None:
            return at_s + self.delay_s
        position_s = self._position_s(self.trace, at_s)
        return Transfer(self.trace, position_s, at_s + self.delay_s, size).end_s()

    def carried_mbit(self, since_s: float, until_s: float | None = None) -> float:
        """Mbit that it could have carried between two moments on the wall clock (until now).

        NaN without a trace.
        """
        if self.trace is None:
            return float("nan")
        begin_s = self._position_s(self.trace, since_s)
        passed_s = max(0.0, (self.wall_clock() if until_s is None else until_s) - since_s)
        bits = self.trace.bits_until(begin_s + passed_s) - self.trace.bits_until(begin_s)
        return bits / 1e6

    def mean_mbps(self, window_s: float = 10.0) -> float:
        """Mean bandwidth of the last `window_s` seconds, in Mbit/s; NaN without a trace."""
        if self.trace is None:
            return float("nan")
        loops = 1 + window_s // self.trace.duration_s
        return self.trace.mean_mbps(self.position_s() + loops * self.trace.duration_s, window_s)


UNLIMITED = Link()


@dataclass(frozen=True, slots=True)
class Links:
    """Both directions of a device's connection."""

    up: Link = UNLIMITED
    down: Link = UNLIMITED


def build_links(job: JobSettings, client: str, *, folder: Path) -> Links:
    """The links of one device; errors as `build_link`."""
    group, number = job.group_of(client), job.clients().index(client)

    def one(settings: LinkSettings | None) -> Link:
        seed, origin_s = job.training.seed, job.created_at
        return build_link(settings, folder, seed=seed, client=number, origin_s=origin_s)

    return Links(one(group.uplink), one(group.downlink))


def build_link(
    settings: LinkSettings | None, folder: Path, *, seed: int, client: int, origin_s: float
) -> Link:
    """The link of one device, whose traces lie in a folder; errors as `link_of`."""
    name = None if settings is None else settings.trace
    files = [] if name is None else _files(folder / name)
    return link_of(settings, files, seed=seed, client=client, origin_s=origin_s)


File = tuple[str, Callable[[], bytes]]
"""A file's name, and how to read it."""


def link_of(
    settings: LinkSettings | None,
    files: Sequence[File],
    *,
    seed: int,
    client: int,
    origin_s: float,
) -> Link:
    """The link of one device, from the files of its ConfigMap, by name.

    Which of them it takes, and where in it it stands at `origin_s`, is drawn.

    Raises:
        InvalidJob: the trace is missing or none.
    """
    if settings is None:
        return Link()
    if settings.trace is None:
        trace = None if settings.mbps is None else Trace.constant(settings.mbps)
        return Link(trace, delay_s=settings.latency_s)
    if not files:
        raise InvalidJob(_no_trace(settings.trace))
    drawn = draw_link(seed=seed, client=client, n_traces=len(files))
    name, read = files[drawn.trace]
    try:
        source = f"ConfigMap {settings.trace}, key {name}"
        trace = parse_trace(text_of(read(), source), source=source)
    except (InvalidTrace, OSError) as error:
        raise InvalidJob(f"bandwidth trace: {error}") from error
    return Link(trace, drawn.offset_s(trace), origin_s, settings.latency_s)


def _files(folder: Path) -> list[File]:
    found = sorted(folder.glob("*.csv")) if folder.is_dir() else []
    return [(file.name, file.read_bytes) for file in found]


def _no_trace(name: str) -> str:
    return (
        f"bandwidth trace: ConfigMap {name} is not there, or has no key that ends in .csv: "
        f"kubectl create configmap {name} --from-file=trace.csv; "
        f"kubectl label configmap {name} {names.TRACES_LABEL}=true"
    )
