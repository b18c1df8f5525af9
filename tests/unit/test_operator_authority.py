"""The seed in its Secret, the organisation's CA in its files, and what is signed with them."""

import asyncio
import base64
import logging
import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from prometheus_client import CollectorRegistry

from lockstep_api.certificates import CertificateRequest
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FederatedJobStatus
from lockstep_operator import authority as authority_module
from lockstep_operator.authority import IssuerFiles, Signing, awaited_authority, kept_authority
from lockstep_operator.core.certificates import Authority
from lockstep_operator.core.model import JobKey, JobView, ObjectRef
from lockstep_operator.errors import (
    BadAuthority,
    Conflict,
    KubeError,
    NotFound,
    TooManyCalls,
    Unavailable,
    UnfitRequest,
)
from lockstep_operator.metrics import Metrics
from lockstep_serving.pace import Buckets, Rate
from lockstep_serving.tls import NoCertificate, request_of
from tests.support.certificates import HOST, SEED, job_ca
from tests.support.kube import FakeKube, failing
from tests.support.organisation import root_of, written
from tests.support.patience import PATIENCE_S

UNTIL = "lockstep_planner_certificate_expiration_timestamp_seconds"
SECRET = ObjectRef("v1", "Secret", "ops", "lockstep-authority")
SPEC = FederatedJobSpec.model_validate({
    "model": {"name": "mlp"},
    "data": {"name": "fashion-mnist"},
    "training": {"rounds": 1},
    "mode": "hierarchical",
    "edges": [{"name": "e", "replicas": 2}],
    "devices": [{"name": "d", "cpuAtMax": "1"}],
})  # fmt: skip
JOB = JobView(JobKey("lab", "digits"), "uid-1", 1, SPEC, None, FederatedJobStatus(), 0.0)


def signing() -> Signing:
    metrics = Metrics(CollectorRegistry())
    return Signing(Authority(SEED), metrics, lambda: datetime.now(UTC), time.monotonic)


def asking(server: str = "cloud") -> CertificateRequest:
    return CertificateRequest(
        server=server, csr=request_of(ec.generate_private_key(ec.SECP256R1()))
    )


def names_in(chain: str) -> list[str]:
    leaf = x509.load_pem_x509_certificates(chain.encode())[0]
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [name.value for name in found]


async def test_the_seed_is_made_once_and_read_by_all_who_come_later() -> None:
    kube = FakeKube()
    first = await kept_authority(kube, "ops")
    again = await kept_authority(kube, "ops")
    assert first == again
    assert kube.writes == [("create", "Secret/lockstep-authority")]
    assert len(base64.b64decode(kube.objects[SECRET]["data"]["seed"])) == 32


async def test_of_two_operators_that_make_one_both_have_the_same() -> None:
    """The other's comes between the look and the write."""
    kube, others = FakeKube(), FakeKube()
    theirs = await kept_authority(others, "ops")

    def meanwhile(verb: str, name: str) -> None:
        if verb == "create":
            kube.put(others.objects[SECRET])

    kube.fail = meanwhile
    assert await kept_authority(kube, "ops") == theirs


async def test_a_deleted_seed_is_another_one_afterwards() -> None:
    kube = FakeKube()
    before = await kept_authority(kube, "ops")
    del kube.objects[SECRET]
    assert await kept_authority(kube, "ops") != before


@pytest.mark.parametrize("data", [None, {}, {"seed": "AAAA"}, {"seed": "not base64"}])
async def test_a_secret_without_a_seed_is_not_written_over(data: dict[str, str] | None) -> None:
    kube = FakeKube()
    await kept_authority(kube, "ops")
    kube.put({**kube.objects[SECRET], "data": data})
    with pytest.raises(BadAuthority, match="Secret ops/lockstep-authority has no seed of 32 bytes"):
        await kept_authority(kube, "ops")
    assert [verb for verb, _ in kube.writes] == ["create"]


async def test_an_apiserver_that_refuses_is_told_and_nothing_is_made_up() -> None:
    kube = FakeKube(fail=failing("create", Conflict("exists"), "lockstep-authority"))
    with pytest.raises(NotFound):
        await kept_authority(kube, "ops")


async def test_a_seed_that_cannot_be_read_yet_is_waited_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authority_module, "backoff_s", lambda failures, jitter: 0.0)
    kube, tries = FakeKube(), 0

    def away(verb: str, name: str) -> KubeError | None:
        nonlocal tries
        tries += 1
        return Unavailable("the apiserver is away") if tries < 4 else None

    kube.fail = away
    assert await awaited_authority(kube, "ops", stop=asyncio.Event()) is not None
    assert (
        caplog.messages[:3]
        == ["the seed of certificates is not read yet: the apiserver is away"] * 3
    )


async def test_a_process_that_ends_waits_no_longer() -> None:
    stop, asked = asyncio.Event(), asyncio.Event()

    def away(verb: str, name: str) -> KubeError:
        asked.set()
        return Unavailable("the apiserver is away")

    waiting = asyncio.create_task(awaited_authority(FakeKube(fail=away), "ops", stop=stop))
    await asked.wait()
    stop.set()
    assert await asyncio.wait_for(waiting, PATIENCE_S) is None


async def test_the_seed_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    kube = FakeKube()
    made = await kept_authority(kube, "ops")
    assert [one.message for one in caplog.records] == [
        "made Secret ops/lockstep-authority: the seed of all certificates"
    ]
    assert kube.objects[SECRET]["data"]["seed"] not in caplog.text
    assert repr(made) == "Authority()"


@pytest.mark.parametrize(
    ("server", "host"), [("cloud", HOST), ("e-1", "digits-edge-e-1.digits-edges.lab.svc")]
)
def test_a_server_gets_a_certificate_for_its_own_host_alone(server: str, host: str) -> None:
    made = signing().for_server(JOB, SPEC, asked=asking(server))
    assert names_in(made.chain) == [host]


def test_what_a_request_says_of_names_counts_for_nothing() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    wanted = x509.SubjectAlternativeName([x509.DNSName("kubernetes.default.svc")])
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")]))
        .add_extension(wanted, critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    csr = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    made = signing().for_server(JOB, SPEC, asked=CertificateRequest(server="cloud", csr=csr))
    leaf = x509.load_pem_x509_certificates(made.chain.encode())[0]
    assert (leaf.public_key(), names_in(made.chain)) == (key.public_key(), [HOST])
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert "root" not in leaf.subject.rfc4514_string()


@pytest.mark.parametrize("server", ["e-2", "d-0", "planner"])
def test_who_is_no_server_of_the_job_gets_none(server: str) -> None:
    with pytest.raises(UnfitRequest, match="neither cloud nor an edge of the job"):
        signing().for_server(JOB, SPEC, asked=asking(server))


def test_a_job_that_asks_without_end_waits_and_others_do_not() -> None:
    paced = Buckets(Rate(burst=2, per_s=1))
    one = replace(signing(), paced=paced, monotonic=lambda: 7.0)
    for _ in range(2):
        one.for_server(JOB, SPEC, asked=asking())
    with pytest.raises(TooManyCalls):
        one.for_server(JOB, SPEC, asked=asking())
    one.for_server(replace(JOB, uid="uid-2"), SPEC, asked=asking())
    replace(one, monotonic=lambda: 8.0).for_server(JOB, SPEC, asked=asking())


def test_all_edges_of_the_largest_job_get_theirs_at_once() -> None:
    assert authority_module.CERTIFICATES_OF_A_JOB.burst >= 1000 + 1


def test_the_planner_has_the_host_of_its_url_and_localhost() -> None:
    csr = asking().csr
    assert names_in(signing().for_planner("planner.ops.svc", csr=csr).chain) == [
        "planner.ops.svc",
        "localhost",
    ]


def test_certificates_are_counted_by_server() -> None:
    one = signing()
    for server in ("cloud", "e-0", "e-1"):
        one.for_server(JOB, SPEC, asked=asking(server))
    one.for_planner("planner.ops.svc", csr=asking().csr)
    told = one.metrics.registry.get_sample_value
    assert [
        told("lockstep_certificates_total", {"server": server})
        for server in ("cloud", "edge", "planner")
    ] == [1, 2, 1]


def issuers(folder: Path) -> tuple[Signing, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    root = root_of(key)
    written(folder, key, root)
    return replace(signing(), issuer=IssuerFiles(folder)), root


def above(one: Signing) -> list[x509.Certificate]:
    made = one.for_server(JOB, SPEC, asked=asking())
    return x509.load_pem_x509_certificates(made.chain.encode())[1:]


def test_the_organisations_ca_stands_above_the_jobs(tmp_path: Path) -> None:
    one, root = issuers(tmp_path)
    ca, top = above(one)
    assert top.public_bytes(Encoding.PEM) == root
    assert ca.public_key() == job_ca().certificate.public_key()
    assert (ca.subject, ca.issuer) == (job_ca().certificate.subject, top.subject)


async def test_when_it_has_ended_the_planner_goes_on_with_the_one_that_it_has(
    tmp_path: Path,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    written(tmp_path, key, root_of(key))
    now = datetime.now(UTC)
    made = replace(signing(), issuer=IssuerFiles(tmp_path), clock=lambda: now)
    kept = made.kept_for_planner("planner.ops.svc")
    await kept.renew()
    until = made.metrics.registry.get_sample_value(UNTIL)
    now += timedelta(days=2)
    with pytest.raises(NoCertificate, match="the organisation's CA has ended"):
        await kept.renew()
    assert made.metrics.registry.get_sample_value(UNTIL) == until


def test_a_new_one_counts_from_the_next_certificate(tmp_path: Path) -> None:
    one, before = issuers(tmp_path)
    assert above(one)[-1].public_bytes(Encoding.PEM) == before
    key = ec.generate_private_key(ec.SECP256R1())
    written(tmp_path, key, after := root_of(key))
    os.utime(tmp_path / "tls.key", ns=(1, 1))
    assert above(one)[-1].public_bytes(Encoding.PEM) == after


@pytest.mark.parametrize("spoil", ["cut", "gone", "other"])
def test_one_that_cannot_be_used_leaves_the_one_before(
    tmp_path: Path, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    one, before = issuers(tmp_path)
    above(one)
    if spoil == "cut":
        (tmp_path / "tls.key").write_bytes(b"-----BEGIN")
        os.utime(tmp_path / "tls.key", ns=(1, 1))
    elif spoil == "gone":
        (tmp_path / "tls.crt").unlink()
    else:
        (tmp_path / "tls.crt").write_bytes(root_of(ec.generate_private_key(ec.SECP256R1())))
        os.utime(tmp_path / "tls.crt", ns=(1, 1))
    assert above(one)[-1].public_bytes(Encoding.PEM) == before
    assert "the CA before is used on: the organisation's CA" in caplog.text


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "No such file"),
        ({"tls.crt": b"", "tls.key": b""}, "cannot be used"),
    ],
)
def test_without_a_first_one_it_is_said_what_is_wrong(
    tmp_path: Path, files: dict[str, bytes], why: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadAuthority, match=why):
        IssuerFiles(tmp_path).current()
