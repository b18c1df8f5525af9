"""The cloud pod's series of groups of devices, from the reports of finished rounds.

Owned by `cloud.metrics`. `learning.group_rounds` says what a round was for a group. Invariant: a
gauge speaks of the last finished round only: a group without participants has none.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from prometheus_client import Gauge

from lockstep_api import series
from lockstep_api.names import group_of_client
from lockstep_api.wire import RoundPlan, RoundReport
from lockstep_serving.exporting import Exports, Labelled, Values
from lockstep_workers.learning.group_rounds import GroupRound, Part, Spread, by_group

_SOURCES = series.GROUP_ENERGY_JOULES.values


class GroupMetrics:
    """The series of all groups of a job."""

    def __init__(self, exports: Exports, groups: Iterable[str]) -> None:
        """Counters of `groups` are there from the start."""
        self._asked = exports.gauges(series.GROUP_FREQUENCY_ASKED_GHZ)
        self._applied = exports.gauges(series.GROUP_FREQUENCY_APPLIED_GHZ)
        self._work = exports.gauges(series.GROUP_WORK_CORE_SECONDS)
        self._mbps = exports.gauges(series.GROUP_BANDWIDTH_MBITS_PER_SECOND)
        self._seconds = exports.counters(series.GROUP_SECONDS)
        self._energy = exports.counters(series.GROUP_ENERGY_JOULES)
        exports.computed(series.GROUP_CLIENTS, self._clients)
        self._groups = tuple(groups)
        self._connected: Collection[str] = ()
        self._last: Mapping[str, GroupRound] = {}
        for group in self._groups:
            for part in Part:
                self._seconds.labels(group, part)
            for source in _SOURCES:
                self._energy.labels(group, source)

    def sessions(self, clients: Collection[str]) -> None:
        """These clients have a session, from now on, as this collection changes."""
        self._connected = clients

    def ended(self, report: RoundReport, plan: RoundPlan) -> None:
        """A round has ended."""
        self.show(report, plan)
        for group, one in self._last.items():
            for part, seconds in one.seconds.items():
                self._seconds.labels(group, part).inc(seconds)
            for source in _SOURCES:
                self._energy.labels(group, source).inc(getattr(one.joules, source) or 0.0)

    def show(self, report: RoundReport, plan: RoundPlan) -> None:
        """The last finished round is this one; its time and energy were counted before."""
        self._last = by_group(report, plan)
        for gauge in (self._asked, self._applied, self._work, self._mbps):
            gauge.clear()
        for group, one in self._last.items():
            _spread(self._asked, group, values=one.asked_ghz)
            _spread(self._applied, group, values=one.applied_ghz)
            _spread(self._work, group, values=one.work_core_seconds)
            if one.mbps is not None:
                self._mbps.labels(group).set(one.mbps)

    def _clients(self) -> Values:
        connected = Counter(map(group_of_client, tuple(self._connected)))
        told: dict[tuple[str, ...], float] = {}
        for group in {*self._groups, *connected}:
            told[group, "connected"] = connected[group]
        for group, one in self._last.items():
            told |= {(group, "updated"): one.updated, (group, "lost"): one.lost}
        return told


def _spread(gauge: Labelled[Gauge], group: str, *, values: Spread) -> None:
    for stat, value in values.items():
        gauge.labels(group, stat).set(value)
