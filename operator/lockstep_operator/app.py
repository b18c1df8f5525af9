"""The operator's process: reads the configuration, wires the parts and runs Kopf and the planner.

Both run in one asyncio loop until SIGTERM or SIGINT. When one ends by itself the process ends with
an error, so that Kubernetes starts it again.
"""

import asyncio
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import typer
import uvicorn
import uvloop
from fastapi import FastAPI
from kubernetes.aio.config import ConfigException
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from lockstep_operator.actuate import Resizer
from lockstep_operator.auth import Authenticator
from lockstep_operator.authority import IssuerFiles, Signing, awaited_authority
from lockstep_operator.cluster_state import ClusterState, watches
from lockstep_operator.config import OperatorConfig, tls_host
from lockstep_operator.core.certificates import Authority
from lockstep_operator.election import Elector
from lockstep_operator.errors import BadAuthority
from lockstep_operator.issuer import Issuer
from lockstep_operator.kube import ApiKube, Kube
from lockstep_operator.labelling import Labelling
from lockstep_operator.lead import Flags, Gate, Leader, lead, stop_on_signals
from lockstep_operator.log import set_up_logging
from lockstep_operator.login import load_configuration
from lockstep_operator.metrics import Metrics
from lockstep_operator.observe import Sources
from lockstep_operator.planner import Planner
from lockstep_operator.policies import Policies
from lockstep_operator.policy_learning import PolicyLearning
from lockstep_operator.probes import (
    CannotListen,
    Probes,
    Starting,
    probe_server,
    starting_probes,
)
from lockstep_operator.reconcile import Deps, reconcile
from lockstep_operator.reports import Reports
from lockstep_operator.routes import planner_app
from lockstep_operator.runtime import Runtime
from lockstep_operator.telemetry import Prometheus
from lockstep_serving.bounded import BodyLimit, Limits, bounded
from lockstep_serving.securing import secured
from lockstep_serving.server import HostedServer
from lockstep_serving.tls import Kept

MAX_BODY_BYTES = 64 << 20
"""A plan request of 10,000 clients has about 12 MB."""
MAX_CONNECTIONS = 4000
"""One a running job, and those that come and go."""
GRACE_S = 2
"""Seconds for requests under way when the process ends."""
END_WITHIN_S = 3.0
"""For all of it. A successor begins no sooner than 4 s after a leader has lost its lease."""

logger = logging.getLogger(__name__)


def make_deps(
    config: OperatorConfig, kube: ApiKube, *, metrics: Metrics, authority: Authority | None = None
) -> Deps:
    """What the loops and the planner share."""
    return Deps(
        kube=kube,
        sources=Sources(kube, Reports(), ClusterState(kube, config.namespaces)),
        settings=config.settings(authority=authority),
        metrics=metrics,
        clock=lambda: datetime.now(UTC),
    )


async def run(config: OperatorConfig) -> int:
    """Run until stopped; returns the exit code."""
    configuration = await load_configuration(config.kubeconfig, config.context)
    configuration.connection_pool_maxsize += watches(config.namespaces)
    metrics = Metrics(CollectorRegistry())
    door = ApiKube(configuration, count=metrics.count_request)
    elector = _elector(config, door)
    kube = door if elector is None else door.while_leading(elector.left_s)
    flags = Flags()
    stop_on_signals(flags.stop)
    try:
        signing = await make_signing(config, door, metrics=metrics, stop=flags.stop)
    except (BadAuthority, CannotListen) as error:
        logger.error("stopped: %s", error)
        await door.close()
        return 1
    if flags.stop.is_set():
        await door.close()
        return 0
    authority = None if signing is None else signing.authority
    deps = make_deps(config, kube, metrics=metrics, authority=authority)
    gate = Gate(flags, partial(reconcile, deps=deps), sources=deps.sources, elector=elector)
    runtime = Runtime(gate, metrics, resync_s=config.resync_seconds)
    prometheus = Prometheus(config.prometheus_url) if config.prometheus_url else None
    policies = Policies(kube, config.policy_dir)
    learning = PolicyLearning(deps, policies)
    labelling = Labelling(kube)
    for gone in (learning.forget, labelling.forget, deps.metrics.of_jobs.forget):
        deps.sources.reports.when_gone(gone)
    planner = Planner(
        deps=deps,
        reports=deps.sources.reports,
        runtime=runtime,
        resizer=Resizer(kube, deps.metrics),
        authenticator=Authenticator(kube) if config.planner_auth else None,
        issuer=Issuer(kube),
        prometheus=prometheus,
        policies=policies,
        learning=learning,
        labelling=labelling,
        signing=signing,
        leads=gate.serves,
    )
    probes = Probes(
        deps,
        runtime,
        lambda: flags.watch_alive,
        flags.ready,
        config.resync_seconds,
        leads=flags.leading.is_set,
    )
    certificate = _certificate(config, signing)
    try:
        with closing(probe_server(config.metrics_address, probes, leads=flags.leading.is_set)):
            return await _run_both(
                _server(config, planner, certificate=certificate),
                certificate,
                work=lead(Leader(config, configuration, runtime, deps=deps, flags=flags), elector),
                runtime=runtime,
                flags=flags,
            )
    except CannotListen as error:
        logger.error("stopped: %s", error)
        return 1
    finally:
        await runtime.shutdown()
        if elector is not None:
            await elector.release()
        if prometheus is not None:
            await prometheus.close()
        await kube.close()


def _elector(config: OperatorConfig, kube: ApiKube) -> Elector | None:
    if not config.leader_elect:
        return None
    me = config.pod or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    namespace = config.lease_namespace or config.own_namespace()
    timing, namespaces = config.timing(), config.namespaces
    return Elector(kube, namespace, config.lease_name, me, timing, namespaces=namespaces)


async def make_signing(
    config: OperatorConfig, kube: Kube, *, metrics: Metrics, stop: asyncio.Event
) -> Signing | None:
    """What certificates are signed with; None: there are none, or the process ends.

    Raises:
        BadAuthority: what is kept for it cannot be used.
        CannotListen: for probes meanwhile.
    """
    if not config.tls:
        return None
    issuer = None if config.issuer_dir is None else IssuerFiles(config.issuer_dir)
    if issuer is not None:
        issuer.current()
    with closing(starting_probes(config.metrics_address, Starting(metrics.registry))):
        authority = await awaited_authority(kube, config.home(), stop=stop)
    if authority is None:
        return None
    return Signing(
        authority,
        metrics,
        lambda: datetime.now(UTC),
        time.monotonic,
        issuer=issuer,
        life_s=config.certificate_seconds,
    )


def _certificate(config: OperatorConfig, signing: Signing | None) -> Kept | None:
    """The planner's; None: it speaks plain HTTP."""
    host = tls_host(config.planner_at())
    return None if signing is None or host is None else signing.kept_for_planner(host)


def _server(config: OperatorConfig, planner: Planner, *, certificate: Kept | None) -> HostedServer:
    host, port = config.planner_address
    return planner_server(planner_app(planner), host, port=port, certificate=certificate)


def planner_server(
    app: FastAPI, host: str, *, port: int, certificate: Kept | None = None
) -> HostedServer:
    """The planner's server; no request keeps it from ending."""
    limits = Limits(
        connections=MAX_CONNECTIONS, head_bytes=64 << 10, strangers_make_room=True, settle_s=1.0
    )
    http = bounded(limits)
    return HostedServer(
        uvicorn.Config(
            BodyLimit(app, MAX_BODY_BYTES),
            host=host,
            port=port,
            http=http if certificate is None else secured(http, certificate.context),  # type: ignore[arg-type]
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
        )
    )


async def _run_both(
    server: HostedServer,
    certificate: Kept | None,
    *,
    work: Coroutine[Any, Any, None],
    runtime: Runtime,
    flags: Flags,
) -> int:
    http = asyncio.create_task(serve(server, certificate), name="planner")
    watch = asyncio.create_task(work, name="lead")
    stopped = asyncio.create_task(flags.stop.wait(), name="stop")
    await asyncio.wait({http, watch, stopped}, return_when=asyncio.FIRST_COMPLETED)
    wanted = flags.stop.is_set()
    flags.stop.set()
    server.should_exit = True
    await runtime.shutdown()  # before Kopf waits for the tasks that it takes for its own
    if not flags.leading.is_set():
        watch.cancel()  # a candidate waits for its turn
    _, late = await asyncio.wait({http, watch, stopped}, timeout=END_WITHIN_S)
    for task in late:
        task.cancel()
    results = await asyncio.gather(http, watch, stopped, return_exceptions=True)
    errors = [one for one in results if isinstance(one, BaseException)]
    for error in errors:
        expected = isinstance(error, RuntimeError | asyncio.CancelledError)
        exc_info = None if expected else error
        logger.error("stopped: %s", str(error) or type(error).__name__, exc_info=exc_info)
    broken = any(isinstance(error, Exception) for error in errors)
    return 0 if wanted and not broken else 1


async def serve(server: HostedServer, certificate: Kept | None) -> None:
    """Serve until the server is to end, with a certificate that is renewed meanwhile.

    uvicorn ends the process itself when its port is taken; here that is an error as any.
    """
    async with _renewed(certificate, server):
        try:
            await server.serve()
        except SystemExit as error:
            address = f"{server.config.host}:{server.config.port}"
            raise RuntimeError(f"the planner could not listen on {address}") from error


@asynccontextmanager
async def _renewed(certificate: Kept | None, server: HostedServer) -> AsyncIterator[None]:
    """While a server serves its certificate is kept; should that fail, it ends."""
    if certificate is None:
        yield
        return
    await certificate.obtain()
    renewing = asyncio.create_task(certificate.run(), name="certificate")
    renewing.add_done_callback(lambda _: setattr(server, "should_exit", True))
    try:
        yield
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing


Namespaces = Annotated[
    list[str] | None, typer.Option("--namespace", help="Namespace to watch; repeat. All if none.")
]


def command(
    kubeconfig: Annotated[str | None, typer.Option(help="Kubeconfig file.")] = None,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig.")] = None,
    *,
    planner_url: Annotated[
        str | None, typer.Option(help="Where cloud pods reach this process.")
    ] = None,
    listen: Annotated[str | None, typer.Option(help="HOST:PORT of the planner.")] = None,
    metrics_listen: Annotated[
        str | None, typer.Option(help="HOST:PORT of probes and metrics.")
    ] = None,
    prometheus_url: Annotated[
        str | None, typer.Option(help="Prometheus that scrapes the jobs' pods.")
    ] = None,
    namespace: Namespaces = None,
    worker_image: Annotated[str | None, typer.Option(help="Default image of workers.")] = None,
    resync_seconds: Annotated[
        float | None, typer.Option(help="Seconds between two looks at an undisturbed job.")
    ] = None,
    leader_elect: Annotated[
        bool | None, typer.Option(help="Write and plan only while holding a Lease.")
    ] = None,
    lease_namespace: Annotated[str | None, typer.Option(help="Namespace of the Lease.")] = None,
    planner_auth: Annotated[
        bool | None, typer.Option(help="Check tokens of callers, devices and edges.")
    ] = None,
    tls: Annotated[
        bool | None, typer.Option(help="Make certificates for jobs and for the planner.")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="plain or json.")] = None,
    log_level: Annotated[str | None, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = None,
) -> None:
    """Run the Lockstep operator. Options override the variables LOCKSTEP_*."""
    options = {
        "kubeconfig": kubeconfig,
        "context": context,
        "planner_url": planner_url,
        "listen": listen,
        "metrics_listen": metrics_listen,
        "prometheus_url": prometheus_url,
        "namespaces": tuple(namespace) if namespace else None,
        "worker_image": worker_image,
        "resync_seconds": resync_seconds,
        "leader_elect": leader_elect,
        "lease_namespace": lease_namespace,
        "planner_auth": planner_auth,
        "tls": tls,
        "log_format": log_format,
        "log_level": log_level,
    }
    sys.exit(start(options))


def start(options: Mapping[str, object]) -> int:
    """Run with options over the environment; returns the exit code."""
    try:
        config = OperatorConfig.of(options)
    except ValidationError as error:
        return _usage(
            "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        )
    set_up_logging(config.log_format, config.log_level)
    try:
        return uvloop.run(run(config))
    except (ConfigException, OSError) as error:
        return _usage(f"no way to reach Kubernetes: {error}")


def _usage(message: str) -> int:
    sys.stderr.write(f"lockstep-operator: {message}\n")
    return 2


def main() -> None:
    """The console script."""
    typer.run(command)
