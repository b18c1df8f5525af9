"""What strangers' bytes reach before anybody knows who they are, as fuzz targets.

`targets` has them beside its own.
"""

from contextlib import suppress
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from lockstep_api.identity import PublishedKeys
from lockstep_api.names import Role
from lockstep_api.settings import JobSettings
from lockstep_operator.core.certificates import public_key_of
from lockstep_operator.errors import UnfitRequest
from lockstep_serving.probes import HEAD_BYTES, read_head
from lockstep_serving.tls import request_of
from lockstep_workers.cloud.pod_tokens import PodTokens
from lockstep_workers.cloud.signing_keys import SigningKeys
from lockstep_workers.errors import NotYou
from tests.support.tokens import NOW_S, Signer, claims_of, ec_key
from tests.wire.jobs import settings

CLIENT = "d-0"


@cache
def _job() -> JobSettings:
    return settings(cloud_port=1, planner_port=1)


@cache
def _signer() -> Signer:
    return Signer(key=ec_key("first"))


def pod_token(data: bytes) -> None:
    """A token that somebody shows: it is that of the client's pod, or refused in words."""
    keys = SigningKeys()
    keys.know(_signer().published())
    tokens = PodTokens(_job(), Role.DEVICE, keys=keys, now=lambda: NOW_S, clock=lambda: 0.0)
    scope = {"headers": [(b"authorization", b"Bearer " + data)], "client": ("10.0.0.1", 1)}
    with suppress(NotYou):
        pod = tokens.verify(scope, client=CLIENT)
        assert pod.uid == "pod-1", "the only one that was signed"


def whole_token() -> bytes:
    """A token that is in order."""
    return _signer().token(claims_of(_job(), CLIENT, now_s=NOW_S)).encode()


def certificate_request(data: bytes) -> None:
    """A request for a server's certificate: its key, or refused in words."""
    with suppress(UnfitRequest):
        public_key_of(data.decode("latin-1"))


def whole_request() -> bytes:
    """A request that is in order."""
    return request_of(ec.generate_private_key(ec.SECP256R1())).encode()


def published_keys(data: bytes) -> None:
    """The keys that the planner tells; those that cannot check a token are left out."""
    keys = SigningKeys()
    try:
        keys.know(PublishedKeys.model_validate_json(data))
    except ValidationError:
        assert keys.issuer is None


def whole_keys() -> bytes:
    """Keys that are in order."""
    return _signer().published().to_json().encode()


def probe_head(data: bytes) -> None:
    """The head of a request at the port of probes: a path, or no request."""
    found = read_head(data[:HEAD_BYTES])
    if found is not None:
        assert b" " not in found[0]
