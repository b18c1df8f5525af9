"""What Prometheus knows of a job and its devices, in as few questions as can be.

`devices`, `describe` and `watch` ask. Invariant: without an answer there are no figures and one
note that says why; a command never fails for the lack of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from lockstep_api import series
from lockstep_api.series import labels
from lockstep_cli.cluster import Cluster
from lockstep_cli.devices import Figures
from lockstep_cli.errors import CliError
from lockstep_cli.facts import Job
from lockstep_cli.prometheus import Prometheus, Sample, Span, find_prometheus, of_job

_UP = "up"
_MODEL = "model"
_OF_DEVICES = (
    series.UPLINK_MBITS_PER_SECOND,
    series.LINK_MBITS_PER_SECOND,
    series.FREQUENCY_APPLIED_GHZ,
    series.ENERGY_JOULES,
    series.THROTTLED_SECONDS,
)
_LAST = "5m"
"""For so long a figure counts: devices of large jobs are scraped once a minute."""
_POINTS = 120
"""Of a curve: more than a line of text shows."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of a job's devices; why there are none, or how they were come by."""

    devices: dict[str, Figures] = field(default_factory=dict)
    note: str = ""


def measure(cluster: Cluster, job: Job, *, said: str | None) -> Measured:
    """Figures of a job's devices now, or at its end; a job that never began has none."""
    if job.ended and not job.status.get("completionTime"):
        return Measured()
    try:
        prometheus = find_prometheus(cluster, job.namespace, said=said)
        return Measured(figures_of(prometheus, job), note=prometheus.note)
    except CliError as error:
        return Measured(note=str(error))


def figures_of(prometheus: Prometheus, job: Job) -> dict[str, Figures]:
    """Figures by device.

    Raises:
        NoFigures: no answer.
    """
    names = "|".join(one.queried for one in _OF_DEVICES)
    selector = f'{{__name__=~"{names}",{of_job(job)}}}'
    if (ended := job.status.get("completionTime")) is None:
        samples = prometheus.instant(selector)
    else:  # its pods, and so its series, are gone
        at = datetime.fromisoformat(ended).timestamp()
        samples = prometheus.instant(f"last_over_time({selector}[{_LAST}])", at=at)
    by_client: dict[str, dict[str, float]] = {}
    for sample in samples:
        values = by_client.setdefault(sample.labels.get(labels.CLIENT, ""), {})
        values |= _kept(sample)
    return {
        client: Figures(
            mbps=values.get(
                series.LINK_MBITS_PER_SECOND.queried,
                values.get(series.UPLINK_MBITS_PER_SECOND.queried),
            ),
            ghz=values.get(series.FREQUENCY_APPLIED_GHZ.queried),
            joules=values.get(series.ENERGY_JOULES.queried),
            throttled_s=values.get(series.THROTTLED_SECONDS.queried),
        )
        for client, values in by_client.items()
    }


def _kept(sample: Sample) -> dict[str, float]:
    """Its name and value, if it is the way up and the energy by the model."""
    told = sample.labels
    if told.get(labels.DIRECTION, _UP) != _UP or told.get(labels.SOURCE, _MODEL) != _MODEL:
        return {}
    return {told["__name__"]: sample.value}


def accuracies(prometheus: Prometheus, job: Job, *, span: Span) -> list[float]:
    """How a job's accuracy went.

    Raises:
        NoFigures: no answer.
    """
    curves = prometheus.curves(f"{series.ACCURACY.queried}{{{of_job(job)}}}", span)
    return _changes(value for curve in curves for _, value in curve.points)


def whole_time(job: Job, now: datetime) -> Span | None:
    """From a job's first round to its end, or now, in as many steps as are shown."""
    if (began := job.status.get("startTime")) is None:
        return None
    ended = job.status.get("completionTime")
    end = (datetime.fromisoformat(ended) if ended else now).timestamp()
    start = datetime.fromisoformat(began).timestamp()
    return Span(start, end, max(1.0, round((end - start) / _POINTS)))


def _changes(values: Iterable[float]) -> list[float]:
    """Without the repetitions between rounds."""
    found: list[float] = []
    for value in values:
        if not found or found[-1] != value:
            found.append(value)
    return found
