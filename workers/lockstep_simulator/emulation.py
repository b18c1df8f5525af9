"""A device as it would be a pod: its links, its CPU limit, its account; on a virtual clock. Pure.

`simulation` sends each participant of a round through `run`. What a transfer takes is asked of the
workers' own `Link`, what a training cost of their `spending`: only the clock is another one.
Invariant: a device does one thing after another; the next begins when the last has ended.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lockstep_api.budget import step_seconds, steps_done
from lockstep_api.settings import GroupSettings, JobSettings, LinkSettings
from lockstep_api.spec import Actuator
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import ClientPlan
from lockstep_workers.device.cgroup import CpuReading
from lockstep_workers.device.link import Link, Links, link_of
from lockstep_workers.device.spending import Account, Spent, spent
from lockstep_workers.device.throttle import PERIOD_S

Traces = Mapping[str, Mapping[str, str]]
"""ConfigMap → key → csv."""


@dataclass(frozen=True, slots=True)
class Overheads:
    """What takes time on pods beside computing and sending, in seconds; docs/simulate.md has how
    they were measured."""

    transfer_s: float = 0.008
    """Of each transfer: a request, its answer."""
    beside_s: float = 0.006
    """Core-seconds that a device's pod uses before it trains, in the mean: receiving, scrapes."""
    aside_s: float = 0.003
    """Core-seconds of a training beside its steps: vectors taken over, the update made."""
    cold_s: float = 0.003
    """Core-seconds that a device's first training takes beside that."""
    between_s: float = 0.8
    """From the end of a round to the begin of the next: average, evaluation, plan, CPU limits."""
    start_s: float = 10.0
    """From the job's creation, when emulated links begin, to round 1."""


USUAL = Overheads()
NO_OVERHEADS = Overheads(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""Computing and sending alone."""
_BESIDE = 0xBE51DE
"""Tells a draw from others of the same seed."""


@dataclass(frozen=True, slots=True)
class Trip:
    """A device's way through a round; moments are seconds since round 1 began."""

    download_s: float
    began_s: float
    """When the training began."""
    trained_s: float
    """When it ended, and the upload began."""
    arrives_s: float
    """When the update has arrived."""
    steps: int
    """Steps that it did."""
    used: Spent
    untold: EnergyJoules
    """Energy that its report tells."""

    @property
    def upload_s(self) -> float:
        """Seconds of its upload."""
        return self.arrives_s - self.trained_s


@dataclass(slots=True)
class VirtualDevice:
    """One device of a job."""

    links: Links
    group: GroupSettings
    account: Account
    work_per_step: float
    """Core-seconds."""
    overheads: Overheads
    seed: tuple[int, int]
    """The job's, and the client's number: they draw what varies from round to round."""
    free_s: float = 0.0
    """When it can begin something new."""

    def run(
        self, plan: ClientPlan, *, turn: int, at_s: float, down_bytes: int, up_bytes: int
    ) -> Trip:
        """Its part of a round that it hears of `at_s`; `turn` tells it from others."""
        start_s = max(at_s, self.free_s)
        began_s = self._moved(self.links.down, down_bytes, at_s=start_s)
        steps, used = self._trained(plan, self._beside_s(turn))
        trained_s = began_s + used.compute_s
        download_s = began_s - start_s
        self.account.trained(used, began_s=began_s, ended_s=trained_s, download_s=download_s)
        return Trip(
            download_s=download_s,
            began_s=began_s,
            trained_s=trained_s,
            arrives_s=self._moved(self.links.up, up_bytes, at_s=trained_s),
            steps=steps,
            used=used,
            untold=self.account.untold,
        )

    def done(self, trip: Trip, *, until_s: float, taken: bool) -> None:
        """What became of a trip's update, which was on its way `until_s`."""
        self.account.uploaded(max(0.0, until_s - trip.trained_s), taken=taken)
        self.free_s = max(until_s, trip.trained_s)

    def carried_mbit(self, since_s: float, until_s: float) -> float:
        """Mbit that its uplink could have carried; NaN: it is not limited."""
        start_s = self.overheads.start_s
        return self.links.up.carried_mbit(start_s + since_s, start_s + until_s)

    def carried_s(self, link: Link, size: int, *, at_s: float) -> float:
        """When one of its links has carried what begins `at_s`."""
        start_s = self.overheads.start_s
        return link.end_s(size, start_s + at_s) - start_s

    def _moved(self, link: Link, size: int, *, at_s: float) -> float:
        return self.carried_s(link, size, at_s=at_s) + self.overheads.transfer_s

    def _beside_s(self, turn: int) -> float:
        """Core-seconds that the pod used in the period of CPU time in which its training begins."""
        if not self.overheads.beside_s:
            return 0.0
        random = np.random.default_rng(np.random.SeedSequence((*self.seed, turn, _BESIDE)))
        return float(random.exponential(self.overheads.beside_s))

    def _trained(self, plan: ClientPlan, beside_s: float) -> tuple[int, Spent]:
        """The steps that it does and what they take: one thread, held to the plan's millicores."""
        cores = plan.cpu_milli / 1000
        step_s = step_seconds(self.work_per_step, cores=cores)
        steps = steps_done(plan.steps, budget_s=plan.budget_seconds, step_s=step_s)
        is_first = self.account.idle_since_s is None
        aside_s = self.overheads.aside_s + (self.overheads.cold_s if is_first else 0.0)
        cpu_s = self.work_per_step * steps + aside_s
        whole_s = step_s * steps + step_seconds(aside_s, cores=cores)
        held_s = quota_s(cpu_s, cores, before_s=beside_s)
        itself = plan.actuator is Actuator.COOPERATIVE
        reading = CpuReading(quota_cores=None if itself else cores, throttled_s=None)
        return steps, spent(
            self.group,
            before=reading,
            after=reading,
            compute_s=whole_s if itself else max(whole_s, held_s),
            cpu_s=cpu_s,
            throttle_cores=cores if itself else None,
        )


def quota_s(cpu_s: float, cores: float, *, before_s: float = 0.0) -> float:
    """Seconds that the kernel lets `cpu_s` core-seconds of a thread take under a CPU quota.

    It gives them out by periods: in each the thread runs until the quota's part of it is used up.
    Of the first one `before_s` core-seconds were used already, all of its part at most.
    """
    if cores >= 1:
        return cpu_s
    part_s = cores * PERIOD_S
    before_s = min(before_s, part_s)
    full = max(0, math.ceil((before_s + cpu_s) / part_s - 1e-9) - 1)
    return full * (PERIOD_S - part_s) + cpu_s


def build_devices(
    job: JobSettings, *, traces: Traces, work: Mapping[str, float], overheads: Overheads
) -> dict[str, VirtualDevice]:
    """All devices of a job by client.

    Raises:
        InvalidJob: a trace is missing or none.
    """
    groups = [group for group in job.groups for _ in range(group.replicas)]

    def link(settings: LinkSettings | None, number: int) -> Link:
        seed, origin_s = job.training.seed, job.created_at
        files = _files(settings, traces)
        return link_of(settings, files, seed=seed, client=number, origin_s=origin_s)

    return {
        client: VirtualDevice(
            links=Links(link(group.uplink, number), link(group.downlink, number)),
            group=group,
            account=Account(job, group),
            work_per_step=work[client],
            overheads=overheads,
            seed=(job.training.seed, number),
        )
        for number, (client, group) in enumerate(zip(job.clients(), groups, strict=True))
    }


def _files(settings: LinkSettings | None, traces: Traces) -> list[tuple[str, "_Text"]]:
    """The files of a link's ConfigMap, as they would be mounted."""
    name = None if settings is None else settings.trace
    entries = {} if name is None else traces.get(name, {})
    return [(key, _Text(entries[key])) for key in sorted(entries) if key.endswith(".csv")]


@dataclass(frozen=True, slots=True)
class _Text:
    """A text that is read like a file."""

    text: str

    def __call__(self) -> bytes:
        return self.text.encode()
