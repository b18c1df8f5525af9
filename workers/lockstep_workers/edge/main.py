"""Wires the edge role: settings, reception, runner of the job's mode, session, HTTP server."""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import structlog
import uvloop

from lockstep_api import series
from lockstep_api.names import SPLIT_PROTOCOL
from lockstep_api.orders import ClusterProgress
from lockstep_api.series import Owner
from lockstep_api.settings import JobSettings
from lockstep_api.spec import Mode
from lockstep_api.tiers import EdgeRegistration
from lockstep_serving.probes import ProbeServer
from lockstep_workers.edge.averaging import Averaging
from lockstep_workers.edge.members import Members
from lockstep_workers.edge.metrics import EdgeMetrics
from lockstep_workers.edge.reception import EdgeReception
from lockstep_workers.edge.running import MakeRunner, Running
from lockstep_workers.edge.split_metrics import SplitMetrics
from lockstep_workers.edge.split_routes import SplitRoutes
from lockstep_workers.edge.split_work import Shop
from lockstep_workers.edge.upward import Upward, http_client
from lockstep_workers.environment import Environment
from lockstep_workers.errors import InvalidJob
from lockstep_workers.hosting.bulk import BulkRoutes
from lockstep_workers.hosting.certificates import certificate_of
from lockstep_workers.hosting.front import Address, Front, serve
from lockstep_workers.learning.constants import unpack
from lockstep_workers.learning.parameters import flatten
from lockstep_workers.learning.strategies import strategy_of
from lockstep_workers.learning.training import be_deterministic, flush_denormals
from lockstep_workers.models import build_model

_log = structlog.get_logger()
_UPGRADES = frozenset({SPLIT_PROTOCOL.encode()})


def run_edge(environment: Environment) -> None:
    """Runs an edge until SIGTERM.

    Raises:
        InvalidJob: the job has no such edge.
    """
    job, edge = environment.job(), environment.edge()
    if edge not in job.edge_urls:
        raise InvalidJob(f"job {job.job} has no edge {edge}")
    flush_denormals()
    if job.training.deterministic:
        be_deterministic()
    uvloop.run(_run(job, edge, environment=environment))


async def _run(job: JobSettings, edge: str, *, environment: Environment) -> None:
    metrics = EdgeMetrics(job.job, edge, told=series.of(Owner.EDGE, mode=job.mode))
    members = Members()
    incarnation = f"{environment.pod_uid}/{os.getpid()}/{time.time_ns()}"
    async with http_client(environment.trust()) as http:
        registration = EdgeRegistration(edge=edge, incarnation=incarnation)
        shop = split_shop(job, edge, metrics=metrics)
        use = None if shop is None else partial(unpack, shop.model.module)
        upward = Upward(
            job.cloud_url,
            registration,
            client=http,
            use=use,
            token_file=environment.token_file,
        )
        front = Front(metrics.registry, ready=upward.is_ready)
        reception = EdgeReception(job.clients(), members, metrics=metrics)
        rest = BulkRoutes(reception)
        split = None if shop is None else SplitRoutes(members, rest, shop=shop)
        make: MakeRunner
        if split is None:
            make = runner_of(job, edge, reception=reception, tell=upward.tell)
        else:
            make = split.runner
        running = Running(edge, make, members=members, metrics=metrics)
        front.open(split or rest)
        url, ca_file = job.edge_urls[edge], environment.ca_file
        told = metrics.certified
        certificate = certificate_of(url, ca_file, ask=upward.certificate, told=told)
        at = Address(environment.host, environment.port, len(job.clients()), _UPGRADES, certificate)
        work = _work(upward, running, reception=reception)
        with closing(ProbeServer(environment.host, environment.metrics_port, told=front)):
            await serve(front, at, work=work)


async def _work(upward: Upward, running: Running, *, reception: EdgeReception) -> None:
    """Until the job is over; then the pod waits to be taken away."""
    await upward.keep(running, dropped=reception.close_all)
    _log.info("job over")
    await asyncio.Event().wait()


def split_shop(job: JobSettings, edge: str, *, metrics: EdgeMetrics) -> Shop | None:
    """What clusters are computed with in mode split; None: that is not the mode.

    Raises:
        InvalidJob: the model cannot be built.
    """
    if job.mode is not Mode.SPLIT:
        return None
    return Shop(
        edge=edge,
        job=job,
        model=flatten(build_model(job.model, seed=job.training.seed)),
        compute=ThreadPoolExecutor(1, "back-half"),
        metrics=SplitMetrics(metrics.registry, job=job.job, edge=edge),
        refused=metrics.refused,
    )


def runner_of(
    job: JobSettings,
    edge: str,
    *,
    reception: EdgeReception,
    tell: Callable[[ClusterProgress], None],
) -> MakeRunner:
    """What runs a cluster in the job's mode.

    Raises:
        InvalidJob: the job's mode has no edges.
    """
    if job.mode is Mode.HIERARCHICAL:
        how = Averaging(
            edge=edge,
            reception=reception,
            strategy=strategy_of(job),
            momentum=job.training.momentum,
            exact=job.training.deterministic,
            clip_norm=job.clip_norm(),
            tell=tell,
        )
        return how.runner
    raise InvalidJob(f"mode {job.mode} has no edges")
