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
from lockstep_api.series.edge import *
from lockstep_api.series.operator import *

ALL = tuple(one for one in tuple(globals().values()) if isinstance(one, Series))
"""Every series, by owner."""


def of(owner: Owner) -> tuple[Series, ...]:
    """All series of an owner."""
    return tuple(one for one in ALL if one.owner is owner)
