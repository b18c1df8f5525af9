"""The operator's Prometheus metrics, in a registry that `app` makes and hands in.

Labels are few on purpose: jobs appear by phase only, but for clusters, which nobody else knows;
workers expose their own series.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from lockstep_api import series
from lockstep_api.tiers import ClusterPlan
from lockstep_serving.exporting import Exports


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
        self.cluster_divergence = exports.gauges(series.CLUSTER_DIVERGENCE)
        self.cluster_cost = exports.gauges(series.CLUSTER_COST_SECONDS)
        exports.process(
            series.PROCESS_CPU_SECONDS,
            series.PROCESS_RESIDENT_MEMORY_BYTES,
            series.PROCESS_OPEN_FDS,
        )
        self._clusters: dict[str, set[tuple[str, str, str]]] = {}

    def show_clusters(
        self, uid: str, of: tuple[str, str], *, clusters: Sequence[ClusterPlan]
    ) -> None:
        """The clusters of a job (its namespace and name in `of`) from now on."""
        self.forget_clusters(uid)
        told = self._clusters[uid] = {(*of, one.cluster) for one in clusters}
        for one in clusters:
            labels = (*of, one.cluster)
            if one.divergence is not None:
                self.cluster_divergence.labels(*labels).set(one.divergence)
            if one.cost_seconds is not None:
                self.cluster_cost.labels(*labels).set(one.cost_seconds)
        if not told:
            del self._clusters[uid]

    def forget_clusters(self, uid: str) -> None:
        """A job is gone, or has other clusters."""
        for labels in self._clusters.pop(uid, ()):
            self.cluster_divergence.remove(*labels)
            self.cluster_cost.remove(*labels)

    def count_request(self, verb: str, kind: str) -> None:
        """A request to the Kubernetes API goes out."""
        self.kube_requests.labels(verb, kind).inc()
