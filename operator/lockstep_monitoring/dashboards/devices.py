"""The dashboard Devices: what each device of a job was asked, could do and did.

Where a job's devices tell nothing of their own (`spec.telemetry.perDevice`), panels show groups.
"""

from grafana_foundation_sdk.models import dashboard as models

from lockstep_api import series
from lockstep_api.series import Series
from lockstep_monitoring.dashboards import frame, panels
from lockstep_monitoring.dashboards.frame import Row
from lockstep_monitoring.dashboards.kinds import Query
from lockstep_monitoring.dashboards.panels import FROM_ZERO, Look, Told
from lockstep_monitoring.dashboards.scope import MEAN, a_second, of_devices, of_job, or_groups

NAME = "devices"
ASKED, APPLIED = series.FREQUENCY_ASKED_GHZ, series.FREQUENCY_APPLIED_GHZ
GHZ = "suffix: GHz"
_THROTTLED = 'part="throttled"'


def _groups(what: Series | str) -> str:
    return of_job(what, MEAN)


_ASKED = or_groups(of_devices(ASKED), told=ASKED, groups=_groups(series.GROUP_FREQUENCY_ASKED_GHZ))
_APPLIED = or_groups(
    of_devices(APPLIED), told=APPLIED, groups=_groups(series.GROUP_FREQUENCY_APPLIED_GHZ)
)
_FREQUENCY: Row = (
    "Frequency",
    [
        panels.lines(
            Told(
                "Asked and applied frequency",
                "What the plan asks of each device, and what its quota stands for. Groups (mean) "
                "where the job has no telemetry per device.",
                "applied differs from asked for more than a moment: the limit was not put "
                "in force.",
                GHZ,
            ),
            Query(_ASKED, "{{client}} asked"),
            Query(_APPLIED, "{{client}} applied"),
            look=Look(width=24, height=8, low=0),
        ),
        panels.heat(
            Told(
                "Applied frequency, device × round",
                "A row for each device (or group), rounds from left to right: the blocks of the "
                "panel below have the same times.",
                "a row that never changes while others do: its pod cannot be resized.",
                GHZ,
            ),
            Query(_APPLIED, "{{client}}"),
            look=Look(width=24),
        ),
        panels.timeline(
            Told(
                "Round of each device",
                "A block for each round that a device trains or trained last. Empty where the job "
                "has no telemetry per device: see Round timeline of the job.",
                "a device's blocks are longer than the others': it is late, or left out.",
                "none",
            ),
            Query(of_devices(series.CLIENT_ROUND), "{{client}}"),
            look=Look(width=24),
        ),
    ],
)

_BANDWIDTH: Row = (
    "Bandwidth",
    [
        panels.lines(
            Told(
                "Bandwidth of the last upload",
                "Bytes of an update over its seconds, by the device's clock.",
                "far below the link beside it: uploads wait for the cloud pod's reading turn.",
                "Mbits",
            ),
            Query(of_devices(series.UPLINK_MBITS_PER_SECOND), "{{client}}"),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "Emulated link",
                "What the link of each device carries, from its trace (only where one is "
                "emulated).",
                "near 0 for long: the device will be late, whatever its frequency.",
                "Mbits",
            ),
            Query(
                f"sum by (client, direction) ({a_second(of_devices(series.LINK_MBITS))})",
                "{{client}} {{direction}}",
            ),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "Bandwidth, by group",
                "Uploaded bits of a group's last round over its upload seconds.",
                "one group far below what its links are set to: its devices share a node's "
                "network.",
                "Mbits",
            ),
            Query(
                f"max by (group) ({of_job(series.GROUP_BANDWIDTH_MBITS_PER_SECOND)})",
                "{{group}}",
            ),
            look=FROM_ZERO,
        ),
    ],
)


def _total(what: Series) -> str:
    return f"sum by (client) ({a_second(of_devices(what))})"


_PARTS = {
    "compute": series.COMPUTE_SECONDS,
    "upload": series.UPLOAD_SECONDS,
    "download": series.DOWNLOAD_SECONDS,
}
_BUSY = " + ".join(_total(series) for series in _PARTS.values())
_TIME: Row = (
    "Time",
    [
        panels.areas(
            Told(
                "Where devices' time goes",
                "Average of the devices that are chosen, over five minutes.",
                "compute and upload far below 100 % together: they wait for others.",
                "percentunit",
            ),
            *(Query(f"avg({_total(series)})", name) for name, series in _PARTS.items()),
            Query(f"clamp_min(1 - avg({_BUSY}), 0)", "idle"),
            look=Look(low=0, high=1),
        ),
        panels.lines(
            Told(
                "Idle share of each device",
                "Time in which it neither trains nor sends nor receives.",
                "one device near 0 and all others high: it is the straggler of every round.",
                "percentunit",
            ),
            Query(f"clamp_min(1 - ({_BUSY}), 0)", "{{client}}"),
            look=Look(low=0, high=1),
        ),
        panels.lines(
            Told(
                "Time by group",
                "Device-seconds of finished rounds a second, over five minutes: how many "
                "devices of "
                "a group were in each part.",
                "“wait” is most of a group: its frequency could be lower at no cost in time.",
                "short",
            ),
            Query(
                f"sum by (group, part) ({a_second(of_job(series.GROUP_SECONDS))})",
                "{{group}} {{part}}",
            ),
            look=FROM_ZERO,
        ),
    ],
)

_HELD_BACK = series.THROTTLED_SECONDS
_WORK: Row = (
    "Work",
    [
        panels.lines(
            Told(
                "Throttled",
                "Seconds a second in which the CPU quota held training back.",
                "there is none while the frequency is low: the quota is not in force; much is what "
                "a low frequency looks like.",
                "percentunit",
            ),
            Query(
                or_groups(
                    a_second(of_devices(_HELD_BACK)),
                    told=_HELD_BACK,
                    groups=a_second(of_job(series.GROUP_SECONDS, _THROTTLED)),
                ),
                "{{client}}",
            ),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "Work of a round",
                "W: the CPU that the last round's training took. Groups (mean) where the "
                "job has no "
                "telemetry per device.",
                "it jumps at equal steps: something else uses the node's CPU caches or clock.",
                "suffix: core·s",
            ),
            Query(
                or_groups(
                    of_devices(series.WORK_CORE_SECONDS),
                    told=series.WORK_CORE_SECONDS,
                    groups=_groups(series.GROUP_WORK_CORE_SECONDS),
                ),
                "{{client}}",
            ),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "Local steps",
                "SGD steps a second of each device.",
                "0 while rounds go on: the device takes no part, or its budget of seconds "
                "is too short.",
                "short",
            ),
            Query(f"sum by (client) ({a_second(of_devices(series.STEPS))})", "{{client}}"),
            look=FROM_ZERO,
        ),
    ],
)

_JOULES, _GROUPS = series.ENERGY_JOULES, series.GROUP_ENERGY_JOULES


def of(source: str) -> str:
    more = f'source="{source}"'
    mine = f"sum by (namespace, job, client) ({of_devices(_JOULES, more)})"
    theirs = f"sum by (namespace, job, group) ({of_job(_GROUPS, more)})"
    return or_groups(mine, told=_JOULES, groups=theirs)


_MEAN = "the model of a DVFS device: κ·cycles·f² and idle power"
_ENERGY: Row = (
    "Energy",
    [
        panels.gauges(
            Told(
                "Energy of each device (model)",
                f"Since its pod started, by {_MEAN}. Groups where the job has no telemetry "
                "per device.",
                "one device uses far more than others of its group: it works more, or "
                "idles longer.",
                "joule",
            ),
            Query(of("model"), "{{client}}"),
            look=FROM_ZERO,
        ),
        panels.gauges(
            Told(
                "Energy of each device (cpu)",
                "Since its pod started: CPU seconds by watts of a busy core. Never add it "
                "to the model's.",
                "it differs between equal devices: their nodes' cores are not equally fast.",
                "joule",
            ),
            Query(of("cpu"), "{{client}}"),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "Power, by source",
                "Of all devices that are chosen.",
                "it stays high while devices idle: idle power of the model dominates.",
                "watt",
            ),
            Query(
                f"sum by (source) ({a_second(of_devices(_JOULES))}) or "
                f"(sum by (source) ({a_second(of_job(_GROUPS))}) unless on () {of_job(_JOULES)})",
                "{{source}}",
            ),
            look=FROM_ZERO,
        ),
    ],
)


def build() -> models.Dashboard:
    """The dashboard."""
    known = frame.offered(of_job(series.STEPS), "client")
    return frame.made(
        NAME,
        "Lockstep / Devices",
        text="The devices of one FederatedJob: frequency, bandwidth, time and energy of each.",
        variables=[*frame.job_variables(), frame.choices("device", "Device", query=known)],
        rows=[_FREQUENCY, _BANDWIDTH, _TIME, _WORK, _ENERGY],
    )
