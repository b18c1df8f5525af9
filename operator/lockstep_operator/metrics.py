"""The operator's Prometheus metrics, in a registry that `app` makes and hands in.

Labels are few on purpose: jobs appear by phase only, but for clusters, which nobody else knows;
workers expose their own series.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lockstep_api.tiers import ClusterPlan

_FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """All metrics of the operator."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.reconcile_seconds = Histogram(
            "lockstep_reconcile_seconds",
            "Duration of one pass over a job in seconds.",
            registry=registry,
            buckets=_FAST,
        )
        self.reconcile_errors = Counter(
            "lockstep_reconcile_errors",
            "Failed passes and failed writes of a pass by error.",
            ["error"],
            registry=registry,
        )
        self.kube_requests = Counter(
            "lockstep_kube_requests",
            "Requests to the Kubernetes API by verb and kind; a watch counts once.",
            ["verb", "kind"],
            registry=registry,
        )
        self.queue_depth = Gauge(
            "lockstep_queue_depth", "Jobs that wait for their pass.", registry=registry
        )
        self.jobs = Gauge("lockstep_jobs", "Jobs by phase.", ["phase"], registry=registry)
        self.plan_seconds = Histogram(
            "lockstep_plan_seconds",
            "Duration of a plan request in seconds, limits applied.",
            registry=registry,
            buckets=_FAST,
        )
        self.telemetry_seconds = Histogram(
            "lockstep_telemetry_seconds",
            "Duration of reading a job's telemetry from Prometheus, in seconds.",
            registry=registry,
            buckets=_FAST,
        )
        self.telemetry_failures = Counter(
            "lockstep_telemetry_failures",
            "Rounds planned without an answer of Prometheus.",
            registry=registry,
        )
        self.resize_seconds = Histogram(
            "lockstep_resize_seconds",
            "Seconds from the patch of a CPU limit to its being in force.",
            registry=registry,
            buckets=_FAST,
        )
        self.resize_failures = Counter(
            "lockstep_resize_failures",
            "CPU limits that were not applied in time, by reason.",
            ["reason"],
            registry=registry,
        )
        self.frequency_mismatches = Counter(
            "lockstep_frequency_mismatches",
            "Clients that reported another frequency than planned.",
            registry=registry,
        )
        self.policies = Counter(
            "lockstep_policies_offered",
            "Policies that trainers offered, by what was used afterwards (offered, kept, begun).",
            ["verdict"],
            registry=registry,
        )
        of_a_cluster = ["namespace", "job", "cluster"]
        self.cluster_divergence = Gauge(
            "lockstep_cluster_divergence",
            "KL of a cluster's labels from those of the whole round, in nats.",
            of_a_cluster,
            registry=registry,
        )
        self.cluster_cost = Gauge(
            "lockstep_cluster_cost_seconds",
            "What a cluster's part of a round is expected to take on its edge, in seconds.",
            of_a_cluster,
            registry=registry,
        )
        self._clusters: dict[str, set[tuple[str, str, str]]] = {}
        self.leader = Gauge(
            "lockstep_leader", "1 while this operator leads, 0 while another does.",
            registry=registry,
        )  # fmt: skip
        self.status_writes = Counter(
            "lockstep_status_writes", "Status updates written.", registry=registry
        )
        self.last_pass_age = Gauge(
            "lockstep_last_pass_age_seconds",
            "Seconds since the last finished pass over any job.",
            registry=registry,
        )

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
