"""How the planner is served: what its connections may take, and the certificate that they see.

`app` runs it beside Kopf, in the same loop. Invariant: there is a certificate before anybody is
listened to, and no request keeps the process from ending.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime

import uvicorn
from fastapi import FastAPI

from lockstep_operator.authority import IssuerFiles, Signing, awaited_authority
from lockstep_operator.config import OperatorConfig, tls_host
from lockstep_operator.kube import Kube
from lockstep_operator.metrics import Metrics
from lockstep_operator.probes import Starting, starting_probes
from lockstep_serving.bounded import BodyLimit, Limits, bounded
from lockstep_serving.securing import secured
from lockstep_serving.server import HostedServer, alongside
from lockstep_serving.tls import Kept

MAX_BODY_BYTES = 64 << 20
"""A plan request of 10,000 clients has about 12 MB."""
MAX_CONNECTIONS = 4000
"""One a running job, and those that come and go."""
GRACE_S = 2
"""Seconds for requests under way when the process ends."""


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


def certificate_of(config: OperatorConfig, signing: Signing | None) -> Kept | None:
    """The planner's; None: it speaks plain HTTP."""
    host = tls_host(config.planner_at())
    return None if signing is None or host is None else signing.kept_for_planner(host)


def planner_server(
    app: FastAPI, at: tuple[str, int], *, certificate: Kept | None = None
) -> HostedServer:
    """The planner's server; no request keeps it from ending."""
    host, port = at
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


async def serve(server: HostedServer, certificate: Kept | None) -> None:
    """Serve until the server is to end, with a certificate that is renewed meanwhile.

    uvicorn ends the process itself when its port is taken; here that is an error as any.
    """
    async with _certified(certificate, server):
        try:
            await server.serve()
        except SystemExit as error:
            address = f"{server.config.host}:{server.config.port}"
            raise RuntimeError(f"the planner could not listen on {address}") from error


@asynccontextmanager
async def _certified(certificate: Kept | None, server: HostedServer) -> AsyncIterator[None]:
    """Inside there is a certificate, which is kept; should that fail, the server ends."""
    if certificate is None:
        yield
        return
    await certificate.obtain()
    async with alongside(server, certificate.run()):
        yield
