"""Who signs for the servers of a job whose processes are on loopback."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509

from lockstep_api.certificates import Certificate, CertificateRequest
from lockstep_api.settings import JobSettings
from lockstep_operator.core.certificates import Ca, public_key_of
from tests.support.certificates import LIFE_S, certified, local_ca
from tests.support.patience import PATIENCE_S
from tests.wire.channels import LOOPBACK, Channel


@dataclass
class Signer:
    """Signs for whichever server asks, and remembers who did."""

    ca: Ca = field(default_factory=local_ca)
    life_s: float = LIFE_S
    asked: list[str] = field(default_factory=list)

    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def sign(self, request: CertificateRequest) -> Certificate:
        """As the planner does."""
        self.asked.append(request.server)
        self._news.set()
        return self.ca.sign(
            public_key_of(request.csr),
            hosts=(LOOPBACK,),
            now=datetime.now(UTC),
            life_s=self.life_s,
            serial=x509.random_serial_number(),
        )

    async def renewed(self, servers: Collection[str]) -> None:
        """Returns when each of these servers has asked once more."""
        before = len(self.asked)
        async with asyncio.timeout(PATIENCE_S):
            while not set(servers) <= set(self.asked[before:]):
                self._news.clear()
                await self._news.wait()


def planner_ca() -> Ca:
    """The CA of the planner, another than a job's."""
    return local_ca("planner")


def planner_channel(job: JobSettings) -> Channel:
    """How the planner of such a job is spoken to."""
    if job.planner_url.startswith("http:"):
        return Channel()
    return Channel(certified(planner_ca(), LOOPBACK))


def with_tls(job: JobSettings) -> JobSettings:
    """The same job, of which all servers speak TLS, the planner too."""

    def https(url: str) -> str:
        return url.replace("http://", "https://")

    urls = {edge: https(url) for edge, url in job.edge_urls.items()}
    told = {"cloud_url": https(job.cloud_url), "planner_url": https(job.planner_url)}
    return job.model_copy(update={"edge_urls": urls, **told})
