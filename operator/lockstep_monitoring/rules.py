"""Recording rules: what several dashboards and alerts ask, reckoned once.

Names say level, what, and how it was reckoned (`lockstep:what:operations`). Invariant: nothing is
recorded by device, so that rules never double the series of a large job.
"""

from dataclasses import dataclass

from lockstep_api import series
from lockstep_api.series import Series, labels
from lockstep_monitoring.queries import (
    JOB,
    OPERATOR,
    WINDOW,
    grown,
    increase,
    largest,
    quantile,
    rate,
    summed,
)


@dataclass(frozen=True, slots=True)
class Recording:
    """A series that Prometheus makes of others."""

    name: str
    expression: str


OF_JOB = "lockstep-jobs"
OF_OPERATOR = "lockstep-operator"

ROUNDS_PER_HOUR = Recording(
    "lockstep:rounds_per_hour:rate5m",
    f"3600 * {rate(series.ROUND_SECONDS.count, by=JOB)}",
)
ENERGY_WATTS = Recording(
    "lockstep:energy_watts:rate5m",
    rate(series.GROUP_ENERGY_JOULES.queried, by=(*JOB, labels.SOURCE)),
)
UPDATES_REFUSED = Recording(
    "lockstep:updates_refused:increase5m",
    summed(
        f"{grown(series.UPDATES_REFUSED.queried)} or {grown(series.EDGE_UPDATES_REFUSED.queried)}",
        by=(*JOB, labels.REASON),
    ),
)
CLIENTS_LOST = Recording(
    "lockstep:clients_lost:increase5m", increase(series.CLIENTS_LOST.queried, by=JOB)
)

JOBS = Recording("lockstep:jobs:max", largest(series.JOBS.queried, by=(*OPERATOR, labels.PHASE)))
KUBE_REQUESTS = Recording(
    "lockstep:kube_requests:rate5m",
    rate(series.KUBE_REQUESTS.queried, by=(*OPERATOR, labels.VERB, labels.KIND)),
)


def _latency(histogram: Series) -> tuple[Recording, ...]:
    shown = histogram.name.removeprefix("lockstep_")
    return tuple(
        Recording(
            f"lockstep:{shown}:p{share * 100:g}_{WINDOW}", quantile(share, histogram, by=OPERATOR)
        )
        for share in (0.5, 0.99)
    )


RECONCILE_P50, RECONCILE_P99 = _latency(series.RECONCILE_SECONDS)
PLAN_P50, PLAN_P99 = _latency(series.PLAN_SECONDS)
RESIZE_P50, RESIZE_P99 = _latency(series.RESIZE_SECONDS)
TELEMETRY_P50, TELEMETRY_P99 = _latency(series.TELEMETRY_SECONDS)

GROUPS = {
    OF_JOB: (ROUNDS_PER_HOUR, ENERGY_WATTS, UPDATES_REFUSED, CLIENTS_LOST),
    OF_OPERATOR: (
        JOBS, KUBE_REQUESTS,
        RECONCILE_P50, RECONCILE_P99, PLAN_P50, PLAN_P99,
        RESIZE_P50, RESIZE_P99, TELEMETRY_P50, TELEMETRY_P99,
    ),
}  # fmt: skip
"""Name of a group of rules → its recordings."""
