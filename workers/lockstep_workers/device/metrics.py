"""A device's Prometheus metrics; docs/metrics.md lists them."""

import math
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from lockstep_api import series
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import Task, UpdateReport
from lockstep_workers.device.link import Links

_LABELS = [series.JOB, series.CLIENT]


class _Carried(Collector):
    """A counter that is computed when somebody asks: slots of it are mean bandwidths."""

    def __init__(self, labels: tuple[str, str], links: Links) -> None:
        self._labels, self._links = labels, links
        self._began_s = links.up.wall_clock()

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            series.LINK_MBITS,
            "Mbit that the emulated link could have carried",
            labels=[*_LABELS, series.DIRECTION],
        )
        for direction, link in (("up", self._links.up), ("down", self._links.down)):
            if link.trace is not None:
                family.add_metric([*self._labels, direction], link.carried_mbit(self._began_s))
        yield family


class DeviceMetrics:
    """All series of one device, with the labels `job` and `client`."""

    def __init__(self, job: str, client: str) -> None:
        """Registers the series in a registry of their own."""
        self.registry = CollectorRegistry()
        self._labels = (job, client)
        self.round = self._gauge("lockstep_client_round", "Round that it trains or trained last")
        self.asked = self._gauge("lockstep_frequency_asked_ghz", "Frequency of the plan in GHz")
        self.applied = self._gauge(
            "lockstep_frequency_applied_ghz", "Frequency that it had in its last round, in GHz"
        )
        self.limit = self._gauge("lockstep_cpu_limit_cores", "CPU quota in cores; 0: none")
        self.steps_asked = self._gauge(
            "lockstep_steps_asked", "Local SGD steps of the plan; 0: a budget alone bounds them"
        )
        self.steps_done = self._gauge("lockstep_steps_done", "Local SGD steps of its last round")
        self.throttle = self._gauge(
            "lockstep_throttle_cores", "Cores that it keeps itself to; 0: its quota alone holds it"
        )
        self.work = self._gauge(
            "lockstep_work_core_seconds", "CPU that its last round's training took, in core-seconds"
        )
        self.train_loss = self._gauge("lockstep_train_loss", "Mean local loss in nats")
        self.uplink = self._gauge(series.UPLINK_MBPS, "Bandwidth of its last upload in Mbit/s")
        self._compute = self._counter("lockstep_compute_seconds", "Seconds of local training")
        self._steps = self._counter(series.STEPS, "Local SGD steps")
        self._cpu = self._counter(series.CPU_SECONDS, "Core-seconds of local training")
        self._throttled = self._counter(
            "lockstep_throttled_seconds", "Seconds that the CPU quota held training back"
        )
        self._upload = self._counter(series.UPLOAD_SECONDS, "Seconds of uploads")
        self._upload_bytes = self._counter(series.UPLOAD_BYTES, "Bytes uploaded")
        self._download = self._counter("lockstep_download_seconds", "Seconds of downloads")
        self._download_bytes = self._counter("lockstep_download_bytes", "Bytes downloaded")
        self._waiting = self._counter(
            "lockstep_split_waiting_seconds", "Seconds of waiting for the edge in split training"
        )
        self._samples = self._counter(
            "lockstep_samples", "Examples that went through the front half in split training"
        )
        self._energy = Counter(
            "lockstep_energy_joules", "Energy in J; sources are never added up",
            [*_LABELS, series.SOURCE], registry=self.registry,
        )  # fmt: skip
        for source in ("model", "cpu"):
            self._energy.labels(*self._labels, source)

    def show_links(self, links: Links) -> None:
        """From now on the emulated links are told, as they are when somebody asks."""
        gauge = Gauge(
            "lockstep_link_mbits_per_second",
            "Mean bandwidth of the emulated link over the last 10 s, in Mbit/s",
            [*_LABELS, series.DIRECTION], registry=self.registry,
        )  # fmt: skip
        for direction, link in (("up", links.up), ("down", links.down)):
            if link.trace is not None:
                gauge.labels(*self._labels, direction).set_function(link.mean_mbps)
        self.registry.register(_Carried(self._labels, links))

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, _LABELS, registry=self.registry).labels(*self._labels)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, _LABELS, registry=self.registry).labels(*self._labels)

    def began(self, task: Task, *, seconds: float, n_bytes: int) -> None:
        """A task and its model have arrived."""
        self.round.set(task.round)
        self.asked.set(task.frequency_ghz)
        self.steps_asked.set(task.asked_steps() or 0)
        self.throttle.set(task.throttle_cores() or 0.0)
        self._download.inc(seconds)
        self._download_bytes.inc(n_bytes)

    def trained(self, report: UpdateReport, energy: EnergyJoules) -> None:
        """Local training is done; it took `energy`."""
        self.applied.set(report.frequency_ghz)
        self.limit.set(report.quota_cores or 0.0)
        self.train_loss.set(math.nan if report.train_loss is None else report.train_loss)
        self._compute.inc(report.compute_seconds)
        self._steps.inc(report.steps)
        self.steps_done.set(report.steps)
        self._cpu.inc(report.cpu_seconds)
        self.work.set(report.cpu_seconds)
        self._throttled.inc(report.throttled_seconds)
        self.waited(energy)

    def split(self, report: UpdateReport, energy: EnergyJoules) -> None:
        """A part of a round of split training is over; it took `energy`."""
        self.trained(report, energy)
        moved = report.moved
        assert moved is not None
        self._download.inc(moved.down_seconds)
        self._download_bytes.inc(moved.down_bytes)
        self.uploaded(seconds=moved.up_seconds, n_bytes=moved.up_bytes)
        self._waiting.inc(moved.wait_seconds)
        self._samples.inc(report.samples or 0)

    def waited(self, energy: EnergyJoules) -> None:
        """The device was on and took `energy`."""
        for source, joules in energy.model_dump(exclude_none=True).items():
            self._energy.labels(*self._labels, source).inc(joules)

    def uploaded(self, *, seconds: float, n_bytes: int) -> None:
        """An update was sent."""
        self._upload.inc(seconds)
        self._upload_bytes.inc(n_bytes)
        self.uplink.set(n_bytes * 8e-6 / max(seconds, 1e-9))
