"""What a series is, and the names under which Prometheus has it."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """As Prometheus types it."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Owner(StrEnum):
    """Whose `/metrics` has it."""

    DEVICE = "device"
    CLOUD = "cloud"
    EDGE = "edge"
    OPERATOR = "operator"


class Where(StrEnum):
    """What a job must have so that it says something of it."""

    ALL = ""
    SPLIT = "mode split"
    EDGES = "edges"
    LINKS = "emulated links"


@dataclass(frozen=True, slots=True)
class Series:
    """One series, as its owner exports it and others ask for it."""

    name: str
    """As the client library takes it: a counter without `_total`."""
    text: str
    """One sentence: its HELP."""
    kind: Kind
    owner: Owner
    labels: tuple[str, ...]
    """Without those that Prometheus adds; first those that all series of a pod have."""
    example: str
    """PromQL that answers a question with it."""
    unit: str = ""
    values: tuple[str, ...] = ()
    """What the last label can say, where that is known; a counter has all from the start."""
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram; `+Inf` comes by itself."""
    where: Where = Where.ALL
    more: str = ""
    """What the docs say besides, in Markdown."""

    @property
    def queried(self) -> str:
        """The name of a gauge or a counter in a query."""
        if self.kind is Kind.HISTOGRAM:
            raise ValueError(f"{self.name} is a histogram: ask for bucket, sum or count")
        return f"{self.name}_total" if self.kind is Kind.COUNTER else self.name

    @property
    def bucket(self) -> str:
        """The name of a histogram's buckets in a query."""
        return self._part("bucket")

    @property
    def sum(self) -> str:
        """The name of a histogram's sum in a query."""
        return self._part("sum")

    @property
    def count(self) -> str:
        """The name of a histogram's count in a query."""
        return self._part("count")

    @property
    def names(self) -> tuple[str, ...]:
        """All names that Prometheus has of it."""
        if self.kind is Kind.HISTOGRAM:
            return self.bucket, self.sum, self.count
        return (self.queried,)

    def _part(self, suffix: str) -> str:
        if self.kind is not Kind.HISTOGRAM:
            raise ValueError(f"{self.name} is a {self.kind}: it has no {suffix}")
        return f"{self.name}_{suffix}"
