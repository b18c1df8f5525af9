"""The catalogue of Prometheus series: all that devices, cloud pods, edges and the operator export.

Both planes build their exporters from it (`lockstep_serving.exporting`); the planner, dashboards,
rules and alerts write their queries with it; docs/metrics.md is made of it
(`lockstep_monitoring.metrics_page`). Invariant: a series is named here and nowhere else, by a
constant that is called as the series without `lockstep_`.
"""

# ruff: noqa: F403 - every constant of these modules is part of this one, and named there
from lockstep_api.series import labels as labels
from lockstep_api.series.base import Kind as Kind
from lockstep_api.series.base import Owner as Owner
from lockstep_api.series.base import Series as Series
from lockstep_api.series.base import Where as Where
from lockstep_api.series.cloud import *
from lockstep_api.series.device import *
from lockstep_api.series.device import PLANNED as PLANNED
from lockstep_api.series.edge import *
from lockstep_api.series.group import *
from lockstep_api.series.operator import *
from lockstep_api.spec import Mode

ALL = tuple(one for one in tuple(globals().values()) if isinstance(one, Series))
"""Every series, by owner."""


_SILENT: dict[Mode | None, frozenset[Where]] = {
    None: frozenset(),
    Mode.FEDERATED: frozenset({Where.EDGES, Where.SPLIT}),
    Mode.HIERARCHICAL: frozenset({Where.SPLIT}),
    Mode.SPLIT: frozenset(),
}
"""Mode of a job → the series that would say nothing of it."""


def of(owner: Owner, *, mode: Mode | None = None, per_device: bool = True) -> tuple[Series, ...]:
    """The series of an owner; those of a job's pod, where its mode is given.

    Without `per_device` those that speak of one device, and that no planner needs, are left out.
    """
    there = (one for one in ALL if one.owner is owner and one.where not in _SILENT[mode])
    return tuple(one for one in there if per_device or one in PLANNED or not _of_a_device(one))


def _of_a_device(one: Series) -> bool:
    return labels.CLIENT in one.labels
