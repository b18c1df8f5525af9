"""The certificate of one server, kept fresh: the cloud pod, edges and the planner serve with it.

A server makes its key in its own memory, asks for a certificate by a request that is signed with
it (PKCS#10), and loads both into the context that it serves with: whoever connects afterwards sees
the new one, connections that are open go on. Invariant: no key ever lies on a disk, and a
certificate is replaced while a third of its life is left, by the clock of whoever checks it: when
that is set forward, or back to before the certificate was made, within a minute.
"""

import asyncio
import contextlib
import logging
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from lockstep_api.certificates import Certificate

RENEWED_AFTER = 2 / 3
"""Of a certificate's life."""
LOOK_S = 60.0
"""Between two looks at the clock: somebody may set it."""
SET_BACK_S = 60.0
"""By which a clock may go back before a certificate counts as made too late to be valid yet."""
RETRY_S = 10.0
"""Between two tries to get one; the first of them follow each other faster."""

logger = logging.getLogger(__name__)


class NoCertificate(Exception):
    """There is none for now; the message says why, for people."""


def server_context() -> ssl.SSLContext:
    """For a server that has no certificate yet: TLS 1.3 only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    return context


def request_of(key: ec.EllipticCurvePrivateKey) -> str:
    """A request for a certificate; whoever signs it decides what the certificate says."""
    empty = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return empty.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def load(context: ssl.SSLContext, chain: str, *, key: ec.EllipticCurvePrivateKey) -> None:
    """Serve with this from now on.

    Raises:
        NoCertificate: the chain is none, or of another key.
    """
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with open(os.memfd_create("certificate"), "wb") as memory:  # ssl reads files only
        memory.write(secret + chain.encode())
        memory.flush()
        file = f"/proc/self/fd/{memory.fileno()}"
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file)  # half of it may fit
        except ssl.SSLError as error:
            raise NoCertificate(f"what came is no certificate for this key: {error}") from error
        context.load_cert_chain(file)


@dataclass(slots=True)
class Kept:
    """The certificate of one server."""

    ask: Callable[[str], Awaitable[Certificate]]
    """Request → certificate; raises NoCertificate."""
    context: ssl.SSLContext = field(default_factory=server_context)
    clock: Callable[[], float] = time.time
    """Unix seconds."""
    renew_at: float = 0.0
    """Unix seconds; in the past until there is one."""
    look_s: float = LOOK_S
    told: Callable[[float], None] = lambda _until: None
    """Hears when each new one ends, in Unix seconds."""
    _made_at: float = 0.0
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)

    def renew_now(self) -> None:
        """Who signed the one that is there is not trusted any more."""
        self.renew_at = 0.0
        self._wanted.set()

    async def renew(self) -> None:
        """Serve with a new one.

        Raises:
            NoCertificate: the one before stays.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        now, made = self.clock(), await self.ask(request_of(key))
        load(self.context, made.chain, key=key)
        self._made_at = now
        self.renew_at = now + RENEWED_AFTER * (made.not_after - now)
        self.told(made.not_after)

    def due_s(self) -> float:
        """Seconds until it has to be replaced, as the clock is now."""
        now = self.clock()
        return 0.0 if now < self._made_at - SET_BACK_S else max(0.0, self.renew_at - now)

    async def obtain(self) -> None:
        """Try until there is a new one."""
        wait_s, told = 0.5, False
        while True:
            try:
                return await self.renew()
            except NoCertificate as error:
                logger.log(logging.DEBUG if told else logging.WARNING, "certificate: %s", error)
                told = True
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, RETRY_S)

    async def run(self) -> None:
        """Keep it fresh, for as long as the server runs."""
        while True:
            self._wanted.clear()
            await self._looked()
            while self.due_s() > 0:
                await self._looked()
            await self.obtain()

    async def _looked(self) -> None:
        """Returns when one is wanted, or it is time to look at the clock."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(self.due_s(), self.look_s)):
                await self._wanted.wait()
