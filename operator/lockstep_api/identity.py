"""What the planner tells a cloud pod so that it can check tokens of pods by itself.

planner → cloud pod    PublishedKeys: who signs tokens in this cluster, and with which keys

Invariant: public keys only; what a field of a private one would be is never taken over.
"""

from typing import Annotated

from pydantic import Field

from lockstep_api.base import WireModel

MOST_KEYS = 64
_Short = Annotated[str, Field(max_length=256)]
_Long = Annotated[str, Field(max_length=4096)]


class PublicKey(WireModel):
    """A key as a JWKS has it (RFC 7517), of a kind with which service accounts' tokens are signed:
    RSA (`n`, `e`), or of an elliptic curve (`crv`, `x`, `y`)."""

    kty: _Short
    """`RSA` or `EC`."""
    kid: _Short
    """Its name, which tokens give."""
    use: _Short | None = None
    """What it is for: `sig`."""
    alg: _Short | None = None
    """How it signs."""
    n: _Long | None = None
    """Modulus."""
    e: _Short | None = None
    """Exponent."""
    crv: _Short | None = None
    """Name of the curve."""
    x: _Short | None = None
    """Coordinate of the point."""
    y: _Short | None = None
    """Coordinate of the point."""


class KeySet(WireModel):
    """A JWKS."""

    keys: Annotated[tuple[PublicKey, ...], Field(max_length=MOST_KEYS)]
    """The keys."""

    def has(self, kid: str) -> bool:
        """Whether it has a key of this name."""
        return any(key.kid == kid for key in self.keys)


class PublishedKeys(WireModel):
    """Who signs the tokens of a cluster's service accounts."""

    issuer: Annotated[str, Field(min_length=1, max_length=2048)]
    """What tokens say of it (`iss`)."""
    jwks: KeySet
    """The keys that may have signed them."""
