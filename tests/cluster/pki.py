"""Certificates, keys and kubeconfigs of a cluster; `lifecycle` writes them before anything starts.

One throw-away CA signs everything. Keys stay in the state folder, readable by root only.
"""

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.cluster.layout import Layout

_VALID = timedelta(days=3650)
_CLIENTS = {
    "admin": ("admin", "system:masters"),
    "kubelet-client": ("kube-apiserver-kubelet-client", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", None),
    "kube-scheduler": ("system:kube-scheduler", None),
    "kube-proxy": ("system:kube-proxy", None),
    "coredns": ("system:coredns", None),
    "local-provisioner": ("system:local-provisioner", None),
}


@dataclass(frozen=True, slots=True)
class Authority:
    folder: Path
    server: str
    """The URL of the API server, for the kubeconfigs."""
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def issue_client(self, name: str, common_name: str, organization: str | None = None) -> None:
        """Write NAME.crt, NAME.key and NAME.kubeconfig for a client of the API."""
        builder = self._builder(
            _subject(common_name, organization), ExtendedKeyUsageOID.CLIENT_AUTH
        )
        self._write(name, builder)
        self._write_kubeconfig(name)

    def issue_server(self, name: str, common_name: str, hosts: list[str | IPv4Address]) -> None:
        """Write NAME.crt and NAME.key for a server that answers at `hosts`."""
        alternatives = x509.SubjectAlternativeName(
            [
                x509.DNSName(host) if isinstance(host, str) else x509.IPAddress(host)
                for host in hosts
            ]
        )
        builder = self._builder(_subject(common_name), ExtendedKeyUsageOID.SERVER_AUTH)
        self._write(name, builder.add_extension(alternatives, critical=False))

    def _builder(self, subject: x509.Name, usage: x509.ObjectIdentifier) -> x509.CertificateBuilder:
        extension = x509.ExtendedKeyUsage([usage])
        builder = _unsigned(subject, self.certificate.subject)
        return builder.add_extension(extension, critical=False)

    def _write(self, name: str, builder: x509.CertificateBuilder) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        subject = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        signed = (
            builder.public_key(key.public_key())
            .add_extension(issuer, critical=False)
            .add_extension(subject, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        _write_key(self.folder / f"{name}.key", key)
        (self.folder / f"{name}.crt").write_bytes(signed.public_bytes(Encoding.PEM))

    def _write_kubeconfig(self, name: str) -> None:
        def encoded(file: str) -> str:
            return base64.b64encode((self.folder / file).read_bytes()).decode()

        cluster = {"server": self.server, "certificate-authority-data": encoded("ca.crt")}
        user = {
            "client-certificate-data": encoded(f"{name}.crt"),
            "client-key-data": encoded(f"{name}.key"),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lockstep",
            "contexts": [{"name": "lockstep", "context": {"cluster": "lockstep", "user": name}}],
            "clusters": [{"name": "lockstep", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
        }
        path = self.folder / f"{name}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))


def write_pki(layout: Layout) -> None:
    folder = layout.state / "pki"
    folder.mkdir(mode=0o700)
    authority = _create_authority(folder, f"https://{layout.api_address}:6443")
    _write_service_account_key(folder)
    authority.issue_server("kube-apiserver", "kube-apiserver", _api_hosts(layout))
    for name, (common_name, organization) in _CLIENTS.items():
        authority.issue_client(name, common_name, organization)
    for node in layout.nodes:
        identity = f"system:node:{node.name}"
        authority.issue_client(f"kubelet-{node.name}", identity, "system:nodes")
        authority.issue_server(f"server-{node.name}", identity, [node.name, layout.address(node)])


def _api_hosts(layout: Layout) -> list[str | IPv4Address]:
    service = ["kubernetes", "default", "svc", "cluster", "local"]
    names = [".".join(service[:length]) for length in (1, 2, 3, 5)]
    return [*names, layout.api_service_address, layout.api_address]


def _create_authority(folder: Path, server: str) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject("lockstep-test-ca")
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _unsigned(subject, subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_key(folder / "ca.key", key)
    (folder / "ca.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    return Authority(folder, server, key, certificate)


def _write_service_account_key(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    _write_key(folder / "service-account.key", key)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "service-account.pub").write_bytes(public)


def _subject(common_name: str, organization: str | None = None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization is not None:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _unsigned(subject: x509.Name, issuer: x509.Name) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks that differ a little
        .not_valid_after(now + _VALID)
    )


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
