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
from collections.abc import Coroutine, Mapping
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import typer
import uvloop
from kubernetes.aio.config import ConfigException
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from lockstep_api.nesting import read_whatever_is_kept
from lockstep_operator.actuate import Resizer
from lockstep_operator.auth import Authenticator
from lockstep_operator.cluster_state import ClusterState, watches
from lockstep_operator.config import OperatorConfig
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
from lockstep_operator.probes import CannotListen, Probes, probe_server
from lockstep_operator.reconcile import Deps, reconcile
from lockstep_operator.reports import Reports
from lockstep_operator.routes import planner_app
from lockstep_operator.runtime import Runtime
from lockstep_operator.serving import certificate_of, make_signing, planner_server, serve
from lockstep_operator.telemetry import Prometheus
from lockstep_serving.server import HostedServer
from lockstep_serving.tls import Kept

END_WITHIN_S = 3.0
"""For all of it. A successor begins no sooner than 5 s after a leader has lost its lease."""

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
    elector = elector_of(config, door)
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
    certificate = certificate_of(config, signing)
    try:
        with closing(probe_server(config.metrics_address, probes, leads=flags.leading.is_set)):
            return await _run_both(
                planner_server(
                    planner_app(planner), config.planner_address, certificate=certificate
                ),
                certificate,
                work=lead(Leader(runtime, deps, flags), elector),
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


def elector_of(config: OperatorConfig, kube: Kube) -> Elector | None:
    """Who takes the lease, if one is to be held."""
    if not config.leader_elect:
        return None
    me = config.pod or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    namespace = config.lease_namespace or config.own_namespace()
    return Elector(
        kube, namespace, config.lease_name, me, config.timing(),
        namespaces=config.namespaces, account=config.account,
    )  # fmt: skip


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
    read_whatever_is_kept()
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
