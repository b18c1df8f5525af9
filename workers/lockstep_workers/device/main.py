"""Wires the device role: probes first, then torch, the session and the rounds (`device.loop`).

Training runs in the main thread, so that SIGTERM ends it between two bytecodes; the session and
the probes have threads of their own.
"""

import threading
from typing import TYPE_CHECKING

import structlog

from lockstep_api import series
from lockstep_api.series import Owner
from lockstep_api.sessions import ClientFailure
from lockstep_api.settings import JobSettings
from lockstep_serving.probes import ProbeServer
from lockstep_workers.device.failing import tell
from lockstep_workers.device.metrics import DeviceMetrics
from lockstep_workers.device.probes import Probed
from lockstep_workers.device.session import SessionKeeper
from lockstep_workers.environment import Environment
from lockstep_workers.errors import InvalidJob, JobFailed
from lockstep_workers.stopping import stop_on_signals

if TYPE_CHECKING:  # it needs torch
    from lockstep_workers.device.parts import Place

_log = structlog.get_logger()


def run_device(environment: Environment) -> None:
    """Runs a device until SIGTERM."""
    stop_on_signals()
    job, client = environment.job(), environment.client()
    if client not in job.clients():
        raise InvalidJob(f"job {job.job} has no client {client}")
    shown = series.of(Owner.DEVICE, mode=job.mode, per_device=job.per_device)
    metrics = DeviceMetrics(job.job, client, told=shown)
    keeper: list[SessionKeeper] = []
    told = Probed(metrics.registry, lambda: bool(keeper) and keeper[0].is_open())
    ProbeServer(environment.host, environment.metrics_port, told=told)
    from lockstep_workers.device.loop import DeviceLoop  # noqa: PLC0415 - probes answer before torch is there
    from lockstep_workers.device.parts import build_parts, find_place  # noqa: PLC0415

    place = find_place(job, client, environment=environment, metrics=metrics)
    try:
        parts = build_parts(job, client, place=place)
        keeper.append(parts.session)
        parts.session.start()
        DeviceLoop(parts).run()
    except JobFailed as error:
        _fail(job, error, place=place, client=client)
    threading.Event().wait()  # the job is over, here at least: the operator takes the pod away


def _fail(job: JobSettings, error: JobFailed, *, place: "Place", client: str) -> None:
    """The user's code failed: the process ends, and starts again, unless that was too often."""
    failure = ClientFailure(
        client=client, incarnation=place.incarnation, round=0, message=str(error)
    )
    _log.error("cannot begin", error=str(error))
    where = place.environment
    if tell(job.cloud_url, failure, trust=where.trust(), token_file=where.token_file):
        raise error
    _log.error("given up")
