"""Whom a worker takes for the server that it asks for: whoever the CA beside its settings signed.

Used by all that connect: devices, edges, and whoever calls the planner. The file is read for each
connection, since the operator may replace it. Invariant: over https nothing is said to a server
before its certificate, its name and its TLS 1.3 have been seen to be right.
"""

import ssl
from pathlib import Path


class Untrusted(ConnectionError):
    """Whoever answers is not the server that was asked for, or it cannot be known."""


class Trust:
    """The CA of some servers."""

    def __init__(self, ca_file: Path | None = None) -> None:
        """`ca_file` need not be there before it is needed; None: no server speaks TLS."""
        self._ca_file = ca_file
        self._pem = ""
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """What to connect with: another one only when the CA is another.

        Raises:
            Untrusted: there is no CA to know a server by.
        """
        pem = self._read()
        if self._context is None or pem != self._pem:
            try:
                self._context, self._pem = _trusting(pem), pem
            except (ssl.SSLError, ValueError) as error:
                raise Untrusted(f"{self._ca_file} is no certificate of a CA: {error}") from error
        return self._context

    def _read(self) -> str:
        if self._ca_file is None:
            raise Untrusted("the URL says https://, but there is no CA to know its server by")
        try:
            return self._ca_file.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise Untrusted(f"no CA to know the server by: {error}") from error


NOBODY = Trust()
"""Of servers that speak plain HTTP."""


def _trusting(pem: str) -> ssl.SSLContext:
    """Takes the job's CA as it is, whoever may have signed that."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=pem)
    return context


def impostor(host: str, error: ssl.SSLError) -> Untrusted:
    """What to raise, and to tell people, when a handshake with a host has failed."""
    why = getattr(error, "verify_message", "") or error.reason or str(error)
    return Untrusted(f"whoever answers as {host} is not the server asked for: {why}")
