"""What an edge tells Prometheus of the steps of its clusters; docs/metrics.md lists it."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from lockstep_api import series

_LABELS = [series.JOB, "edge"]
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class SplitMetrics:
    """Series of one edge, with the labels `job` and `edge`."""

    def __init__(self, registry: CollectorRegistry, *, job: str, edge: str) -> None:
        """Registers the series."""
        self._registry, self._values = registry, (job, edge)
        self._steps = Histogram(
            "lockstep_edge_step_seconds", "Seconds of a step of split training", _LABELS,
            registry=registry, buckets=_SECONDS,
        ).labels(job, edge)  # fmt: skip
        self._back = self._counter(
            "lockstep_edge_back_seconds", "Seconds of the model's back half in steps"
        )
        self._waiting = self._counter(
            "lockstep_edge_waiting_seconds", "Seconds of waiting for frames of devices"
        )
        self._samples = self._counter(
            "lockstep_edge_samples", "Examples that went through the model's back half"
        )
        self._missed = self._counter(
            "lockstep_edge_missed_steps", "Steps of devices that went on without them"
        )

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, _LABELS, registry=self._registry).labels(*self._values)

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
