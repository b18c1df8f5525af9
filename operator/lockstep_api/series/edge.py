"""Series of edges, with the labels `job` and `edge`."""

from functools import partial

from lockstep_api.series import labels
from lockstep_api.series.base import Kind, Owner, Series, Where
from lockstep_api.sessions import Refusal

_LABELS = (labels.JOB, labels.EDGE)
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_one = partial(Series, owner=Owner.EDGE, labels=_LABELS)
_gauge = partial(_one, kind=Kind.GAUGE)
_counter = partial(_one, kind=Kind.COUNTER)
_split = partial(_counter, where=Where.SPLIT)

EDGE_ROUND = _gauge(
    "lockstep_edge_round",
    "Round of its newest order.",
    example="max by (job, edge) (lockstep_edge_round)",
)
EDGE_ORDERS = _counter(
    "lockstep_edge_orders",
    "Orders received: a cluster's part of a round each.",
    example="sum by (job, edge) (increase(lockstep_edge_orders_total[5m]))",
)
EDGE_CLUSTERS = _gauge(
    "lockstep_edge_clusters",
    "Clusters that it runs now.",
    example="sum by (job, edge) (lockstep_edge_clusters)",
)
EDGE_CLIENTS_CONNECTED = _gauge(
    "lockstep_edge_clients_connected",
    "Clients with an open session at this edge.",
    example="sum by (job, edge) (lockstep_edge_clients_connected)",
)
EDGE_CLUSTER_SECONDS = _gauge(
    "lockstep_edge_cluster_seconds",
    "The last cluster, from its order to its result.",
    unit="s",
    example="max by (job, edge) (lockstep_edge_cluster_seconds)",
)
EDGE_BUSY_SECONDS = _counter(
    "lockstep_edge_busy_seconds",
    "All clusters, from order to result.",
    unit="s",
    example="sum by (job, edge) (rate(lockstep_edge_busy_seconds_total[5m]))",
)
EDGE_UPDATES_ACCEPTED = _counter(
    "lockstep_edge_updates_accepted",
    "Updates added.",
    example="sum by (job, edge) (rate(lockstep_edge_updates_accepted_total[5m]))",
)
EDGE_UPDATES_REFUSED = _counter(
    "lockstep_edge_updates_refused",
    "Updates refused, by reason.",
    labels=(*_LABELS, labels.REASON),
    values=tuple(Refusal),
    example="sum by (job, edge, reason) (increase(lockstep_edge_updates_refused_total[1h]))",
)
EDGE_RECEIVED_BYTES = _counter(
    "lockstep_edge_received_bytes",
    "From devices.",
    unit="bytes",
    example="sum by (job, edge) (rate(lockstep_edge_received_bytes_total[5m]))",
)
EDGE_SENT_BYTES = _counter(
    "lockstep_edge_sent_bytes",
    "To devices.",
    unit="bytes",
    example="sum by (job, edge) (rate(lockstep_edge_sent_bytes_total[5m]))",
)
EDGE_CERTIFICATE_EXPIRATION_TIMESTAMP_SECONDS = _gauge(
    "lockstep_edge_certificate_expiration_timestamp_seconds",
    "When the certificate that it serves with ends, in seconds since the epoch.",
    unit="s",
    more="Not there where the job speaks plain HTTP.",
    example=(
        "min by (job, edge) (lockstep_edge_certificate_expiration_timestamp_seconds) - time()"
    ),
)
EDGE_BACK_CPU_SECONDS = _split(
    "lockstep_edge_back_cpu_seconds",
    "CPU of the model's back half.",
    unit="core·s",
    example="sum by (job, edge) (rate(lockstep_edge_back_cpu_seconds_total[5m]))",
)
EDGE_STEP_SECONDS = _split(
    "lockstep_edge_step_seconds",
    "A step of a cluster.",
    kind=Kind.HISTOGRAM,
    unit="s",
    buckets=_SECONDS,
    more="Front out, activations in, back half, gradients out, the front's gradients in.",
    example=(
        "histogram_quantile(0.9,"
        " sum by (job, edge, le) (rate(lockstep_edge_step_seconds_bucket[5m])))"
    ),
)
EDGE_BACK_SECONDS = _split(
    "lockstep_edge_back_seconds",
    "The model's back half in steps.",
    unit="s",
    example="sum by (job, edge) (rate(lockstep_edge_back_seconds_total[5m]))",
)
EDGE_WAITING_SECONDS = _split(
    "lockstep_edge_waiting_seconds",
    "Waiting for frames of devices; what is left of a step is the edge's own.",
    unit="s",
    example=(
        "sum by (job, edge) (rate(lockstep_edge_waiting_seconds_total[5m]))"
        " / (sum by (job, edge) (rate(lockstep_edge_step_seconds_sum[5m])) > 0)"
    ),
)
EDGE_SAMPLES = _split(
    "lockstep_edge_samples",
    "Examples that went through the back half.",
    example="sum by (job) (rate(lockstep_edge_samples_total[5m]))",
)
EDGE_MISSED_STEPS = _split(
    "lockstep_edge_missed_steps",
    "Steps of devices that went on without them.",
    example="sum by (job, edge) (increase(lockstep_edge_missed_steps_total[5m]))",
)
