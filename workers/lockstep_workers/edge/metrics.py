"""An edge's Prometheus metrics; docs/metrics.md lists them."""

from collections.abc import Collection

from prometheus_client import CollectorRegistry

from lockstep_api import series
from lockstep_api.orders import ClusterOrder, ClusterResult
from lockstep_api.series import Series
from lockstep_api.sessions import Refusal
from lockstep_serving.exporting import Exports, Values


class EdgeMetrics:
    """All series of one edge, with the labels `job` and `edge`."""

    def __init__(self, job: str, edge: str, *, told: Collection[Series] = series.ALL) -> None:
        """Registers the series in a registry of their own, but for those that are not `told`."""
        self.registry = CollectorRegistry()
        exports = Exports(self.registry, job, edge, told=told)
        self._round = exports.gauge(series.EDGE_ROUND)
        self._connected = exports.gauge(series.EDGE_CLIENTS_CONNECTED)
        self._running = exports.gauge(series.EDGE_CLUSTERS)
        self._last = exports.gauge(series.EDGE_CLUSTER_SECONDS)
        self._orders = exports.counter(series.EDGE_ORDERS)
        self._seconds = exports.counter(series.EDGE_BUSY_SECONDS)
        self._taken = exports.counter(series.EDGE_UPDATES_ACCEPTED)
        self._refused = exports.counters(series.EDGE_UPDATES_REFUSED)
        self._up = exports.counter(series.EDGE_RECEIVED_BYTES)
        self._down = exports.counter(series.EDGE_SENT_BYTES)
        self._back = exports.counter(series.EDGE_BACK_CPU_SECONDS)
        self._certified: Values = {}
        exports.computed(
            series.EDGE_CERTIFICATE_EXPIRATION_TIMESTAMP_SECONDS, lambda: self._certified
        )

    def certified(self, until: float) -> None:
        """It serves with a certificate that ends then, in seconds since the epoch."""
        self._certified = {(): until}

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

    def sessions(self, clients: Collection[str]) -> None:
        """These devices have an open session."""
        self._connected.set(len(clients))

    def session_ended(self) -> None:
        """A device came or went: that is counted at the cloud pod."""

    def took(self) -> None:
        """An update was added."""
        self._taken.inc()

    def refused(self, reason: Refusal) -> None:
        """An update was refused."""
        self._refused.labels(reason).inc()

    def client_failed(self) -> None:
        """The user's code failed on a client: that is counted at the cloud pod."""
