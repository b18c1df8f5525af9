"""Certificates of a job's pods: who gets one, when a pod listens, and what comes of a new CA."""

import asyncio
import json
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from lockstep_api import names
from lockstep_api.certificates import Certificate, CertificateRequest
from lockstep_api.tiers import EdgeRegistration
from lockstep_serving.tls import Kept, NoCertificate, request_of
from lockstep_workers.edge.upward import Session
from lockstep_workers.hosting.certificates import PodCertificate, certificate_of
from lockstep_workers.hosting.front import Address, Front, serve
from tests.support.certificates import local_ca, trusting
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.wire.channels import LOOPBACK, Channel
from tests.wire.cloud import Cloud, cloud
from tests.wire.jobs import FakePlanner
from tests.wire.signing import Signer

EDGES = {"e-0": "http://127.0.0.1:1"}


def a_request() -> str:
    return request_of(ec.generate_private_key(ec.SECP256R1()))


# -- an edge asks the cloud pod --------------------------------------------------------------------


@asynccontextmanager
async def edge_session(server: Cloud, *, of: str = "e-0") -> AsyncIterator[Session]:
    """What an edge asks for within its session."""
    async with (
        httpx2.AsyncClient(timeout=PATIENCE_S) as http,
        http.stream(
            "POST",
            server.url + names.EDGE_SESSION_ROUTE.format(edge=of),
            content=EdgeRegistration(edge=of, incarnation="1").to_json(),
            headers={names.PROTOCOL_HEADER: names.PROTOCOL},
        ) as response,
    ):
        lines = response.aiter_lines()  # the session ends with it
        key = json.loads(await anext(lines))["key"]
        yield Session(server.url, of, key=key, client=http)


async def test_an_edge_gets_a_certificate_for_its_key_and_for_itself(tmp_path: Path) -> None:
    planner = FakePlanner()
    async with (
        cloud(tmp_path, planner, edge_urls=EDGES) as server,
        edge_session(server) as session,
    ):
        csr = a_request()
        made = await session.certificate(csr)
        leaf = x509.load_pem_x509_certificate(made.chain.encode())
        assert leaf.public_key() == x509.load_pem_x509_csr(csr.encode()).public_key()
        path = server.url + names.EDGE_CERTIFICATE_ROUTE.format(edge="e-0")
        asked = CertificateRequest(server="cloud", csr=csr).to_json()
        async with httpx2.AsyncClient() as http:
            answer = await http.post(path, content=asked, headers=session._headers)
        assert answer.status_code == 200
        assert planner.signer.asked == ["e-0", "e-0"], "whatever the request says"


async def test_nobody_but_an_edge_in_its_session_gets_one(tmp_path: Path) -> None:
    planner = FakePlanner()
    edges = {**EDGES, "e-1": "http://127.0.0.1:2"}
    async with (
        cloud(tmp_path, planner, edge_urls=edges) as server,
        edge_session(server) as session,
        httpx2.AsyncClient() as http,
    ):
        asked = CertificateRequest(server="e-0", csr=a_request()).to_json()
        for edge, headers in (
            ("e-0", {}),
            ("e-0", {names.SESSION_HEADER: "another"}),
            ("e-1", session._headers),
        ):
            path = server.url + names.EDGE_CERTIFICATE_ROUTE.format(edge=edge)
            answer = await http.post(path, content=asked, headers=headers)
            assert answer.status_code == 409
        assert planner.signer.asked == []


async def test_what_is_no_request_is_refused_and_the_planner_not_asked(tmp_path: Path) -> None:
    planner = FakePlanner()
    async with (
        cloud(tmp_path, planner, edge_urls=EDGES) as server,
        edge_session(server) as session,
        httpx2.AsyncClient() as http,
    ):
        path = server.url + names.EDGE_CERTIFICATE_ROUTE.format(edge="e-0")
        long = CertificateRequest.model_construct(server="e-0", csr="x" * 100_000).to_json()
        for body in ("", "{}", long):
            answer = await http.post(path, content=body, headers=session._headers)
            assert answer.status_code == 422
        assert planner.signer.asked == []


async def test_while_the_planner_is_away_an_edge_is_told_why_it_gets_none(tmp_path: Path) -> None:
    planner = FakePlanner(broken=True)
    async with (
        cloud(tmp_path, planner, edge_urls=EDGES) as server,
        edge_session(server) as session,
    ):
        with pytest.raises(NoCertificate, match=r"503.*the planner says 503"):
            await session.certificate(a_request())
        planner.broken = False
        await session.certificate(a_request())


# -- a pod that serves -----------------------------------------------------------------------------


class Counter:
    """Signs once it may, and says when it has signed so often."""

    def __init__(self) -> None:
        self.signer, self.may = Signer(), asyncio.Event()
        self._news = asyncio.Event()

    async def ask(self, csr: str) -> Certificate:
        await self.may.wait()
        made = self.signer.sign(CertificateRequest(server="cloud", csr=csr))
        self._news.set()
        return made

    async def signed(self, times: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.signer.asked) < times:
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def served(certificate: PodCertificate) -> AsyncIterator[tuple[Front, int]]:
    """A pod that serves in this process until it gets SIGTERM; its front and port."""
    front, port = Front(CollectorRegistry()), free_port()
    at = Address(LOOPBACK, port, 1, certificate=certificate)
    serving = asyncio.ensure_future(serve(front, at, work=asyncio.Event().wait()))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    try:
        yield front, port
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(serving, PATIENCE_S)


async def connected(port: int) -> int:
    """The number of the certificate of whoever listens there, once somebody does."""
    channel = Channel(None, trusting(local_ca().pem))
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(ConnectionRefusedError):
                _, writer = await channel.open(port)
                break
            await asyncio.sleep(0.01)  # a port gives no event
    seen: ssl.SSLObject = writer.get_extra_info("ssl_object")
    writer.close()
    return int((seen.getpeercert() or {})["serialNumber"], 16)  # type: ignore[arg-type]


async def test_a_pod_listens_and_is_ready_once_it_has_a_certificate(tmp_path: Path) -> None:
    planner, until = Counter(), list[float]()
    certificate = certificate_of(
        "https://x", tmp_path / "ca.pem", ask=planner.ask, told=until.append
    )
    assert certificate is not None
    async with served(certificate) as (front, port):
        front.open(front)
        assert front.unready() == "no certificate yet"
        with pytest.raises(ConnectionRefusedError):
            await Channel().open(port)
        planner.may.set()
        await connected(port)
        assert front.unready() is None
        assert len(until) == 1
        assert until[0] > time.time()


async def test_a_pod_that_waits_for_its_certificate_ends_when_it_is_told_to(
    tmp_path: Path,
) -> None:
    async with served(PodCertificate(Kept(Counter().ask), tmp_path / "ca.pem")) as (front, _):
        pass
    assert not front.listens


async def test_a_new_ca_beside_the_settings_brings_a_new_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever connects trusts that one, and the one before no more."""
    monkeypatch.setattr("lockstep_workers.hosting.certificates._LOOK_S", 0.01)
    planner, ca_file = Counter(), tmp_path / "ca.pem"
    planner.may.set()
    ca_file.write_text(local_ca("uid-2").pem)
    async with served(PodCertificate(Kept(planner.ask), ca_file)) as (_, port):
        before = await connected(port)
        ca_file.unlink()  # on its way to another one
        ca_file.write_text(local_ca().pem)
        await planner.signed(2)
        async with asyncio.timeout(PATIENCE_S):
            while await connected(port) == before:
                pass
    assert len(planner.signer.asked) == 2, "once for each"


def test_a_pod_whose_url_is_plain_needs_none(tmp_path: Path) -> None:
    async def ask(_csr: str) -> Certificate:
        raise AssertionError("nobody asks")

    assert certificate_of("http://x", tmp_path, ask=ask, told=print) is None
