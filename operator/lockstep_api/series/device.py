"""Series of device pods, with the labels `job` and `client`."""

from functools import partial

from lockstep_api.series import labels
from lockstep_api.series.base import Kind, Owner, Series, Where

_LABELS = (labels.JOB, labels.CLIENT)
_gauge = partial(Series, kind=Kind.GAUGE, owner=Owner.DEVICE, labels=_LABELS)
_counter = partial(Series, kind=Kind.COUNTER, owner=Owner.DEVICE, labels=_LABELS)

CLIENT_ROUND = _gauge(
    "lockstep_client_round",
    "Round that it trains or trained last.",
    example="max by (job) (lockstep_client_round) - on (job) min by (job) (lockstep_client_round)",
)
COMPUTE_SECONDS = _counter(
    "lockstep_compute_seconds",
    "Local training.",
    unit="s",
    example="sum by (job, client) (rate(lockstep_compute_seconds_total[5m]))",
)
STEPS = _counter(
    "lockstep_steps",
    "Local SGD steps.",
    example="sum by (job, client) (increase(lockstep_steps_total[5m]))",
)
STEPS_ASKED = _gauge(
    "lockstep_steps_asked",
    "Local SGD steps of the plan; 0: a budget of seconds alone bounds them.",
    example="max by (job, client) (lockstep_steps_asked)",
)
STEPS_DONE = _gauge(
    "lockstep_steps_done",
    "Local SGD steps of the last training.",
    example="max by (job, client) (lockstep_steps_asked - lockstep_steps_done)",
)
WORK_CORE_SECONDS = _gauge(
    "lockstep_work_core_seconds",
    "W: CPU that the last round's training took, by the process's own clock.",
    unit="core·s",
    example="topk(5, max by (job, client) (lockstep_work_core_seconds))",
)
CPU_SECONDS = _counter(
    "lockstep_cpu_seconds",
    "CPU that the training of all rounds took.",
    unit="core·s",
    example=(
        "sum by (job, client) (increase(lockstep_cpu_seconds_total[5m]))"
        " / (sum by (job, client) (increase(lockstep_steps_total[5m])) > 0)"
    ),
)
THROTTLED_SECONDS = _counter(
    "lockstep_throttled_seconds",
    "Time that the CPU quota held local training back.",
    unit="s",
    example="sum by (job, client) (rate(lockstep_throttled_seconds_total[5m]))",
)
UPLOAD_SECONDS = _counter(
    "lockstep_upload_seconds",
    "Uploads of updates, to the server's answer.",
    unit="s",
    example=(
        "sum by (job, client) (lockstep_upload_bytes_total) * 8e-6"
        " / (sum by (job, client) (lockstep_upload_seconds_total) > 0)"
    ),
)
UPLOAD_BYTES = _counter(
    "lockstep_upload_bytes",
    "Uploads of updates.",
    unit="bytes",
    example="sum by (job) (rate(lockstep_upload_bytes_total[5m]))",
)
DOWNLOAD_SECONDS = _counter(
    "lockstep_download_seconds",
    "Downloads of models.",
    unit="s",
    example="sum by (job, client) (rate(lockstep_download_seconds_total[5m]))",
)
DOWNLOAD_BYTES = _counter(
    "lockstep_download_bytes",
    "Downloads of models.",
    unit="bytes",
    example="sum by (job) (rate(lockstep_download_bytes_total[5m]))",
)
UPLINK_MBITS_PER_SECOND = _gauge(
    "lockstep_uplink_mbits_per_second",
    "Measured bandwidth of the last upload, by the device's clock.",
    unit="Mbit/s",
    more="Its bytes over the time to the server's answer.",
    example="min by (job, client) (lockstep_uplink_mbits_per_second)",
)
LINK_MBITS_PER_SECOND = _gauge(
    "lockstep_link_mbits_per_second",
    "Mean of the emulated link over the last 10 s.",
    unit="Mbit/s",
    labels=(*_LABELS, labels.DIRECTION),
    values=("up", "down"),
    where=Where.LINKS,
    more="See [links.md](links.md).",
    example='max by (job, client) (lockstep_link_mbits_per_second{direction="up"})',
)
LINK_MBITS = _counter(
    "lockstep_link_mbits",
    "What the emulated link could have carried.",
    unit="Mbit",
    labels=(*_LABELS, labels.DIRECTION),
    values=("up", "down"),
    where=Where.LINKS,
    more="Its rate over any window is the mean bandwidth, which is what rounds are planned from.",
    example='sum by (job, client) (rate(lockstep_link_mbits_total{direction="up"}[5m]))',
)
FREQUENCY_ASKED_GHZ = _gauge(
    "lockstep_frequency_asked_ghz",
    "Frequency of the plan.",
    unit="GHz",
    example="max by (job, client) (lockstep_frequency_asked_ghz)",
)
FREQUENCY_APPLIED_GHZ = _gauge(
    "lockstep_frequency_applied_ghz",
    "Frequency that it had in its last round.",
    unit="GHz",
    more="What its own cgroup quota stands for, or, where it slows itself, its measured CPU time a"
    " second.",
    example=(
        "max by (job, client)"
        " (abs(lockstep_frequency_applied_ghz - lockstep_frequency_asked_ghz)"
        " / (lockstep_frequency_asked_ghz > 0))"
    ),
)
CPU_LIMIT_CORES = _gauge(
    "lockstep_cpu_limit_cores",
    "Its CPU quota; 0 when none is set.",
    unit="cores",
    example="sum by (namespace, job) (lockstep_cpu_limit_cores)",
)
THROTTLE_CORES = _gauge(
    "lockstep_throttle_cores",
    "What it keeps itself to; 0: its quota alone holds it.",
    unit="cores",
    more="Only the actuator `cooperative` asks for it.",
    example="max by (job, client) (lockstep_throttle_cores)",
)
ENERGY_JOULES = _counter(
    "lockstep_energy_joules",
    "Energy that it took; sources are never added up.",
    unit="J",
    labels=(*_LABELS, labels.SOURCE),
    values=("model", "cpu"),
    more="`model`: the as-if DVFS device; `cpu`: CPU seconds × watts of a core; see"
    " [energy.md](energy.md).",
    example='sum by (job, client) (rate(lockstep_energy_joules_total{source="model"}[5m]))',
)
TRAIN_LOSS = _gauge(
    "lockstep_train_loss",
    "Mean loss over the round's local steps.",
    unit="nats",
    more="Not in mode split, where the edge knows it.",
    example="quantile by (job) (0.9, lockstep_train_loss)",
)
SAMPLES = _counter(
    "lockstep_samples",
    "Examples that went through the front half.",
    where=Where.SPLIT,
    example="sum by (job) (rate(lockstep_samples_total[5m]))",
)
SPLIT_WAITING_SECONDS = _counter(
    "lockstep_split_waiting_seconds",
    "Waiting for the edge, and so for the slowest device of the cluster.",
    unit="s",
    where=Where.SPLIT,
    example="sum by (job, client) (rate(lockstep_split_waiting_seconds_total[5m]))",
)

PLANNED = (
    LINK_MBITS,
    UPLINK_MBITS_PER_SECOND,
    UPLOAD_BYTES,
    UPLOAD_SECONDS,
    CPU_SECONDS,
    STEPS,
)
"""What rounds are planned from: told whatever `spec.telemetry.perDevice` says."""
