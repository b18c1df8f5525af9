"""A CA of an organisation's own, as cert-manager would keep it in a Secret."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_KEY_ID = x509.SubjectKeyIdentifier(b"not the hash of the key")
"""Others number their keys in other ways than we do."""


def root_of(key: Key, *, ca: bool = True, length: int | None = 1) -> bytes:
    """A root with this key, in PEM, good for a day."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Example Ltd root")])
    now, path_length = datetime.now(UTC), length if ca else None
    above = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(_KEY_ID)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        .add_extension(_KEY_ID, critical=False)
        .add_extension(above, critical=False)
        .add_extension(_USAGE, critical=True)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def written(folder: Path, key: Key, root: bytes) -> None:
    """As a Secret of type kubernetes.io/tls is mounted."""
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for name, content in (("tls.crt", root), ("tls.key", pem)):
        new = folder / f".{name}"
        new.write_bytes(content)
        new.replace(folder / name)


_USAGE = x509.KeyUsage(
    digital_signature=False, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
    encipher_only=False, decipher_only=False,
)  # fmt: skip
