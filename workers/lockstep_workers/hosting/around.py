"""What a reception works with: where updates go, and what is counted for people.

Whoever owns one (`cloud.job`) hands both in, so that it knows neither of a job nor of metrics.
"""

from collections.abc import Collection
from typing import Protocol

from lockstep_api.sessions import Refusal
from lockstep_workers.learning.clipping import Measured
from lockstep_workers.learning.strategy import Contribution
from lockstep_workers.tensors import Flat


class Sink(Protocol):
    """Where updates go, and what devices begin a round with."""

    @property
    def n_values(self) -> int:
        """Values of an update."""

    @property
    def body(self) -> bytearray:
        """What a device receives in the open round."""

    @property
    def constants(self) -> bytes:
        """What it takes over of the model once, before its first round."""

    def add(self, client: str, flat: Flat, *, contribution: Contribution) -> Measured:
        """Takes a checked update, and may change it; `flat` is valid during the call only."""


class Tally(Protocol):
    """What is counted for people."""

    def sessions(self, clients: Collection[str]) -> None:
        """These clients have an open session, as this collection changes."""

    def session_ended(self) -> None:
        """A session ended before the job did."""

    def took(self) -> None:
        """An update was added."""

    def refused(self, reason: Refusal) -> None:
        """An update was refused."""

    def client_failed(self) -> None:
        """The user's code failed on a client."""
