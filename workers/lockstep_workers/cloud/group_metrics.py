"""The cloud pod's series of groups of devices, from the reports of finished rounds.

Owned by `cloud.metrics`. `learning.group_rounds` says what a round was for a group. Invariant: a
gauge speaks of the last finished round only: a group without participants has none.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from lockstep_api import series
from lockstep_api.names import group_of_client
from lockstep_api.wire import RoundPlan, RoundReport
from lockstep_serving.exporting import Exports, Values
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
        last = self._last.items()
        self._asked.become(_spread({group: one.asked_ghz for group, one in last}))
        self._applied.become(_spread({group: one.applied_ghz for group, one in last}))
        self._work.become(_spread({group: one.work_core_seconds for group, one in last}))
        self._mbps.become({(group,): one.mbps for group, one in last if one.mbps is not None})

    def _clients(self) -> Values:
        connected = Counter(map(group_of_client, tuple(self._connected)))
        told: dict[tuple[str, ...], float] = {}
        for group in {*self._groups, *connected}:
            told[group, "connected"] = connected[group]
        for group, one in self._last.items():
            told |= {(group, "updated"): one.updated, (group, "lost"): one.lost}
        return told


def _spread(of: Mapping[str, Spread]) -> dict[tuple[str, ...], float]:
    return {(group, stat): value for group, values in of.items() for stat, value in values.items()}
