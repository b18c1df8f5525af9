"""What strangers' bytes reach before anybody knows who they are, as fuzz targets."""

import base64
import json
from functools import cache

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError

from lockstep_api.identity import PublishedKeys
from lockstep_api.names import Role, client_pod
from lockstep_api.settings import JobSettings
from lockstep_operator.core.certificates import public_key_of
from lockstep_operator.errors import UnfitRequest
from lockstep_serving.probes import HEAD_BYTES, read_head
from lockstep_serving.tls import request_of
from lockstep_workers.cloud.pod_tokens import PodTokens
from lockstep_workers.cloud.signing_keys import SigningKeys
from lockstep_workers.errors import NotYou
from tests.fuzz.shaping import in_ways, way_of
from tests.fuzz.stages import Target
from tests.support.tokens import NOW_S, Signer, claims_of, ec_key
from tests.wire.jobs import settings

CLIENT = "d-0"


@cache
def _job() -> JobSettings:
    return settings(cloud_port=1, planner_port=1)


@cache
def _signer() -> Signer:
    return Signer(key=ec_key("first"))


@cache
def _keys() -> SigningKeys:
    keys = SigningKeys()
    keys.know(_signer().published())
    return keys


# -- tokens ----------------------------------------------------------------------------------------


def pod_token(data: bytes) -> None:
    """A token that somebody shows, or one that the apiserver has signed, whatever it says."""
    way, rest = way_of(data, 2)
    token = _signed(rest) if way else rest
    tokens = PodTokens(_job(), Role.DEVICE, keys=_keys(), now=lambda: NOW_S, clock=lambda: 0.0)
    scope = {"headers": [(b"authorization", b"Bearer " + token)], "client": ("10.0.0.1", 1)}
    pod = tokens.verify(scope, client=CLIENT)
    assert pod.pod == client_pod(_job().job, CLIENT)
    assert way or pod.uid == "pod-1", "the only one that was signed"


def _signed(text: bytes) -> bytes:
    """A token of a head and claims, which a line's end parts, with a signature that is right."""
    said = b".".join(_base64(part) for part in text.split(b"\n", 1))
    algorithm = jwt.get_algorithm_by_name(_signer().alg)
    return said + b"." + _base64(algorithm.sign(said, _signer().key))


def _base64(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


def _whole_tokens() -> tuple[bytes, ...]:
    claims = claims_of(_job(), CLIENT, now_s=NOW_S)
    head = {"alg": _signer().alg, "kid": _signer().kid, "typ": "JWT"}
    text = b"\n".join(json.dumps(part).encode() for part in (head, claims))
    return in_ways([_signer().token(claims).encode()], [text])


# -- certificates ----------------------------------------------------------------------------------


@cache
def _server_key() -> ec.EllipticCurvePrivateKey:
    return ec_key("server")


def certificate_request(data: bytes) -> None:
    """A request for a server's certificate: in PEM, in DER, or signed with a key of ours."""
    way, rest = way_of(data, 3)
    if way == 0:
        text = rest.decode("latin-1")
    else:
        der = rest if way == 1 else _signed_request(rest)
        text = f"-----BEGIN CERTIFICATE REQUEST-----\n{base64.b64encode(der).decode()}\n"
        text += "-----END CERTIFICATE REQUEST-----\n"
    public_key_of(text)


_ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")


def _signed_request(info: bytes) -> bytes:
    """A request that says this, with a signature that is right."""
    signature = b"\0" + _server_key().sign(info, ec.ECDSA(SHA256()))
    return _der(0x30, info + _ECDSA_SHA256 + _der(0x03, signature))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    width = (size.bit_length() + 7) // 8
    length = bytes((size,)) if size < 128 else bytes((0x80 | width,)) + size.to_bytes(width)
    return bytes((tag,)) + length + content


REQUEST = request_of(_server_key())
"""One that is in order."""


def _whole_requests() -> tuple[bytes, ...]:
    request = x509.load_pem_x509_csr(REQUEST.encode())
    der = request.public_bytes(Encoding.DER)
    return in_ways([REQUEST.encode()], [der], [request.tbs_certrequest_bytes])


def published_keys(data: bytes) -> str | None:
    """The keys that the planner tells; those that cannot check a token are left out."""
    keys = SigningKeys()
    keys.know(PublishedKeys.model_validate_json(data))
    return "no key is left" if keys.issuer is None else None


def probe_head(data: bytes) -> str | None:
    """The head of a request at the port of probes: a path, or no request."""
    found = read_head(data[:HEAD_BYTES])
    if found is None:
        return "no request"
    assert b" " not in found[0]
    return None


TARGETS = {
    "pod_token": Target(pod_token, _whole_tokens(), (NotYou,)),
    "certificate_request": Target(certificate_request, _whole_requests(), (UnfitRequest,)),
    "published_keys": Target(
        published_keys, (_signer().published().to_json().encode(),), (ValidationError,)
    ),
    "probe_head": Target(probe_head, (b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close",)),
}
