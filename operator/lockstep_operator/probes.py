"""What the operator's probes tell (`lockstep_serving.probes`).

Made by `app`. Invariant: it is asked in another thread than the one that works, so it looks at what
that leaves for it, takes it as it is at one moment, and changes nothing but gauges.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from lockstep_api import names
from lockstep_operator.discovery import TargetList
from lockstep_operator.reconcile import Deps
from lockstep_operator.runtime import Runtime
from lockstep_serving.exporting import page
from lockstep_serving.heartbeat import Heartbeat
from lockstep_serving.probes import ProbeServer, Routes, Told


class CannotListen(Exception):
    """A port that is taken, or an address that is not ours."""


def probe_server(
    at: tuple[str, int], probes: "Probes", *, leads: Callable[[], bool]
) -> ProbeServer:
    """Serves them from now on; called in the loop that is watched.

    Raises:
        CannotListen: at that address.
    """
    probes.heartbeat.start()
    targets = TargetList(probes.deps.sources.cluster, leads)
    return _listening(at, probes, more={names.TARGETS_ROUTE: targets.answer})


def starting_probes(at: tuple[str, int], starting: "Starting") -> ProbeServer:
    """The same for a process that has nothing to decide with yet.

    Raises:
        CannotListen: at that address.
    """
    return _listening(at, starting, more={})


def _listening(at: tuple[str, int], told: Told, *, more: Routes) -> ProbeServer:
    host, port = at
    try:
        return ProbeServer(host, port, told=told, more=more)
    except OSError as error:
        raise CannotListen(f"probes could not listen on {host}:{port}: {error}") from error


@dataclass(frozen=True, slots=True)
class Starting:
    """How the operator is before it has the seed of its certificates."""

    registry: CollectorRegistry

    def unhealthy(self) -> str | None:
        """To be started anew would not help it."""
        return None

    def unready(self) -> str | None:
        """Why it does not work yet."""
        return "the seed of certificates is not read yet"

    def page(self) -> bytes:
        """All metrics in the text format."""
        return page(self.registry)


@dataclass(frozen=True, slots=True)
class Probes:
    """How the operator is."""

    deps: Deps
    runtime: Runtime
    watching: Callable[[], bool]
    """Whether Kopf's task is alive."""
    ready: Callable[[], bool]
    """Whether Kopf has begun to watch, or another operator leads."""
    resync_s: float
    leads: Callable[[], bool]
    """Whether passes are due: one that cannot renew its lease makes none, and a new start, which a
    kubelet would give it, brings it no nearer."""
    heartbeat: Heartbeat = field(default_factory=Heartbeat)

    def unhealthy(self) -> str | None:
        """What is wrong; None when all is well."""
        if not self.watching():
            return "the watch of jobs has ended"
        if self.leads() and self.runtime.jobs:
            age = self.runtime.last_pass_age_s
            if age > 3 * self.resync_s:
                return f"no pass over a job for {age:.0f} s"
        return self.heartbeat.problem()

    def unready(self) -> str | None:
        """Why it does not work yet."""
        return None if self.ready() else "not watching yet"

    def page(self) -> bytes:
        """All metrics in the text format."""
        metrics = self.deps.metrics
        metrics.queue_depth.set(self.runtime.queue_depth)
        metrics.last_pass_age.set(self.runtime.last_pass_age_s)
        known = [one.phase for one in list(self.deps.known.values())]
        counts = Counter(phase.value for phase in known if phase is not None)
        metrics.jobs.become({(phase,): count for phase, count in counts.items()})
        return page(metrics.registry)
