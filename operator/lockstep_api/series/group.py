"""Series of cloud pods about groups of devices, with the labels `job` and `group`.

They come of the devices' reports, so they are there whatever devices tell themselves
(`spec.telemetry.perDevice`), and in every mode.
"""

from functools import partial

from lockstep_api.series import labels
from lockstep_api.series.base import Kind, Owner, Series

_LABELS = (labels.JOB, labels.GROUP)
_one = partial(Series, owner=Owner.CLOUD)
_gauge = partial(_one, kind=Kind.GAUGE)
_counter = partial(_one, kind=Kind.COUNTER)
_spread = partial(_gauge, labels=(*_LABELS, labels.STAT), values=("mean", "min", "max"))

GROUP_FREQUENCY_ASKED_GHZ = _spread(
    "lockstep_group_frequency_asked_ghz",
    "Frequency that the last finished round's plan asked of a group's devices.",
    unit="GHz",
    example='max by (namespace, job, group) (lockstep_group_frequency_asked_ghz{stat="mean"})',
)
GROUP_FREQUENCY_APPLIED_GHZ = _spread(
    "lockstep_group_frequency_applied_ghz",
    "Frequency that a group's devices had in the last finished round, by their own reports.",
    unit="GHz",
    example='max by (namespace, job, group) (lockstep_group_frequency_applied_ghz{stat="mean"})',
)
GROUP_WORK_CORE_SECONDS = _spread(
    "lockstep_group_work_core_seconds",
    "W: CPU that the last finished round's training took a group's devices.",
    unit="core·s",
    example='max by (namespace, job, group) (lockstep_group_work_core_seconds{stat="max"})',
)
GROUP_SECONDS = _counter(
    "lockstep_group_seconds",
    "Device-seconds of finished rounds, by what a group's devices did.",
    unit="s",
    labels=(*_LABELS, labels.PART),
    values=("download", "compute", "upload", "wait", "throttled"),
    more="Of devices whose update was in. `wait` is what is left of the round (in mode split it is"
    " waiting for the edge too); `throttled` is time within `compute`.",
    example="sum by (namespace, job, group, part) (rate(lockstep_group_seconds_total[5m]))",
)
GROUP_BANDWIDTH_MBITS_PER_SECOND = _gauge(
    "lockstep_group_bandwidth_mbits_per_second",
    "Uploaded bits of a group's last round over its upload seconds, as the server saw them.",
    unit="Mbit/s",
    labels=_LABELS,
    example="min by (namespace, job, group) (lockstep_group_bandwidth_mbits_per_second)",
)
GROUP_ENERGY_JOULES = _counter(
    "lockstep_group_energy_joules",
    "Energy of a group's devices that their updates told; sources are never added up.",
    unit="J",
    labels=(*_LABELS, labels.SOURCE),
    values=("model", "cpu"),
    example=(
        "sum by (namespace, job, group)"
        ' (rate(lockstep_group_energy_joules_total{source="model"}[5m]))'
    ),
)
GROUP_CLIENTS = _gauge(
    "lockstep_group_clients",
    "Devices of a group: with an open session; whose update was in the last finished round; that"
    " were of it and gave none.",
    labels=(*_LABELS, labels.STATE),
    values=("connected", "updated", "lost"),
    example='max by (namespace, job, group) (lockstep_group_clients{state="lost"})',
)
