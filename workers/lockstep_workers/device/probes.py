"""What a device's probes tell (`lockstep_serving.probes`).

Made by `main`. Invariant: it is never unhealthy: training has the main thread for as long as it
takes, and a round's deadline ends it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from lockstep_serving.exporting import page


@dataclass(frozen=True, slots=True)
class Probed:
    """A device that is there."""

    registry: CollectorRegistry
    is_open: Callable[[], bool]
    """Whether it has a session with the cloud pod."""

    def unhealthy(self) -> str | None:
        """Nothing."""
        return None

    def unready(self) -> str | None:
        """No session."""
        return None if self.is_open() else "no session with the cloud pod"

    def page(self) -> bytes:
        """All metrics."""
        return page(self.registry)
