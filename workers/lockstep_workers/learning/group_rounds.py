"""What a finished round was for each group of devices: figures of its report. Pure.

The cloud pod exports them (`cloud.group_metrics`), in every mode: reports of edges' members are in
the round's report too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, median
from typing import TypeVar

from lockstep_api.names import group_of_client
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import ClientReport, RoundPlan, RoundReport

T = TypeVar("T")


class Stat(StrEnum):
    """Over the devices of a group."""

    MEAN = "mean"
    MIN = "min"
    MAX = "max"


class Part(StrEnum):
    """Of the time that a round takes a device."""

    DOWNLOAD = "download"
    COMPUTE = "compute"
    UPLOAD = "upload"
    WAIT = "wait"
    """All else, until the round's end."""
    THROTTLED = "throttled"
    """Within `compute`: held back by its quota."""


Spread = Mapping[Stat, float]
"""Of some devices' figures; empty: there are none."""


@dataclass(frozen=True, slots=True)
class GroupRound:
    """A round of one group."""

    asked_ghz: Spread
    applied_ghz: Spread
    work_core_seconds: Spread
    seconds: Mapping[Part, float]
    """Device-seconds of those whose update was in."""
    mbps: float | None
    """Bits over seconds of its uploads; None: there were none that took time."""
    joules: EnergyJoules
    updated: int
    lost: int


def by_group(report: RoundReport, plan: RoundPlan) -> dict[str, GroupRound]:
    """The round of each group that had participants."""
    updates = _grouped((one.update.client, one) for one in report.clients)
    lost = _grouped((client, client) for client in report.lost)
    asked = _grouped((one.client, one.frequency_ghz) for one in plan.participants)
    return {
        group: _group_round(
            updates.get(group, []),
            asked=asked.get(group, []),
            lost=len(lost.get(group, [])),
            round_s=report.seconds,
        )
        for group in sorted(asked.keys() | updates.keys() | lost.keys())
    }


def straggler_seconds(report: RoundReport) -> float:
    """From the median update to the round's end; 0 without updates."""
    if not report.clients:
        return 0.0
    middle = median(one.arrived_seconds for one in report.clients)
    return max(0.0, report.seconds - middle)


def _grouped(of_clients: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = {}
    for client, item in of_clients:
        found.setdefault(group_of_client(client), []).append(item)
    return found


def _group_round(
    updates: Sequence[ClientReport], *, asked: Sequence[float], lost: int, round_s: float
) -> GroupRound:
    joules = EnergyJoules()
    for one in updates:
        joules = joules.plus(one.update.energy_joules)
    seconds = [_seconds(one, round_s) for one in updates]
    upload_s = sum(one.upload_seconds for one in updates)
    mbit = sum(one.bytes for one in updates) * 8e-6
    return GroupRound(
        asked_ghz=_spread(asked),
        applied_ghz=_spread([one.update.frequency_ghz for one in updates]),
        work_core_seconds=_spread([one.update.cpu_seconds for one in updates]),
        seconds={part: sum(one[part] for one in seconds) for part in Part} if seconds else {},
        mbps=mbit / upload_s if upload_s > 0 else None,
        joules=joules,
        updated=len(updates),
        lost=lost,
    )


def _seconds(one: ClientReport, round_s: float) -> dict[Part, float]:
    update = one.update
    busy_s = update.download_seconds + update.compute_seconds + one.upload_seconds
    return {
        Part.DOWNLOAD: update.download_seconds,
        Part.COMPUTE: update.compute_seconds,
        Part.UPLOAD: one.upload_seconds,
        Part.WAIT: max(0.0, round_s - busy_s),
        Part.THROTTLED: update.throttled_seconds,
    }


def _spread(values: Sequence[float]) -> Spread:
    if not values:
        return {}
    return {Stat.MEAN: fmean(values), Stat.MIN: min(values), Stat.MAX: max(values)}
