"""Prometheus metrics built from the catalogue, and the page that `/metrics` answers with.

The metrics of all roles and of the operator are built here. Invariant: a page has series of the
catalogue and nothing else: nothing of Python or the process that nobody chose, and not when each
counter was made, which would be a third of a pod's series.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from lockstep_api.series import ALL, Kind, Series

disable_created_metrics()  # type: ignore[no-untyped-call]

CONTENT_TYPE = CONTENT_TYPE_LATEST
M = TypeVar("M", bound=MetricWrapperBase)
Values = Mapping[tuple[str, ...], float]
"""Values of the labels that the pod's series have not in common → the sample."""
_CLASSES = {Kind.GAUGE: Gauge, Kind.COUNTER: Counter, Kind.HISTOGRAM: Histogram}


def page(registry: CollectorRegistry) -> bytes:
    """All metrics in the text format."""
    return generate_latest(registry)


class Labelled(Generic[M]):
    """A series with labels beside those that all series of the pod have in common."""

    def __init__(self, metric: M, common: tuple[str, ...]) -> None:
        """`common` are the values of the first labels."""
        self._metric, self._common = metric, common

    def labels(self, *values: str) -> M:
        """The one with these values, made when it is asked for."""
        return self._metric.labels(*self._common, *values)

    def remove(self, *values: str) -> None:
        """It is told no more."""
        self._metric.remove(*self._common, *values)


class Gauges(Labelled[Gauge]):
    """A gauge with labels of its own."""

    def __init__(self, metric: Gauge, common: tuple[str, ...]) -> None:
        """As `Labelled`."""
        super().__init__(metric, common)
        self._told: frozenset[tuple[str, ...]] = frozenset()

    def become(self, values: Mapping[tuple[str, ...], float]) -> None:
        """These, and none of those before; what stays is never away: somebody may be reading."""
        for labels, value in values.items():
            self.labels(*labels).set(value)
        for labels in self._told - values.keys():
            self.remove(*labels)
        self._told = frozenset(values)


class Exports:
    """Builds the series of one pod into a registry."""

    def __init__(
        self, registry: CollectorRegistry, *common: str, told: Collection[Series] = ALL
    ) -> None:
        """`common` are the values of the labels that all series of the pod have, in their order.

        A series that is not `told` counts as the others do, and is on no page.
        """
        self.registry = registry
        self._common, self._told = common, told

    def gauge(self, of: Series) -> Gauge:
        """A gauge."""
        return self._one(self._made(Gauge, of))

    def counter(self, of: Series) -> Counter:
        """A counter."""
        return self._one(self._made(Counter, of))

    def histogram(self, of: Series) -> Histogram:
        """A histogram."""
        return self._one(self._made(Histogram, of))

    def gauges(self, of: Series) -> Gauges:
        """A gauge with labels of its own."""
        return Gauges(self._made(Gauge, of), self._common)

    def counters(self, of: Series) -> Labelled[Counter]:
        """A counter with labels of its own; what one alone can say is there from the start."""
        made = Labelled(self._made(Counter, of), self._common)
        if len(of.labels) == len(self._common) + 1:
            for value in of.values:
                made.labels(value)
        return made

    def computed(self, of: Series, read: Callable[[], Values]) -> None:
        """A gauge or a counter that is computed when somebody asks."""
        if of in self._told:
            self.registry.register(_Computed(of, self._common, read=read))

    def process(self, *chosen: Series) -> None:
        """What the client library can say of this process: of all that, these."""
        self.registry.register(_Process(frozenset(one.name for one in chosen)))

    def _one(self, metric: M) -> M:
        return metric.labels(*self._common) if self._common else metric

    def _made(self, made: type[M], of: Series) -> M:
        if made is not _CLASSES[of.kind]:
            raise ValueError(f"{of.name} is a {of.kind}")
        options: dict[str, Any] = {"buckets": of.buckets} if of.buckets else {}
        registry = self.registry if of in self._told else None
        return made(of.name, of.text, of.labels, registry=registry, **options)


class _Computed(Collector):
    def __init__(self, of: Series, common: tuple[str, ...], *, read: Callable[[], Values]) -> None:
        self._of, self._common, self._read = of, common, read

    def collect(self) -> Iterator[Metric]:
        made = CounterMetricFamily if self._of.kind is Kind.COUNTER else GaugeMetricFamily
        family = made(self._of.name, self._of.text, labels=self._of.labels)
        for values, sample in self._read().items():
            family.add_metric((*self._common, *values), sample)
        yield family


class _Process(Collector):
    def __init__(self, chosen: frozenset[str]) -> None:
        self._chosen, self._all = chosen, ProcessCollector(registry=None)

    def collect(self) -> Iterable[Metric]:
        return [one for one in self._all.collect() if one.name in self._chosen]
