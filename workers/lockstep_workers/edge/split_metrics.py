"""What an edge tells Prometheus of the steps of its clusters; docs/metrics.md lists it."""

from prometheus_client import CollectorRegistry

from lockstep_api import series
from lockstep_serving.exporting import Exports


class SplitMetrics:
    """Series of one edge, with the labels `job` and `edge`."""

    def __init__(self, registry: CollectorRegistry, *, job: str, edge: str) -> None:
        """Registers the series."""
        exports = Exports(registry, job, edge)
        self._steps = exports.histogram(series.EDGE_STEP_SECONDS)
        self._back = exports.counter(series.EDGE_BACK_SECONDS)
        self._waiting = exports.counter(series.EDGE_WAITING_SECONDS)
        self._samples = exports.counter(series.EDGE_SAMPLES)
        self._missed = exports.counter(series.EDGE_MISSED_STEPS)

    def stepped(self, seconds: float, *, samples: int, missed: int) -> None:
        """A step of a cluster is done."""
        self._steps.observe(seconds)
        self._samples.inc(samples)
        self._missed.inc(missed)

    def backed(self, seconds: float) -> None:
        """A back half has had its step."""
        self._back.inc(seconds)

    def waited(self, seconds: float) -> None:
        """A cluster has waited for its devices."""
        self._waiting.inc(seconds)
