"""The device role: waits for work, trains under its quota, uploads, again and again.

Training runs in the main thread, so that SIGTERM ends it between two bytecodes; the session and
the probes have threads of their own.
"""

import http.client
import os
import random
import signal
import sys
import threading
import time
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

import structlog

from lockstep_api.energy import cycles, frequency_ghz, modelled_joules
from lockstep_api.settings import GroupSettings, JobSettings
from lockstep_api.status import EnergyJoules
from lockstep_workers.device.cgroup import CpuCgroup, CpuReading
from lockstep_workers.device.connection import LOST, NoSession, Work, connect, get_work, send_update
from lockstep_workers.device.metrics import DeviceMetrics
from lockstep_workers.device.probes import ProbeServer
from lockstep_workers.device.session import SessionKeeper
from lockstep_workers.environment import Environment
from lockstep_workers.errors import InvalidJob

if TYPE_CHECKING:
    from lockstep_workers.device.trainer import Trainer

_log = structlog.get_logger()


def run_device(environment: Environment) -> None:
    """Runs a device until SIGTERM."""
    signal.signal(signal.SIGTERM, _stop)
    job, client = environment.job(), environment.client()
    if client not in job.clients():
        raise InvalidJob(f"job {job.job} has no client {client}")
    metrics = DeviceMetrics(job.job, client)
    keeper: list[SessionKeeper] = []
    ProbeServer(
        environment.host,
        environment.port,
        metrics.registry,
        lambda: bool(keeper) and keeper[0].is_open(),
    )
    from lockstep_workers.device.trainer import Trainer  # noqa: PLC0415 - probes answer before torch is there

    trainer = Trainer(job, client, environment.datasets)
    keeper.append(SessionKeeper(job.cloud_url, trainer.registration(_incarnation(environment))))
    keeper[0].start()
    DeviceLoop(job, client, keeper[0], trainer, metrics).run()
    threading.Event().wait()  # the job is over: the operator takes the pod away


def _stop(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _incarnation(environment: Environment) -> str:
    return f"{environment.pod_uid}/{os.getpid()}/{time.time_ns()}"


@dataclass(frozen=True, slots=True)
class Spent:
    """What a round's training took."""

    compute_s: float
    cpu_s: float
    throttled_s: float
    quota_cores: float | None
    frequency_ghz: float


def spent(
    group: GroupSettings, before: CpuReading, after: CpuReading, *, compute_s: float, cpu_s: float
) -> Spent:
    """Reads two readings around the training; `cpu_s` stands in where the kernel counts nothing.

    The quota is the one in force at the end of the training. Without a quota, or above maxGHz,
    the device counts as running at maxGHz.
    """
    if before.used_s is not None and after.used_s is not None:
        cpu_s = after.used_s - before.used_s
    throttled = (after.throttled_s or 0.0) - (before.throttled_s or 0.0)
    quota = after.quota_cores
    ghz = group.max_ghz
    if quota is not None:
        ghz = min(ghz, frequency_ghz(quota, group.cpu_at_max, group.max_ghz))
    return Spent(compute_s, cpu_s, max(0.0, throttled), quota, ghz)


def energy(job: JobSettings, group: GroupSettings, used: Spent, *, idle_s: float) -> EnergyJoules:
    """A round's energy of one device by source, in J."""
    n_cycles = cycles(used.cpu_s, group.cpu_at_max, group.max_ghz)
    modelled = modelled_joules(
        group.energy_model(), n_cycles=n_cycles, ghz=used.frequency_ghz, idle_s=idle_s
    )
    return EnergyJoules(model=modelled, cpu=used.cpu_s * job.cpu_watts)


class DeviceLoop:
    """Work, train, upload, until the job is over."""

    def __init__(
        self,
        job: JobSettings,
        client: str,
        session: SessionKeeper,
        trainer: "Trainer",
        metrics: DeviceMetrics,
    ) -> None:
        """`trainer` does the learning, the rest is bookkeeping."""
        self._job, self._client, self._session = job, client, session
        self._trainer, self._metrics = trainer, metrics
        self._group = job.group_of(client)
        self._cgroup = CpuCgroup()
        self._after = 0
        self._session_number = 0
        self._previous_upload: tuple[float, int] | None = None
        self._idle_since = time.monotonic()

    def run(self) -> None:
        """Returns when the job is over."""
        pause = threading.Event()
        while True:
            self._session_changed(self._session.wait_open())
            try:
                connection = connect(self._job.cloud_url)
                try:
                    self._use(connection)
                finally:
                    connection.close()
                return
            except NoSession as error:
                _log.info("session is opened anew", why=str(error))
            except LOST as error:
                _log.info("connection lost", why=f"{type(error).__name__}: {error}")
            pause.wait(random.uniform(0.05, 0.5))

    def _session_changed(self, number: int) -> None:
        """In a new session, maybe with a new cloud pod, rounds may start from 1 again."""
        if number != self._session_number:
            self._session_number = number
            self._after = 0

    def _use(self, connection: http.client.HTTPConnection) -> None:
        """Serves rounds over one connection; returns when the job is over."""
        model: bytearray | None = None
        while (work := get_work(connection, self._client, self._after, reuse=model)) is not None:
            self._after, model = work.task.round, work.body
            self._serve(connection, work)

    def _serve(self, connection: http.client.HTTPConnection, work: Work) -> None:
        self._metrics.began(work.task, seconds=work.seconds, n_bytes=len(work.body))
        before, cpu, began = self._cgroup.read(), time.process_time(), time.monotonic()
        idle_s = began - self._idle_since
        loss, body = self._trainer.train(work)
        compute_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
        used = spent(self._group, before, self._cgroup.read(), compute_s=compute_s, cpu_s=cpu_s)
        report = self._trainer.report(
            work,
            used,
            loss=loss,
            energy=energy(self._job, self._group, used, idle_s=idle_s),
            previous_upload=self._previous_upload,
        )
        self._metrics.trained(report)
        self._idle_since = time.monotonic()
        answer = send_update(connection, report, body)
        self._previous_upload = (answer.seconds, len(body))
        self._metrics.uploaded(seconds=answer.seconds, n_bytes=len(body))
        if answer.accepted:
            self._trainer.accepted()
        else:
            _log.warning("update refused", round=work.task.round, why=answer.message)
