"""What a job's servers and the planner say to each other about certificates.

edge → cloud pod → planner    CertificateRequest
planner → cloud pod → edge    Certificate
"""

from typing import Annotated

from pydantic import Field

from lockstep_api.base import WireModel
from lockstep_api.wire_types import EdgeName

MOST_REQUEST_BYTES = 4096
"""Of a certificate request with its PEM armour; one for a key on P-256 has some 400."""

RequestPem = Annotated[str, Field(max_length=MOST_REQUEST_BYTES)]


class CertificateRequest(WireModel):
    """A server of a job asks for a certificate."""

    server: EdgeName
    """`cloud`, or the name of an edge. A cloud pod that passes the request of an edge on names
    the edge, whatever the request said."""
    csr: RequestPem
    """A PKCS#10 request in PEM; only its key counts, and its signature."""


class Certificate(WireModel):
    """What the planner answers."""

    chain: str
    """The server's certificate and those of its CA, in PEM."""
    not_after: float
    """When the first of them expires, in Unix seconds."""
