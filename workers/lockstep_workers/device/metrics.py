"""A device's Prometheus metrics; docs/metrics.md lists them."""

import math
from collections.abc import Collection

from prometheus_client import CollectorRegistry

from lockstep_api import series
from lockstep_api.series import Series
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import Task, UpdateReport
from lockstep_serving.exporting import Exports
from lockstep_workers.device.link import Links


class DeviceMetrics:
    """All series of one device, with the labels `job` and `client`."""

    def __init__(self, job: str, client: str, *, told: Collection[Series] = series.ALL) -> None:
        """Registers the series in a registry of their own, but for those that are not `told`."""
        self.registry = CollectorRegistry()
        exports = self._exports = Exports(self.registry, job, client, told=told)
        self.round = exports.gauge(series.CLIENT_ROUND)
        self.asked = exports.gauge(series.FREQUENCY_ASKED_GHZ)
        self.applied = exports.gauge(series.FREQUENCY_APPLIED_GHZ)
        self.limit = exports.gauge(series.CPU_LIMIT_CORES)
        self.throttle = exports.gauge(series.THROTTLE_CORES)
        self.steps_asked = exports.gauge(series.STEPS_ASKED)
        self.steps_done = exports.gauge(series.STEPS_DONE)
        self.work = exports.gauge(series.WORK_CORE_SECONDS)
        self.train_loss = exports.gauge(series.TRAIN_LOSS)
        self.uplink = exports.gauge(series.UPLINK_MBITS_PER_SECOND)
        self._compute = exports.counter(series.COMPUTE_SECONDS)
        self._steps = exports.counter(series.STEPS)
        self._cpu = exports.counter(series.CPU_SECONDS)
        self._throttled = exports.counter(series.THROTTLED_SECONDS)
        self._upload = exports.counter(series.UPLOAD_SECONDS)
        self._upload_bytes = exports.counter(series.UPLOAD_BYTES)
        self._download = exports.counter(series.DOWNLOAD_SECONDS)
        self._download_bytes = exports.counter(series.DOWNLOAD_BYTES)
        self._waiting = exports.counter(series.SPLIT_WAITING_SECONDS)
        self._samples = exports.counter(series.SAMPLES)
        self._energy = exports.counters(series.ENERGY_JOULES)

    def show_links(self, links: Links) -> None:
        """From now on the emulated links are told, as they are when somebody asks."""
        began_s = links.up.wall_clock()
        there = {
            (direction,): link
            for direction, link in (("up", links.up), ("down", links.down))
            if link.trace is not None
        }
        self._exports.computed(
            series.LINK_MBITS_PER_SECOND,
            lambda: {labels: link.mean_mbps() for labels, link in there.items()},
        )
        self._exports.computed(
            series.LINK_MBITS,
            lambda: {labels: link.carried_mbit(began_s) for labels, link in there.items()},
        )

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
            self._energy.labels(source).inc(joules)

    def uploaded(self, *, seconds: float, n_bytes: int) -> None:
        """An update was sent."""
        self._upload.inc(seconds)
        self._upload_bytes.inc(n_bytes)
        self.uplink.set(n_bytes * 8e-6 / max(seconds, 1e-9))
