"""CAs and certificates of jobs, and a handshake in memory: no socket, no clock but the test's."""

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from lockstep_operator.core.certificates import Authority, Ca, Issuer, public_key_of
from lockstep_serving.tls import load, request_of, server_context

SEED = bytes(range(32))
HOST = "digits-cloud.lab.svc"
HOSTS = (HOST, "digits-edges.lab.svc")
LIFE_S = 3600.0


def job_ca(uid: str = "uid-1", *, seed: bytes = SEED, hosts: Sequence[str] = HOSTS) -> Ca:
    """The CA of job lab/digits, or of another one."""
    return Authority(seed).of_job(uid, hosts)


def local_ca(uid: str = "uid-1") -> Ca:
    """The CA of a job whose servers are on loopback."""
    return job_ca(uid, hosts=("127.0.0.0/8",))


def certified(
    ca: Ca,
    host: str = HOST,
    *,
    now: datetime | None = None,
    life_s: float = LIFE_S,
    issuer: Issuer | None = None,
) -> ssl.SSLContext:
    """A server's context with a certificate for a host, signed now."""
    key, context = ec.generate_private_key(ec.SECP256R1()), server_context()
    made = ca.sign(
        public_key_of(request_of(key)),
        hosts=(host,),
        now=now or datetime.now(UTC),
        life_s=life_s,
        serial=x509.random_serial_number(),
        issuer=issuer,
    )
    load(context, made.chain, key=key)
    return context


def trusting(*pems: str, strict: bool = True) -> ssl.SSLContext:
    """A client's context that trusts these CAs, and checks as newer Pythons do by default."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata="".join(pems))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def shaken(
    server: ssl.SSLContext, client: ssl.SSLContext, *, host: str = HOST
) -> tuple[str | None, bytes]:
    """A handshake of the two: TLS's version and the server's certificate in DER.

    Raises:
        ssl.SSLError: one of them does not take the other.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asked = client.wrap_bio(to_client, to_server, server_hostname=host)
    served = server.wrap_bio(to_server, to_client, server_side=True)
    open_ends = {asked, served}
    while open_ends:
        for end in (asked, served):
            try:
                end.do_handshake()
                open_ends.discard(end)
            except ssl.SSLWantReadError:
                pass
    return asked.version(), asked.getpeercert(binary_form=True) or b""
