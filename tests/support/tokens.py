"""Keys of an apiserver and tokens of pods, as Kubernetes makes them; and what nobody should."""

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lockstep_api import names
from lockstep_api.identity import KeySet, PublicKey, PublishedKeys
from lockstep_api.names import Role
from lockstep_api.settings import JobSettings

ISSUER = "https://kubernetes.default.svc.cluster.local"
NOW_S = 1_800_000_000
"""What the clock says where a test has one of its own."""
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """A key of this name; made once in a process, since making one takes a while."""
    del name
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    """The same on the curve P-256."""
    del name
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Signer:
    """An apiserver's signer of tokens."""

    kid: str = "first"
    key: Key = field(default_factory=lambda: rsa_key("first"))
    issuer: str = ISSUER

    @property
    def alg(self) -> str:
        """How it signs."""
        return "RS256" if isinstance(self.key, rsa.RSAPrivateKey) else "ES256"

    def public(self) -> PublicKey:
        """Its key as a JWKS has it."""
        of = jwt.get_algorithm_by_name(self.alg)
        jwk: dict[str, Any] = json.loads(of.to_jwk(self.key.public_key()))
        jwk.pop("key_ops", None)
        return PublicKey.model_validate({**jwk, "kid": self.kid, "use": "sig", "alg": self.alg})

    def published(self, *others: "Signer") -> PublishedKeys:
        """What the planner tells of it, and of others beside it."""
        keys = tuple(one.public() for one in (self, *others))
        return PublishedKeys(issuer=self.issuer, jwks=KeySet(keys=keys))

    def token(self, claims: dict[str, Any], **head: Any) -> str:
        """A signed token."""
        return jwt.encode(claims, self.key, self.alg, headers={"kid": self.kid, **head})


def claims_of(
    job: JobSettings, client: str, *, now_s: float, role: Role = Role.DEVICE, uid: str = "pod-1",
    **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    """What the token of a client's pod says; `changes` are of its claims or of those of the pod."""
    pod_of = names.client_pod if role is Role.DEVICE else names.edge_pod
    of_pod = {
        "namespace": job.namespace,
        "node": {"name": "node-1", "uid": "node-uid"},
        "pod": {"name": pod_of(job.job, client), "uid": uid},
        "serviceaccount": {"name": names.service_account_name(job.job, role), "uid": "sa-uid"},
    }
    issued_s = int(changes.pop("issued_s", now_s))
    of_pod |= {key: changes.pop(key) for key in list(changes) if key in of_pod}
    claims = {
        "aud": [names.job_audience(job.uid)],
        "exp": issued_s + 600,
        "iat": issued_s,
        "iss": ISSUER,
        "jti": "00000000-0000-4000-8000-000000000000",
        "kubernetes.io": of_pod,
        "nbf": issued_s,
        "sub": f"system:serviceaccount:{job.namespace}:{of_pod['serviceaccount']}",
    }
    return claims | changes


def unsigned(claims: dict[str, Any], *, kid: str = "first") -> str:
    """A token of the algorithm `none`."""
    return f"{_coded({'alg': 'none', 'kid': kid, 'typ': 'JWT'})}.{_coded(claims)}."


def signed_with_what_is_public(signer: Signer, claims: dict[str, Any]) -> str:
    """A token of HS256 whose secret is the signer's public key, which anybody may know."""
    secret = signer.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text = f"{_coded({'alg': 'HS256', 'kid': signer.kid, 'typ': 'JWT'})}.{_coded(claims)}"
    return f"{text}.{_base64(hmac.digest(secret, text.encode(), hashlib.sha256))}"


def _coded(part: dict[str, Any]) -> str:
    return _base64(json.dumps(part).encode())


def _base64(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()
