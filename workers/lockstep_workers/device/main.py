"""Wires the device role: probes first, then torch, the session and the rounds (`device.loop`).

Training runs in the main thread, so that SIGTERM ends it between two bytecodes; the session and
the probes have threads of their own.
"""

import threading

from lockstep_workers.device.metrics import DeviceMetrics
from lockstep_workers.device.probes import ProbeServer
from lockstep_workers.device.session import SessionKeeper
from lockstep_workers.environment import Environment
from lockstep_workers.errors import InvalidJob
from lockstep_workers.stopping import stop_on_signals


def run_device(environment: Environment) -> None:
    """Runs a device until SIGTERM."""
    stop_on_signals()
    job, client = environment.job(), environment.client()
    if client not in job.clients():
        raise InvalidJob(f"job {job.job} has no client {client}")
    metrics = DeviceMetrics(job.job, client)
    keeper: list[SessionKeeper] = []
    ProbeServer(
        environment.host,
        environment.port,
        registry=metrics.registry,
        ready=lambda: bool(keeper) and keeper[0].is_open(),
    )
    from lockstep_workers.device.loop import DeviceLoop  # noqa: PLC0415 - probes answer before torch is there
    from lockstep_workers.device.parts import build_parts  # noqa: PLC0415

    parts = build_parts(job, client, environment=environment, metrics=metrics)
    keeper.append(parts.session)
    parts.session.start()
    DeviceLoop(parts).run()
    threading.Event().wait()  # the job is over: the operator takes the pod away
