"""The operator's authority: the seed in a Secret of its own namespace, and what is signed with it.

`app` makes it before anything is decided, `planner` asks it for the certificates of jobs' servers,
`app` for the planner's own. Invariants: nobody but the job's own cloud pod, whom the planner has
admitted, gets a certificate, and only for servers of that job; the seed is in that Secret and in
this process, and nowhere else.
"""

import asyncio
import base64
import binascii
import contextlib
import logging
import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from lockstep_api import names
from lockstep_api.certificates import Certificate, CertificateRequest
from lockstep_api.names import Role
from lockstep_api.spec import FederatedJobSpec
from lockstep_operator.core.backoff import backoff_s
from lockstep_operator.core.certificates import (
    CERTIFICATE_S,
    SEED_BYTES,
    Authority,
    Ca,
    Issuer,
    issuer_of,
    planner_hosts,
    public_key_of,
)
from lockstep_operator.core.model import JobView, Manifest, ObjectRef
from lockstep_operator.core.trust import job_hosts, server_host
from lockstep_operator.errors import (
    BadAuthority,
    Conflict,
    KubeError,
    NotFound,
    NotSigned,
    TooManyCalls,
)
from lockstep_operator.kube import SECRET, Kube
from lockstep_operator.metrics import Metrics
from lockstep_serving.pace import Buckets, Rate
from lockstep_serving.tls import Kept, NoCertificate

SECRET_NAME = "lockstep-authority"
SEED_KEY = "seed"
ISSUER_CERTIFICATE, ISSUER_KEY = "tls.crt", "tls.key"
"""Files of a Secret of type kubernetes.io/tls, as cert-manager writes it."""
CERTIFICATES_OF_A_JOB = Rate(burst=1100, per_s=5)
"""All edges of a job at once, and then some; signing costs a millisecond."""

logger = logging.getLogger(__name__)


async def kept_authority(
    kube: Kube, namespace: str, *, seed: Callable[[int], bytes] = secrets.token_bytes
) -> Authority:
    """The authority whose seed is kept in the namespace; a new one, if none is there.

    Raises:
        BadAuthority: what is kept is no seed.
        KubeError: it could not be read or made; of two that make one, one finds the other's.
    """
    ref = ObjectRef(*SECRET, namespace, SECRET_NAME)
    try:
        return _read(await kube.get(ref))
    except NotFound:
        pass
    try:
        made = _read(await kube.create(_secret(ref, seed(SEED_BYTES))))
    except Conflict:
        return _read(await kube.get(ref))
    logger.info("made Secret %s/%s: the seed of all certificates", namespace, SECRET_NAME)
    return made


async def awaited_authority(
    kube: Kube, namespace: str, *, stop: asyncio.Event, jitter: Callable[[], float] = random.random
) -> Authority | None:
    """The same, as soon as Kubernetes answers; None: the process ends before.

    Raises:
        BadAuthority: what is kept is no seed.
    """
    failures = 0
    while not stop.is_set():
        try:
            return await kept_authority(kube, namespace)
        except KubeError as error:
            failures += 1
            logger.warning("the seed of certificates is not read yet: %s", error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(backoff_s(failures, jitter())):
                await stop.wait()
    return None


def _secret(ref: ObjectRef, seed: bytes) -> Manifest:
    return {
        "apiVersion": ref.api_version,
        "kind": ref.kind,
        "metadata": {
            "name": ref.name,
            "namespace": ref.namespace,
            "labels": {
                "app.kubernetes.io/part-of": "lockstep",
                "app.kubernetes.io/managed-by": names.MANAGER,
            },
        },
        "type": "Opaque",
        "data": {SEED_KEY: base64.b64encode(seed).decode()},
    }


def _read(secret: Manifest) -> Authority:
    try:
        seed = base64.b64decode((secret.get("data") or {})[SEED_KEY], validate=True)
    except (KeyError, binascii.Error):
        seed = b""
    if len(seed) != SEED_BYTES:
        meta = secret["metadata"]
        raise BadAuthority(
            f"Secret {meta['namespace']}/{meta['name']} has no seed of {SEED_BYTES} bytes under"
            f" {SEED_KEY}: delete it, and start the operator again to have a new one made"
        )
    return Authority(seed)


@dataclass(slots=True)
class IssuerFiles:
    """A CA of the organisation in mounted files, read again when they change."""

    folder: Path
    _issuer: Issuer | None = None
    _seen: tuple[int, int] | None = None

    def current(self) -> Issuer:
        """What they say now, or what they said last that could be used.

        Raises:
            BadAuthority: they never said anything that could.
        """
        try:
            seen = self._state()
            if seen != self._seen:
                self._issuer, self._seen = self._load(), seen
        except BadAuthority as error:
            if self._issuer is None:
                raise
            logger.warning("the CA before is used on: %s", error)
        assert self._issuer is not None
        return self._issuer

    def _state(self) -> tuple[int, int]:
        try:
            certificate, key = (
                (self.folder / name).stat().st_mtime_ns for name in (ISSUER_CERTIFICATE, ISSUER_KEY)
            )
        except OSError as error:
            raise BadAuthority(f"the organisation's CA cannot be read: {error}") from error
        return certificate, key

    def _load(self) -> Issuer:
        try:
            key = load_pem_private_key((self.folder / ISSUER_KEY).read_bytes(), password=None)
            certificates = (self.folder / ISSUER_CERTIFICATE).read_bytes()
            return issuer_of(certificates, key)
        except (OSError, ValueError, TypeError) as error:
            message = f"the organisation's CA in {self.folder} cannot be used: {error}"
            raise BadAuthority(message) from error


@dataclass(frozen=True, slots=True)
class Signing:
    """Signs for servers of jobs and for the planner."""

    authority: Authority
    metrics: Metrics
    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    issuer: IssuerFiles | None = None
    """None: the CAs of jobs stand alone."""
    life_s: float = CERTIFICATE_S
    paced: Buckets = field(default_factory=lambda: Buckets(CERTIFICATES_OF_A_JOB))

    def for_server(
        self, job: JobView, spec: FederatedJobSpec, *, asked: CertificateRequest
    ) -> Certificate:
        """A certificate for a server of a job whose cloud pod asks.

        Raises:
            UnfitRequest: it is no server of the job, or no request with a key that we take.
            TooManyCalls: the job has had too many.
            NotSigned: there is nothing to sign with now.
        """
        host = server_host(job.key, spec, server=asked.server)
        if not self.paced.of(job.uid).take(self.monotonic()):
            raise TooManyCalls("the job asks for too many certificates: try again later")
        ca = self.authority.of_job(job.uid, job_hosts(job.key))
        role = Role.CLOUD if asked.server == names.CLOUD_SERVER else Role.EDGE
        return self._signed(ca, asked.csr, hosts=(host,), server=role)

    def for_planner(self, host: str, *, csr: str) -> Certificate:
        """A certificate for the planner, at the host of its URL."""
        hosts = planner_hosts(host)
        return self._signed(self.authority.of_planner(host), csr, hosts=hosts, server="planner")

    def kept_for_planner(self, host: str) -> Kept:
        """The planner's own certificate, renewed for as long as it runs."""

        async def ask(csr: str) -> Certificate:
            try:
                return self.for_planner(host, csr=csr)
            except NotSigned as error:
                raise NoCertificate(str(error)) from error

        told = self.metrics.planner_certified
        return Kept(ask, clock=lambda: self.clock().timestamp(), told=told)

    def _signed(self, ca: Ca, csr: str, *, hosts: Sequence[str], server: str) -> Certificate:
        made = ca.sign(
            public_key_of(csr),
            hosts=hosts,
            now=self.clock(),
            life_s=self.life_s,
            serial=x509.random_serial_number(),
            issuer=None if self.issuer is None else self.issuer.current(),
        )
        self.metrics.certificates.labels(server).inc()
        return made
