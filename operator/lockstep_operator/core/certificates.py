"""The authority of an operator: a CA for each job and one for the planner, all from one seed.

`authority` keeps the seed and the organisation's CA, `children` shows jobs their CA, `authority`
signs for their servers. Invariant: keys and certificates of CAs follow from the seed alone, so that
every operator has the same, none is written anywhere, and a job's settings never change because of
them. What the organisation's CA signs is another certificate of the same key and name: it stands in
the chain that servers show, never in what clients of a job trust.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lockstep_api import names
from lockstep_api.certificates import Certificate
from lockstep_operator.errors import NotSigned, UnfitRequest

SEED_BYTES = 32
CERTIFICATE_S = 24 * 3600.0
"""How long a server's certificate lasts."""
_SKEW = timedelta(minutes=5)
"""By so much clocks of nodes may differ."""
_BEGIN, _END = datetime(2020, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""A CA ends with its job, or with the seed; this end is RFC 5280's for "none" (4.1.2.5)."""
_PLANNER = "planner"

ServerKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
IssuerKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Issuer:
    """A CA of the organisation, that signs those of jobs and of the planner."""

    chain: tuple[x509.Certificate, ...]
    """Its own certificate, then those above it."""
    key: IssuerKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ca:
    """The CA of a job's servers, or of the planner."""

    certificate: x509.Certificate
    """Self-signed: what clients trust."""
    key: ed25519.Ed25519PrivateKey = field(repr=False)

    @property
    def pem(self) -> str:
        return _pem(self.certificate)

    def sign(
        self,
        key: ServerKey,
        *,
        hosts: Sequence[str],
        now: datetime,
        life_s: float,
        serial: int,
        issuer: Issuer | None = None,
    ) -> Certificate:
        """A certificate for the server at these hosts, with the chain above it.

        Raises:
            NotSigned: what stands above has ended.
        """
        chain = self._above(issuer)
        ends = [one.not_valid_after_utc for one in chain]
        if min(ends) <= now:
            raise NotSigned(f"the organisation's CA has ended ({min(ends):%Y-%m-%d %H:%M} UTC)")
        not_after = min(now + timedelta(seconds=life_s), *ends).replace(microsecond=0)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(f"lockstep {names.shorten(hosts[0], 50)}"))  # no host's
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before((now - _SKEW).replace(microsecond=0))
            .not_valid_after(not_after)
            .add_extension(x509.SubjectAlternativeName([*map(_general, hosts)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(_authority_key(self.key.public_key()), critical=False)
        )
        leaf = builder.sign(self.key, None)
        text = "".join(map(_pem, (leaf, *chain)))
        return Certificate(chain=text, not_after=not_after.timestamp())

    def _above(self, issuer: Issuer | None) -> tuple[x509.Certificate, ...]:
        """What stands above a server's certificate: this CA, as the organisation's signed it."""
        if issuer is None:
            return (self.certificate,)
        signer = issuer.chain[0]
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.certificate.subject)
            .issuer_name(signer.subject)
            .public_key(self.key.public_key())
            .serial_number(self.certificate.serial_number)
            .not_valid_before(signer.not_valid_before_utc)
            .not_valid_after(signer.not_valid_after_utc)
        )
        for extension in self.certificate.extensions:
            if not isinstance(extension.value, x509.AuthorityKeyIdentifier):
                builder = builder.add_extension(extension.value, critical=extension.critical)
        builder = builder.add_extension(_authority_key_of(signer), critical=False)
        signed = builder.sign(issuer.key, _hash_for(issuer.key))
        return (signed, *issuer.chain)


@dataclass(frozen=True, slots=True)
class Authority:
    """All CAs of one seed."""

    seed: bytes = field(repr=False)

    def of_job(self, uid: str, hosts: Sequence[str]) -> Ca:
        """The CA of the job with this UID, good for servers at these hosts and below."""
        return self._ca(uid, name=f"lockstep job {uid}", hosts=hosts)

    def of_planner(self, host: str) -> Ca:
        """The CA of the planner, which answers at `host`."""
        return self._ca(_PLANNER, name="lockstep planner", hosts=planner_hosts(host))

    def _ca(self, info: str, *, name: str, hosts: Sequence[str]) -> Ca:
        derived = HKDF(hashes.SHA256(), 32, salt=None, info=info.encode()).derive(self.seed)
        key = ed25519.Ed25519PrivateKey.from_private_bytes(derived)
        public, subject = key.public_key(), _named(name)
        permitted = x509.NameConstraints([_constraint(host) for host in hosts], None)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(public)
            .serial_number(_serial_of(public))
            .not_valid_before(_BEGIN)
            .not_valid_after(_END)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(permitted, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(_authority_key(public), critical=False)
        )
        return Ca(builder.sign(key, None), key)


def planner_hosts(host: str) -> tuple[str, ...]:
    """Where the planner is reached: the host of its URL, and from the operator's own pod."""
    return host, "localhost"


def public_key_of(csr: str) -> ServerKey:
    """The key in a server's request for a certificate, whose holder signed it.

    Raises:
        UnfitRequest: it is no such request, or its key is of another kind.
    """
    try:
        request = x509.load_pem_x509_csr(csr.encode())
        key = request.public_key()
        if not isinstance(key, ed25519.Ed25519PublicKey) and not _is_p256(key):
            raise UnfitRequest("the request's key must be of EC P-256 or Ed25519")
        if not request.is_signature_valid:
            raise UnfitRequest("the request is not signed with its own key")
    except (ValueError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise UnfitRequest("csr: no PKCS#10 request in PEM") from error
    return key  # type: ignore[return-value]


def _is_p256(key: object) -> bool:
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)


def issuer_of(certificates: bytes, key: PrivateKeyTypes) -> Issuer:
    """A CA of the organisation, from its certificate with those above it in PEM.

    Raises:
        ValueError: they are no certificates, no CA, or the key is another's.
    """
    if not isinstance(key, IssuerKey):
        raise ValueError("the key must be RSA, EC or Ed25519")
    chain = tuple(x509.load_pem_x509_certificates(certificates))
    constraints = chain[0].extensions
    try:
        found = constraints.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound as error:
        raise ValueError("the certificate is not one of a CA (isCA: true)") from error
    if not found.ca:
        raise ValueError("the certificate is not one of a CA (isCA: true)")
    if found.path_length == 0:
        raise ValueError("the CA may sign servers only (pathlen 0), not the CAs of jobs")
    if _raw(chain[0].public_key()) != _raw(key.public_key()):
        raise ValueError("the key is not the one of the certificate")
    return Issuer(chain, key)


def _raw(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _hash_for(key: IssuerKey) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _constraint(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_network(host))
    except ValueError:
        return x509.DNSName(host)


def _authority_key(public: ed25519.Ed25519PublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(public)


def _authority_key_of(signer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """How the signer names its own key, which others than we do in other ways."""
    try:
        own = signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _usage(*, signs: bool) -> x509.KeyUsage:
    """Of a server, which signs handshakes; of a CA, which signs certificates."""
    return x509.KeyUsage(
        digital_signature=signs,
        key_cert_sign=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _serial_of(public: ed25519.Ed25519PublicKey) -> int:
    """A number of the key's own, of 127 bits."""
    digest = x509.SubjectKeyIdentifier.from_public_key(public).digest
    return int.from_bytes(digest[:16]) >> 1 | 1
