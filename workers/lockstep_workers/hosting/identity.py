"""Who opens a session: what the routes ask before they read a byte of what is said.

`hosting.opening` and `hosting.asides` ask. The cloud pod checks tokens (`cloud.pod_tokens`); edges
need not, since whoever comes to them shows the key of a session that the cloud pod opened.
Invariant: who is refused has cost no more than a look at the head of the request.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """A pod that has proved which one it is."""

    pod: str
    uid: str
    issued_s: int
    """When its token was issued, in Unix seconds: those of a pod that had the name before are older
    than all of one that has it now."""


class Identity(Protocol):
    """Tells whether a request is of the client that it names."""

    def verify(self, scope: MutableMapping[str, Any], *, client: str) -> PodIdentity | None:
        """The pod that asks; None: nobody has to prove anything.

        Raises:
            NotYou: it does not prove to be this client; says what to do.
        """


class Anybody:
    """Where nobody has to prove who he is."""

    def verify(self, scope: MutableMapping[str, Any], *, client: str) -> PodIdentity | None:
        """Takes whoever comes."""


ANYBODY = Anybody()
