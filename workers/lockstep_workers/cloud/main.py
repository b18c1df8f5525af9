"""Wires the cloud role: settings, probes, model, data, planner, job, HTTP server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass

import httpx2
import structlog
import uvloop

from lockstep_api import series
from lockstep_api.certificates import Certificate, CertificateRequest
from lockstep_api.names import CLOUD_SERVER, Role
from lockstep_api.series import Owner
from lockstep_api.settings import JobSettings
from lockstep_api.spec import Mode
from lockstep_api.wire import Outcome
from lockstep_serving.probes import ProbeServer
from lockstep_workers.cloud.edge_routes import EdgeRoutes
from lockstep_workers.cloud.job import Job
from lockstep_workers.cloud.journal import Journal
from lockstep_workers.cloud.metrics import CloudMetrics
from lockstep_workers.cloud.parts import Parts
from lockstep_workers.cloud.pod_tokens import PodTokens
from lockstep_workers.cloud.signing_keys import SigningKeys
from lockstep_workers.cloud.split_server import SplitServer
from lockstep_workers.cloud.store import Store
from lockstep_workers.environment import Environment
from lockstep_workers.errors import JobFailed
from lockstep_workers.hosting.asgi import App
from lockstep_workers.hosting.bulk import BulkRoutes
from lockstep_workers.hosting.certificates import Ask, certificate_of
from lockstep_workers.hosting.front import Address, Front, serve
from lockstep_workers.hosting.identity import ANYBODY, Identity
from lockstep_workers.learning.privacy import noise_of
from lockstep_workers.learning.safeguards import safeguards_of
from lockstep_workers.learning.strategies import strategy_of
from lockstep_workers.learning.training import be_deterministic, flush_denormals
from lockstep_workers.learning.trial import load_and_try
from lockstep_workers.planner_client import PlannerClient
from lockstep_workers.trusting import TrustingTransport

_log = structlog.get_logger()


def run_cloud(environment: Environment) -> None:
    """Runs the cloud pod until SIGTERM."""
    flush_denormals()
    uvloop.run(_run(environment))


@dataclass(frozen=True, slots=True)
class Pod:
    """What a cloud pod has before its job is loaded."""

    job: JobSettings
    environment: Environment
    planner: PlannerClient
    journal: Journal
    metrics: CloudMetrics


async def _run(environment: Environment) -> None:
    job = environment.job()
    if job.training.deterministic:
        be_deterministic()
    groups = [group.name for group in job.groups]
    told = series.of(Owner.CLOUD, mode=job.mode, per_device=job.per_device)
    metrics = CloudMetrics(job.job, groups=groups, told=told)
    front = Front(metrics.registry)
    async with httpx2.AsyncClient(transport=TrustingTransport(environment.planner_trust())) as http:
        planner = PlannerClient(job, environment.token_file, client=http)
        store = Store(environment.data_dir, job.uid, keep=job.checkpoint.keep)
        journal = Journal(store, metrics, job.checkpoint.every_rounds)
        pod = Pod(job, environment, planner, journal, metrics)
        at = Address(
            environment.host,
            environment.port,
            len(job.clients()) + len(job.edge_urls),
            certificate=certificate_of(
                job.cloud_url, environment.ca_file, ask=_ask(planner), told=metrics.certified
            ),
        )
        with closing(ProbeServer(environment.host, environment.metrics_port, told=front)):
            async with _keys(pod) as keys:
                await serve(front, at, work=_work(pod, front, keys=keys))


def _ask(planner: PlannerClient) -> Ask:
    """How the cloud pod gets its certificate."""

    async def ask(csr: str) -> Certificate:
        return await planner.certificate(CertificateRequest(server=CLOUD_SERVER, csr=csr))

    return ask


@asynccontextmanager
async def _keys(pod: Pod) -> AsyncIterator[SigningKeys | None]:
    """The keys of tokens, kept fresh meanwhile; None: nobody has to prove who he is."""
    if not pod.job.identity:
        yield None
        return
    keys = SigningKeys()
    keeping = asyncio.create_task(keys.keep(pod.planner.keys))
    try:
        yield keys
    finally:
        keeping.cancel()


async def _work(pod: Pod, front: Front, *, keys: SigningKeys | None) -> None:
    """Loads the job and runs it; when cancelled, the last finished round is written down."""
    try:
        job = Job(await asyncio.to_thread(_parts, pod))
    except JobFailed as error:
        front.failed = True
        await _tell(pod, error)
        return
    front.open(routes_of(job, pod.job, planner=pod.planner, keys=keys))
    try:
        await job.run()
    finally:
        await job.stop()


def routes_of(
    job: Job, settings: JobSettings, *, planner: PlannerClient, keys: SigningKeys | None
) -> App:
    """What a cloud pod serves; without keys to whoever comes."""

    def of(role: Role) -> Identity:
        return ANYBODY if keys is None else PodTokens(settings, role, keys=keys)

    routes = BulkRoutes(job.reception, identity=of(Role.DEVICE))
    if job.tiers is None:
        return routes
    return EdgeRoutes(job.tiers, routes, identity=of(Role.EDGE), certify=planner.certificate)


async def _tell(pod: Pod, error: JobFailed) -> None:
    """A job that cannot begin: its outcome is the error."""
    outcome = Outcome(result="Failed", message=str(error))
    _log.error("job cannot begin", error=str(error))
    pod.journal.end(outcome)
    await pod.planner.tell_outcome(outcome)


def _parts(pod: Pod) -> Parts:
    """Everything that a job needs; errors in the settings show here."""
    job = pod.job
    loaded = load_and_try(job, pod.environment.datasets)
    constants = pod.journal.constants(loaded.module)
    split = SplitServer(job, loaded, constants=constants) if job.mode is Mode.SPLIT else None
    return Parts(
        job=job,
        strategy=strategy_of(job),
        module=loaded.module,
        examples=loaded.examples,
        test=loaded.dataset.test,
        planner=pod.planner,
        journal=pod.journal,
        metrics=pod.metrics,
        constants=constants,
        noise=noise_of(job),
        safeguards=safeguards_of(job, loaded.reached, classes=loaded.dataset.classes),
        split=split,
    )
