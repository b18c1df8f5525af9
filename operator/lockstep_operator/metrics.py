"""The operator's Prometheus metrics, in a registry that `app` makes and hands in.

Labels are few on purpose: jobs appear by phase, but for what nobody else knows (`job_metrics`);
workers expose their own series.
"""

from prometheus_client import CollectorRegistry

from lockstep_api import series
from lockstep_operator.job_metrics import JobMetrics
from lockstep_serving.exporting import Exports, Values


class Metrics:
    """All metrics of the operator and of its process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Registers them."""
        self.registry = registry
        exports = Exports(registry)
        self.jobs = exports.gauges(series.JOBS)
        self.queue_depth = exports.gauge(series.QUEUE_DEPTH)
        self.reconcile_seconds = exports.histogram(series.RECONCILE_SECONDS)
        self.reconcile_errors = exports.counters(series.RECONCILE_ERRORS)
        self.kube_requests = exports.counters(series.KUBE_REQUESTS)
        self.last_pass_age = exports.gauge(series.LAST_PASS_AGE_SECONDS)
        self.leader = exports.gauge(series.LEADER)
        self.status_writes = exports.counter(series.STATUS_WRITES)
        self.plan_seconds = exports.histogram(series.PLAN_SECONDS)
        self.telemetry_seconds = exports.histogram(series.TELEMETRY_SECONDS)
        self.telemetry_failures = exports.counter(series.TELEMETRY_FAILURES)
        self.resize_seconds = exports.histogram(series.RESIZE_SECONDS)
        self.resize_failures = exports.counters(series.RESIZE_FAILURES)
        self.frequency_mismatches = exports.counter(series.FREQUENCY_MISMATCHES)
        self.policies = exports.counters(series.POLICIES_OFFERED)
        self.certificates = exports.counters(series.CERTIFICATES)
        self._planner_certified: Values = {}
        exports.computed(
            series.PLANNER_CERTIFICATE_EXPIRATION_TIMESTAMP_SECONDS,
            lambda: self._planner_certified,
        )
        self.of_jobs = JobMetrics(exports)
        exports.process(
            series.PROCESS_CPU_SECONDS,
            series.PROCESS_RESIDENT_MEMORY_BYTES,
            series.PROCESS_OPEN_FDS,
        )

    def planner_certified(self, until: float) -> None:
        """The planner serves with a certificate that ends then, in seconds since the epoch."""
        self._planner_certified = {(): until}

    def count_request(self, verb: str, kind: str) -> None:
        """A request to the Kubernetes API goes out."""
        self.kube_requests.labels(verb, kind).inc()
