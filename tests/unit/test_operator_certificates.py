"""CAs of jobs and of the planner, and what they sign: checked by OpenSSL, as clients do."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from lockstep_operator.core.certificates import Authority, Issuer, issuer_of, public_key_of
from lockstep_operator.errors import UnfitRequest
from lockstep_serving.tls import request_of
from tests.support.certificates import HOST, HOSTS, SEED, certified, job_ca, shaken, trusting
from tests.support.organisation import root_of

EDGE = "digits-edge-e-0.digits-edges.lab.svc"
OTHER_SEED = bytes(32)
RSA_512 = """-----BEGIN CERTIFICATE REQUEST-----
MIG5MGUCAQAwADBcMA0GCSqGSIb3DQEBAQUAA0sAMEgCQQCiEFjJvI8JFVjfWitI
kOKsWON5gH68CHzzv/ebzkSuCNQqd4vP3xEjzmjIeM8yuVBaLuWsD9fC2bT18LEc
OH45AgMBAAGgADANBgkqhkiG9w0BAQsFAANBAGfuzyRBHTVhDxzRnBASsVPp3dde
N1/WOoSYOMk6BOrTRJeGpusW4gO/Q/Pn3l3iYD0NtIh4OCPZ1mThujfb6kI=
-----END CERTIFICATE REQUEST-----
"""
ANY_KEY = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def csr(key: ANY_KEY) -> x509.CertificateSigningRequest:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(
        key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    )


def armoured(request: x509.CertificateSigningRequest) -> str:
    return request.public_bytes(Encoding.PEM).decode()


@pytest.fixture(params=["ec", "rsa"])
def issuer(request: pytest.FixtureRequest) -> tuple[str, Issuer]:
    key = (
        ec.generate_private_key(ec.SECP384R1())
        if request.param == "ec"
        else rsa.generate_private_key(65537, 2048)
    )
    root = root_of(key)
    return root.decode(), issuer_of(root, key)


def test_two_operators_of_one_seed_have_equal_certificates() -> None:
    one, other = Authority(SEED), Authority(bytes(SEED))
    assert one.of_job("uid-1", HOSTS).pem == other.of_job("uid-1", HOSTS).pem
    assert one.of_planner("planner.ops.svc").pem == other.of_planner("planner.ops.svc").pem


def test_cas_of_two_jobs_of_the_planner_and_of_two_seeds_have_different_keys() -> None:
    cas = [job_ca("uid-1"), job_ca("uid-2"), job_ca("uid-1", seed=OTHER_SEED)]
    cas.append(Authority(SEED).of_planner(HOST))
    keys = {ca.key.private_bytes_raw() for ca in cas}
    assert len(keys) == len({ca.pem for ca in cas}) == 4


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("host", [HOST, EDGE])
def test_a_server_is_taken_for_the_one_of_its_name(host: str, strict: bool) -> None:
    ca = job_ca()
    version, _ = shaken(certified(ca, host), trusting(ca.pem, strict=strict), host=host)
    assert version == "TLSv1.3"


@pytest.mark.parametrize("host", ["digits-cloud.other.svc", "planner.ops.svc", "localhost", EDGE])
def test_a_server_is_taken_for_no_other(host: str) -> None:
    ca = job_ca()
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shaken(certified(ca), trusting(ca.pem), host=host)


def test_another_jobs_ca_vouches_for_nobody() -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken(certified(job_ca("uid-2")), trusting(job_ca().pem))


def test_a_ca_vouches_for_no_host_outside_its_job() -> None:
    ca, stolen = job_ca(), "kubernetes.default.svc"
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        shaken(certified(ca, stolen), trusting(ca.pem), host=stolen)


@pytest.mark.parametrize(
    ("days", "why"), [(-2, "has expired"), (2, "not yet valid")], ids=["expired", "early"]
)
def test_a_certificate_counts_for_its_time_only(days: int, why: str) -> None:
    ca, now = job_ca(), datetime.now(UTC) + timedelta(days=days)
    with pytest.raises(ssl.SSLCertVerificationError, match=why):
        shaken(certified(ca, now=now), trusting(ca.pem))


def test_a_clock_that_is_some_minutes_late_takes_a_new_certificate() -> None:
    ca = job_ca()
    shaken(certified(ca, now=datetime.now(UTC) + timedelta(minutes=4)), trusting(ca.pem))


def test_the_chain_says_when_it_ends() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    key = public_key_of(request_of(ec.generate_private_key(ec.SECP256R1())))
    made = job_ca().sign(key, hosts=(HOST,), now=now, life_s=86400, serial=7)
    leaf, ca = x509.load_pem_x509_certificates(made.chain.encode())
    assert made.not_after == leaf.not_valid_after_utc.timestamp() == now.timestamp() + 86400
    assert (leaf.serial_number, ca) == (7, job_ca().certificate)


def test_a_planner_is_found_by_its_host_its_address_and_as_localhost() -> None:
    for host in ("planner.ops.svc", "10.1.2.3"):
        ca = Authority(SEED).of_planner(host)
        for name in (host, "localhost"):
            shaken(certified(ca, name), trusting(ca.pem), host=name)


def test_with_the_organisations_ca_both_who_trust_it_and_who_trust_the_job_are_content(
    issuer: tuple[str, Issuer],
) -> None:
    root, signer = issuer
    server = certified(job_ca(), issuer=signer)
    shaken(server, trusting(root))
    shaken(server, trusting(job_ca().pem))
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken(server, trusting(job_ca("uid-2").pem))


def test_the_organisations_ca_vouches_for_no_host_outside_the_job(
    issuer: tuple[str, Issuer],
) -> None:
    root, signer = issuer
    stolen = "kubernetes.default.svc"
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        shaken(certified(job_ca(), stolen, issuer=signer), trusting(root), host=stolen)


def test_no_certificate_outlives_the_organisations_ca(issuer: tuple[str, Issuer]) -> None:
    root, signer = issuer
    _, der = shaken(certified(job_ca(), life_s=30 * 86400, issuer=signer), trusting(root))
    end = x509.load_der_x509_certificate(der).not_valid_after_utc
    assert end == signer.chain[0].not_valid_after_utc


@pytest.mark.parametrize(
    ("ca", "length", "why"), [(False, None, "not one of a CA"), (True, 0, "pathlen 0")]
)
def test_an_organisations_certificate_that_cannot_sign_cas_is_refused(
    ca: bool, length: int | None, why: str
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(ValueError, match=why):
        issuer_of(root_of(key, ca=ca, length=length), key)


def test_an_organisations_certificate_of_another_key_is_refused() -> None:
    mine, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    with pytest.raises(ValueError, match="the key is not the one"):
        issuer_of(root_of(mine), other)


@pytest.mark.parametrize("kind", ["p256", "ed25519"])
def test_what_a_server_asks_with_is_its_key_alone(kind: str) -> None:
    key: ANY_KEY = ec.generate_private_key(ec.SECP256R1())
    if kind == "ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    assert public_key_of(armoured(csr(key))) == key.public_key()


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 1024),
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
    ],
    ids=["rsa-1024", "rsa-2048", "p384", "secp256k1"],
)
def test_keys_of_other_kinds_are_refused(key: ANY_KEY) -> None:
    with pytest.raises(UnfitRequest, match="P-256 or Ed25519"):
        public_key_of(armoured(csr(key)))


def test_a_key_that_anybody_can_break_is_refused() -> None:
    with pytest.raises(UnfitRequest):
        public_key_of(RSA_512)


def test_a_request_that_the_keys_holder_did_not_sign_is_refused() -> None:
    signed = csr(ec.generate_private_key(ec.SECP256R1())).public_bytes(Encoding.DER)
    forged = x509.load_der_x509_csr(signed[:-1] + bytes([signed[-1] ^ 1]))
    with pytest.raises(UnfitRequest, match="not signed with its own key"):
        public_key_of(armoured(forged))


EMPTY = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"


@pytest.mark.parametrize("text", ["", "no request", EMPTY, "\ud800", "ä" * 100])
def test_what_is_no_request_is_refused(text: str) -> None:
    with pytest.raises(UnfitRequest, match="no PKCS#10 request"):
        public_key_of(text)


def test_keys_and_seeds_are_in_no_text_about_them() -> None:
    authority = Authority(SEED)
    assert "seed" not in repr(authority)
    assert "key=" not in repr(authority.of_job("uid-1", HOSTS))
