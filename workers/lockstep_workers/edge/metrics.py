"""An edge's Prometheus metrics; docs/metrics.md lists them."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from lockstep_api import series
from lockstep_api.orders import ClusterOrder, ClusterResult
from lockstep_api.sessions import Refusal

_LABELS = [series.JOB, "edge"]


class EdgeMetrics:
    """All series of one edge, with the labels `job` and `edge`."""

    def __init__(self, job: str, edge: str) -> None:
        """Registers the series in a registry of their own."""
        self.registry = CollectorRegistry()
        self._labels = (job, edge)
        self._round = self._gauge("lockstep_edge_round", "Round of its newest order")
        self._connected = self._gauge(
            "lockstep_edge_clients_connected", "Clients with an open session at this edge"
        )
        self._running = self._gauge("lockstep_edge_clusters", "Clusters that it runs now")
        self._last = self._gauge(
            "lockstep_edge_cluster_seconds", "Seconds of the last cluster, to its result"
        )
        self._orders = self._counter("lockstep_edge_orders", "Orders received")
        self._seconds = self._counter("lockstep_edge_busy_seconds", "Seconds of clusters")
        self._taken = self._counter("lockstep_edge_updates_accepted", "Updates added")
        self._up = self._counter("lockstep_edge_received_bytes", "Bytes received from devices")
        self._down = self._counter("lockstep_edge_sent_bytes", "Bytes sent to devices")
        self._back = self._counter(
            "lockstep_edge_back_cpu_seconds", "Core-seconds of the model's back half"
        )
        self._refused = Counter(
            "lockstep_edge_updates_refused", "Updates refused", [*_LABELS, "reason"],
            registry=self.registry,
        )  # fmt: skip

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, _LABELS, registry=self.registry).labels(*self._labels)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, _LABELS, registry=self.registry).labels(*self._labels)

    def ordered(self, order: ClusterOrder) -> None:
        """An order has come."""
        self._orders.inc()
        self._round.set(order.round)

    def running(self, clusters: int) -> None:
        """So many clusters are run now."""
        self._running.set(clusters)

    def ran(self, result: ClusterResult, seconds: float) -> None:
        """A cluster's part of a round is done."""
        self._last.set(seconds)
        self._seconds.inc(seconds)
        self._up.inc(result.report.up_bytes)
        self._down.inc(result.report.down_bytes)
        self._back.inc(result.report.back_cpu_seconds)

    def sessions(self, count: int) -> None:
        """So many sessions of devices are open."""
        self._connected.set(count)

    def took(self) -> None:
        """An update was added."""
        self._taken.inc()

    def refused(self, reason: Refusal) -> None:
        """An update was refused."""
        self._refused.labels(*self._labels, reason.value).inc()

    def client_failed(self) -> None:
        """The user's code failed on a client: that is counted at the cloud pod."""
