"""Recording rules: what several dashboards and alerts ask, reckoned once.

Names say level, what, and how it was reckoned (`lockstep:what:operations`). Invariant: nothing is
recorded by device, so that rules never double the series of a large job.
"""

from dataclasses import dataclass

from lockstep_monitoring.queries import JOB, WINDOW, increase, largest, mean, quantile, rate, summed


@dataclass(frozen=True, slots=True)
class Recording:
    """A series that Prometheus makes of others."""

    name: str
    expression: str


OF_JOB = "lockstep-jobs"
OF_OPERATOR = "lockstep-operator"
_OPERATOR = ("namespace",)

ROUNDS_PER_HOUR = Recording(
    "lockstep:rounds_per_hour:rate5m",
    f"3600 * {rate('lockstep_round_seconds_count', by=JOB)}",
)
ROUND_SECONDS_MEAN = Recording(
    "lockstep:round_seconds:mean5m", mean("lockstep_round_seconds", by=JOB)
)
ROUNDS_LEFT = Recording(
    "lockstep:rounds_left:max",
    f"{largest('lockstep_rounds', by=JOB)} - {largest('lockstep_round', by=JOB)}",
)
ENERGY_WATTS = Recording(
    "lockstep:energy_watts:rate5m", rate("lockstep_energy_joules_total", by=(*JOB, "source"))
)
UPDATES_REFUSED = Recording(
    "lockstep:updates_refused:increase5m",
    summed(
        f"increase(lockstep_updates_refused_total[{WINDOW}]) "
        f"or increase(lockstep_edge_updates_refused_total[{WINDOW}])",
        by=(*JOB, "reason"),
    ),
)
CLIENTS_LOST = Recording(
    "lockstep:clients_lost:increase5m", increase("lockstep_clients_lost_total", by=JOB)
)
UPLOAD_BYTES = Recording(
    "lockstep:upload_bytes:rate5m", rate("lockstep_upload_bytes_total", by=JOB)
)
DOWNLOAD_BYTES = Recording(
    "lockstep:download_bytes:rate5m", rate("lockstep_download_bytes_total", by=JOB)
)

JOBS = Recording(
    "lockstep:jobs:max", largest("lockstep_jobs", by=(*_OPERATOR, "phase"))
)  # fmt: skip
KUBE_REQUESTS = Recording(
    "lockstep:kube_requests:rate5m",
    rate("lockstep_kube_requests_total", by=(*_OPERATOR, "verb", "kind")),
)
RECONCILE_ERRORS = Recording(
    "lockstep:reconcile_errors:rate5m",
    rate("lockstep_reconcile_errors_total", by=(*_OPERATOR, "error")),
)


def _latency(histogram: str, *, shown: str) -> tuple[Recording, ...]:
    return tuple(
        Recording(
            f"lockstep:{shown}:p{share * 100:g}_{WINDOW}",
            quantile(share, histogram, by=_OPERATOR),
        )
        for share in (0.5, 0.99)
    )


RECONCILE_P50, RECONCILE_P99 = _latency("lockstep_reconcile_seconds", shown="reconcile_seconds")
PLAN_P50, PLAN_P99 = _latency("lockstep_plan_seconds", shown="plan_seconds")
RESIZE_P50, RESIZE_P99 = _latency("lockstep_resize_seconds", shown="resize_seconds")
TELEMETRY_P50, TELEMETRY_P99 = _latency("lockstep_telemetry_seconds", shown="telemetry_seconds")

GROUPS = {
    OF_JOB: (
        ROUNDS_PER_HOUR, ROUND_SECONDS_MEAN, ROUNDS_LEFT, ENERGY_WATTS, UPDATES_REFUSED,
        CLIENTS_LOST, UPLOAD_BYTES, DOWNLOAD_BYTES,
    ),
    OF_OPERATOR: (
        JOBS, KUBE_REQUESTS, RECONCILE_ERRORS,
        RECONCILE_P50, RECONCILE_P99, PLAN_P50, PLAN_P99,
        RESIZE_P50, RESIZE_P99, TELEMETRY_P50, TELEMETRY_P99,
    ),
}  # fmt: skip
"""Name of a group of rules → its recordings."""
