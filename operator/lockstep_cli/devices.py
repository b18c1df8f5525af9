"""The devices of a job: what was planned for each, how its pod is, what was measured; pure.

`devices`, `describe` and `watch` show them. Invariant: every device that the spec names is there,
whether it has a pod or not; what nobody knows of it is None.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.text import Text

from lockstep_api.names import Role, client_name, group_of_client
from lockstep_cli.facts import Job, amount
from lockstep_cli.pods import RUNNING, Pod
from lockstep_cli.shown import NOTHING, Json

MISSING = "Missing"
IDLE = "Idle"
SITS_OUT = "SitsOut"
COLUMNS = ("device", "state", "GHz", "limit", "steps", "Mbit/s", "energy", "cluster", "edge",
           "remark")  # fmt: skip
_NOT_EVERYWHERE = 3
"""The last columns, which are there where they say something."""
WIDE = ("node", "restarts", "throttled", "why not applied")
_STYLES = {RUNNING: "green", IDLE: "", "Completed": "blue", "Starting": "cyan", "Pending": "yellow",
           SITS_OUT: "yellow"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figures:
    """What Prometheus knows of one device."""

    mbps: float | None = None
    ghz: float | None = None
    joules: float | None = None
    throttled_s: float | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """One device."""

    name: str
    pod: Pod | None
    plan: Json = field(default_factory=dict)
    """Its entry in the newest plan."""
    figures: Figures = field(default_factory=Figures)
    ended: bool = False
    """Whether its job has ended, so that it has no pod any more."""
    sits_out: Json | None = None
    """From which round it may take part again (`returns`), and why; None: it is not left out."""
    kept: float | None = None
    """The share of its last update that was left of it; None: all of it."""

    @property
    def group(self) -> str:
        """Its group."""
        return group_of_client(self.name)

    @property
    def state(self) -> str:
        """One word: its pod's, or that it waits for a round."""
        if self.pod is None:
            return NOTHING if self.ended else MISSING
        if self.pod.state == RUNNING and not self.plan:
            return IDLE if self.sits_out is None else SITS_OUT
        return self.pod.state

    @property
    def well(self) -> bool:
        """Whether nothing is wrong with it."""
        applied = bool(self.plan.get("applied", True))
        return self.state in (RUNNING, IDLE, NOTHING) and applied

    @property
    def ghz(self) -> float | None:
        """What it was asked for; what it has, where no plan says so."""
        found = self.plan.get("frequencyGHz")
        return self.figures.ghz if found is None else float(found)

    @property
    def remark(self) -> str:
        """What is held against it: that it is left out, or was clipped."""
        if self.sits_out is not None:
            why = self.sits_out.get("why")
            return f"may return in round {self.sits_out['returns']}" + (f": {why}" if why else "")
        return "" if self.kept is None else f"clipped to {100 * self.kept:.3g} %"

    @property
    def why_not(self) -> str:
        """Why its limit is not in force."""
        return "" if self.plan.get("applied", True) else str(self.plan.get("reason") or "unknown")


def devices_of(
    job: Job, pods: Iterable[Json], *, figures: Mapping[str, Figures] | None = None
) -> list[Device]:
    """All devices of a job, in the order of its spec."""
    found = (Pod(body) for body in pods)
    by_name = {pod.short: pod for pod in found if pod.role == Role.DEVICE}
    plans = _by_client(job.status.get("lastPlan"), "clients")
    last = job.status.get("lastRound")
    done, absent = _by_client(last, "clients"), _by_client(last, "satOut")
    return [
        Device(
            name,
            by_name.get(name),
            plans.get(name, {}),
            (figures or {}).get(name, Figures()),
            job.ended,
            sits_out=_still(absent.get(name), job),
            kept=done.get(name, {}).get("kept"),
        )
        for name in clients_of(job)
    ]


def _by_client(told: Json | None, where: str) -> dict[str, Json]:
    return {one["client"]: one for one in (told or {}).get(where) or ()}


def _still(absent: Json | None, job: Job) -> Json | None:
    """Who was left out of the last round, if of the coming one too."""
    return absent if absent is not None and absent["returns"] > job.round + 1 else None


def clients_of(job: Job) -> list[str]:
    """Names of all clients."""
    return [
        client_name(group["name"], ordinal)
        for group in job.spec.get("devices") or ()
        for ordinal in range(int(group.get("replicas") or 1))
    ]


def row(device: Device) -> list[str | Text]:
    """What `COLUMNS` say of a device."""
    pod, plan = device.pod, device.plan
    style = "" if device.state == NOTHING else _STYLES.get(device.state, "red")
    limit = plan.get("cpuMilli")
    return [
        device.name,
        Text(device.state, style=style),
        NOTHING if device.ghz is None else f"{device.ghz:.2f}",
        _limit(device, limit),
        str(plan.get("steps") or NOTHING),
        NOTHING if device.figures.mbps is None else f"{device.figures.mbps:.1f}",
        amount(device.figures.joules, "J"),
        (pod.cluster if pod else "") or NOTHING,
        (pod.edge if pod else "") or NOTHING,
        device.remark or NOTHING,
    ]


def _limit(device: Device, milli: int | None) -> Text:
    """A limit that is not in force is marked."""
    if milli is None:
        return Text(NOTHING)
    return Text(
        f"{milli}m" + ("!" if device.why_not else ""), style="red" if device.why_not else ""
    )


def more(device: Device) -> list[str | Text]:
    """What `WIDE` says of a device."""
    pod = device.pod
    return [
        (pod.node if pod else "") or NOTHING,
        str(pod.restarts) if pod else NOTHING,
        amount(device.figures.throttled_s, "s"),
        device.why_not or NOTHING,
    ]


def shown_columns(devices: Sequence[Device], columns: Sequence[str]) -> list[int]:
    """Which columns have something to say: clusters, edges and remarks are not everywhere."""
    rows = [row(device) for device in devices]
    always = range(len(columns) - _NOT_EVERYWHERE)
    return [
        place
        for place in range(len(columns))
        if place in always or any(str(cells[place]) != NOTHING for cells in rows)
    ]
