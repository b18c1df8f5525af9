"""Rounds that were really played, kept so that a policy can learn from them and be judged on them.

The tuple of CN113312169B: what was seen of the bandwidth, the action, the round's time and each
device's energy, and what was seen next. What was seen before one round and before the next says
what every link carried in between, so another action can be played against the same bandwidth.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np

from lockstep_allocator.bandwidth import Trace
from lockstep_allocator.devices import Array, Devices
from lockstep_allocator.fleet import Fleet, Method, run_round
from lockstep_allocator.observation import EDGES_S, LEAST_MBPS, Observation
from lockstep_allocator.records import MAX_ROUNDS, OF_CURVE, Record, file_of, fitting, records_in
from lockstep_allocator.traces import TraceSet

_MOST_MBPS = 1e6
_HISTORY_S = EDGES_S[-1]
_TAIL_ROUNDS = 10
"""After the last round its bandwidth goes on for so many of its lengths."""


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """Rounds of equally many devices: what was seen, and the links that they met."""

    observation: Observation
    """(E, N) before each round."""
    fleet: Fleet
    """The same rounds as environments: each begins at moment 0 of its own."""

    def cost(self, method: Method) -> Array:
        """(E,) time + λ·energy of each round, had `method` chosen its frequencies."""
        start_s = np.zeros((len(self.fleet.which), 1))
        return run_round(self.fleet, start_s, ghz=method(self.observation)).cost


def costs(replays: Sequence[Replay], method: Method) -> Array:
    """The costs of all rounds of some replays, one after another; at least one replay."""
    return np.concatenate([replay.cost(method) for replay in replays])


@dataclass(frozen=True, slots=True)
class Experience:
    """The rounds of a job, oldest first."""

    records: tuple[Record, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def with_round(self, record: Record) -> "Experience":
        """With one more; the oldest go when there are too many."""
        kept = [one for one in self.records if one.round != record.round]
        return Experience(tuple([*kept, record][-MAX_ROUNDS:]))

    def replays(
        self, chosen: Callable[[int], bool] = lambda number: True, *, most: int = sys.maxsize
    ) -> list[Replay]:
        """The rounds of which `chosen(number)` is true; those of equally many devices together, but
        not more than `most` of these: to play them takes some kilobytes each."""
        if not self.records:
            return []
        begin_s = self.records[0].at_s - _HISTORY_S
        clients = sorted({client for record in self.records for client in record.clients})
        traces = TraceSet.of(
            [_link(client, self.records, begin_s=begin_s) for client in clients],
            least_mbps=LEAST_MBPS, most_mbps=_MOST_MBPS,
        )  # fmt: skip
        number = {client: i for i, client in enumerate(clients)}
        by_size: dict[int, list[Record]] = {}
        for record in filter(lambda one: chosen(one.round), self.records):
            by_size.setdefault(len(record.clients), []).append(record)
        parts = (
            records[first : first + step]
            for size, records in by_size.items()
            for step in (max(1, most // size),)
            for first in range(0, len(records), step)
        )
        return [_replay(part, traces, number=number, begin_s=begin_s) for part in parts]

    # -- file ----------------------------------------------------------------------------

    def fitting(self) -> "Experience":
        """As many of the newest rounds as fit into a file; none where a round is too large."""
        count = fitting(self.records)
        return Experience(self.records[len(self.records) - count :])

    def to_bytes(self) -> bytes:
        """A safetensors file with the rounds that fit."""
        return file_of(self.fitting().records)

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Reads a file.

        Raises:
            InvalidExperience: it is none, is damaged, or of another version.
        """
        return cls(tuple(records_in(content)))


# -- links -----------------------------------------------------------------------------------


def _link(client: str, records: Sequence[Record], *, begin_s: float) -> Trace:
    """What the link of a client carried, as far as anybody saw it."""
    pieces: list[tuple[float, float]] = []
    """(begin in seconds from `begin_s`, Mbit/s)."""
    known_s = 0.0
    for record in records:
        if client not in record.clients:
            continue
        here = record.clients.index(client)
        at_s = record.at_s - begin_s
        slots = record.observation.slots_mbps[0, here]
        borders = [known_s, *(max(at_s - edge, known_s) for edge in reversed(EDGES_S))]
        values = [slots[-1], *reversed(slots)]  # what is older than all slots was like the oldest
        for (start, stop), mbps in zip(pairwise(borders), values, strict=True):
            if stop > start:
                pieces.append((start, float(mbps)))
        known_s = max(known_s, at_s)
    # Nobody looked after its last round: what its upload met stands for that.
    pieces.append((known_s, _met_mbps(records, client)))
    last = records[-1]
    end_s = max(last.at_s - begin_s, known_s) + max(_TAIL_ROUNDS * last.seconds, 1.0)
    starts, mbps = np.array(pieces).T
    return Trace.of(starts, mbps, duration_s=end_s)


def _met_mbps(records: Sequence[Record], client: str) -> float:
    """Bandwidth that the last upload of a client met."""
    last = next(one for one in reversed(records) if client in one.clients)
    here = last.clients.index(client)
    return float(last.observation.devices.upload[0, here] / max(float(last.upload_s[here]), 1e-6))


def _replay(
    records: Sequence[Record], traces: TraceSet, *, number: Mapping[str, int], begin_s: float
) -> Replay:
    seen = _stacked([record.observation for record in records])
    which = np.array([[number[client] for client in record.clients] for record in records])
    offset_s = np.array([[record.at_s - begin_s] for record in records])
    offset_s = np.broadcast_to(offset_s, which.shape)
    return Replay(
        seen, Fleet(seen.devices, traces, which=which.astype(np.int64), offset_s=offset_s)
    )


def _stacked(seen: Sequence[Observation]) -> Observation:
    """Observations of equally many devices, one after another."""
    lines = max(one.devices.alpha.shape[-1] for one in seen)
    devices = [one.devices for one in seen]
    columns = ("work", "upload", "min_ghz", "max_ghz", *OF_CURVE, "weight")
    joined = {name: np.concatenate([getattr(d, name) for d in devices]) for name in columns}
    alpha = np.concatenate([_padded(d.alpha, lines, with_value=-np.inf) for d in devices])
    beta = np.concatenate([_padded(d.beta, lines, with_value=0.0) for d in devices])
    return Observation(
        devices=Devices(**joined, alpha=alpha, beta=beta),
        **{
            name: np.concatenate([getattr(one, name) for one in seen])
            for name in ("slots_mbps", "last_mbps", "mean_mbps")
        },
    )


def _padded(lines: Array, count: int, *, with_value: float) -> Array:
    missing = count - lines.shape[-1]
    padded = np.pad(lines, ((0, 0), (0, 0), (0, missing)), constant_values=with_value)
    if missing == count and with_value != 0:
        padded[..., :1] = 0.0  # no line at all is a line at 0
    return padded
