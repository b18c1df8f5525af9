"""Series of cloud pods, with the label `job`."""

from functools import partial

from lockstep_api.series import labels
from lockstep_api.series.base import Kind, Owner, Series, Where
from lockstep_api.sessions import Refusal

_ROUND_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 1000)
_gauge = partial(Series, kind=Kind.GAUGE, owner=Owner.CLOUD, labels=(labels.JOB,))
_counter = partial(Series, kind=Kind.COUNTER, owner=Owner.CLOUD, labels=(labels.JOB,))

ROUND = _gauge(
    "lockstep_round",
    "Finished rounds.",
    example="max by (namespace, job) (lockstep_round)",
)
ROUNDS = _gauge(
    "lockstep_rounds",
    "Rounds of the job.",
    example=(
        "max by (namespace, job) (lockstep_round) / max by (namespace, job) (lockstep_rounds)"
    ),
)
ROUND_SECONDS = Series(
    "lockstep_round_seconds",
    "Rounds, from handing out the model to the last update.",
    kind=Kind.HISTOGRAM,
    owner=Owner.CLOUD,
    labels=(labels.JOB,),
    unit="s",
    buckets=_ROUND_S,
    example=(
        "histogram_quantile(0.9,"
        " sum by (namespace, job, le) (rate(lockstep_round_seconds_bucket[10m])))"
    ),
)
LAST_ROUND_SECONDS = _gauge(
    "lockstep_last_round_seconds",
    "The last round.",
    unit="s",
    example="max by (namespace, job) (lockstep_last_round_seconds)",
)
LAST_ROUND_UPLOAD_BYTES = _gauge(
    "lockstep_last_round_upload_bytes",
    "All updates that the last round's model was made of.",
    unit="bytes",
    example="max by (namespace, job) (lockstep_last_round_upload_bytes)",
)
EVALUATE_SECONDS = _gauge(
    "lockstep_evaluate_seconds",
    "The last evaluation.",
    unit="s",
    example="max by (namespace, job) (lockstep_evaluate_seconds)",
)
ACCURACY = _gauge(
    "lockstep_accuracy",
    "Accuracy on the held-out data, 0 to 1.",
    unit="0…1",
    example="max by (namespace, job) (lockstep_accuracy)",
)
LOSS = _gauge(
    "lockstep_loss",
    "Loss on the held-out data.",
    unit="nats",
    example="min by (namespace, job) (lockstep_loss)",
)
CLIENTS_CONNECTED = _gauge(
    "lockstep_clients_connected",
    "Clients with an open session.",
    example="sum by (namespace) (lockstep_clients_connected)",
)
CLIENTS_PLANNED = _gauge(
    "lockstep_clients_planned",
    "Clients of the current round.",
    example="max by (namespace, job) (lockstep_clients_planned - lockstep_clients_connected)",
)
EDGES_CONNECTED = _gauge(
    "lockstep_edges_connected",
    "Edges with an open session.",
    where=Where.EDGES,
    example="max by (namespace, job) (lockstep_edges_connected)",
)
CLUSTERS_MOVED = _counter(
    "lockstep_clusters_moved",
    "Clusters that were taken from an edge that was lost.",
    where=Where.EDGES,
    example="sum by (namespace, job) (increase(lockstep_clusters_moved_total[1h]))",
)
CHECKPOINT_ROUND = _gauge(
    "lockstep_checkpoint_round",
    "Round of the newest checkpoint on the volume.",
    example="max by (namespace, job) (lockstep_round - lockstep_checkpoint_round)",
)
CHECKPOINT_BYTES = _gauge(
    "lockstep_checkpoint_bytes",
    "Size of the newest checkpoint.",
    unit="bytes",
    example="max by (namespace, job) (lockstep_checkpoint_bytes)",
)
CHECKPOINT_SECONDS = _gauge(
    "lockstep_checkpoint_seconds",
    "Time that writing the newest checkpoint took.",
    unit="s",
    example="max by (namespace, job) (lockstep_checkpoint_seconds)",
)
CHECKPOINT_FAILURES = _counter(
    "lockstep_checkpoint_failures",
    "Checkpoints that could not be written.",
    example="sum by (namespace, job) (increase(lockstep_checkpoint_failures_total[10m]))",
)
RESUMES = _gauge(
    "lockstep_resumes",
    "Times the job went on from a checkpoint.",
    example="max by (namespace, job) (lockstep_resumes)",
)
ROUNDS_REPEATED = _gauge(
    "lockstep_rounds_repeated",
    "Finished rounds that were done again after that.",
    example="max by (namespace, job) (lockstep_rounds_repeated)",
)
CLIENTS_LOST = _counter(
    "lockstep_clients_lost",
    "Clients that gave no update to their round.",
    example="sum by (namespace, job) (increase(lockstep_clients_lost_total[10m]))",
)
CLIENT_FAILURES = _counter(
    "lockstep_client_failures",
    "Errors of the user's code on clients.",
    more="See [own-work.md](own-work.md).",
    example="sum by (namespace, job) (increase(lockstep_client_failures_total[10m]))",
)
UPDATES_ACCEPTED = _counter(
    "lockstep_updates_accepted",
    "Updates added.",
    example="sum by (namespace, job) (rate(lockstep_updates_accepted_total[5m]))",
)
UPDATES_REFUSED = _counter(
    "lockstep_updates_refused",
    "Updates refused, by reason.",
    labels=(labels.JOB, labels.REASON),
    values=tuple(Refusal),
    example="sum by (namespace, job, reason) (increase(lockstep_updates_refused_total[1h]))",
)
UPDATES_CLIPPED = _counter(
    "lockstep_updates_clipped",
    "Updates added that went further than `strategy.clipNorm` lets them, and were scaled back.",
    example="sum by (namespace, job) (increase(lockstep_updates_clipped_total[1h]))",
)
ROUNDS_ROLLED_BACK = _counter(
    "lockstep_rounds_rolled_back",
    "Rounds that were taken back for their loss (`strategy.rollbackLoss`), and played again.",
    example="sum by (namespace, job) (increase(lockstep_rounds_rolled_back_total[1h]))",
)
ROUND_PLANNED = _gauge(
    "lockstep_round_planned",
    "1: the planner planned this round; 0: the plan before was used again.",
    example="min by (namespace, job) (lockstep_round_planned)",
)
MODEL_BYTES = _gauge(
    "lockstep_model_bytes",
    "A model on the wire.",
    unit="bytes",
    example="max by (namespace, job) (lockstep_model_bytes)",
)
JOB_ENERGY_JOULES = _gauge(
    "lockstep_job_energy_joules",
    "Energy of all devices since round 1; sources are never added up.",
    unit="J",
    labels=(labels.JOB, labels.SOURCE),
    values=("model", "cpu"),
    example='max by (namespace, job) (lockstep_job_energy_joules{source="model"})',
)
JOB_START_SECONDS = _gauge(
    "lockstep_job_start_seconds",
    "When round 1 began, in seconds since the epoch.",
    unit="s",
    more="Not there before that.",
    example="time() - max by (namespace, job) (lockstep_job_start_seconds)",
)
ROUND_BEGAN_SECONDS = _gauge(
    "lockstep_round_began_seconds",
    "When the current round began, in seconds since the epoch.",
    unit="s",
    more="Not there before round 1. A round that is played again begins again; for a new cloud pod"
    " the current one begins when the pod goes on from a checkpoint.",
    example="time() - max by (namespace, job) (lockstep_round_began_seconds)",
)
CHECKPOINT_WRITTEN_SECONDS = _gauge(
    "lockstep_checkpoint_written_seconds",
    "When the newest checkpoint was written, in seconds since the epoch.",
    unit="s",
    more="Not there without a checkpoint.",
    example="time() - max by (namespace, job) (lockstep_checkpoint_written_seconds)",
)
CERTIFICATE_EXPIRATION_TIMESTAMP_SECONDS = _gauge(
    "lockstep_certificate_expiration_timestamp_seconds",
    "When the certificate that it serves with ends, in seconds since the epoch.",
    unit="s",
    more="Not there where the job speaks plain HTTP. The next comes after two thirds of its life.",
    example=(
        "min by (namespace, job) (lockstep_certificate_expiration_timestamp_seconds) - time()"
    ),
)
ENERGY_BUDGET_JOULES = _gauge(
    "lockstep_energy_budget_joules",
    "The job's energy budget (`spec.telemetry.energyBudgetJoules`), as of the current round.",
    unit="J",
    more="Not there without one. It is compared with the modelled energy, and ends nothing.",
    example=(
        'max by (namespace, job) (lockstep_job_energy_joules{source="model"})'
        " / max by (namespace, job) (lockstep_energy_budget_joules)"
    ),
)
STRAGGLER_SECONDS = _gauge(
    "lockstep_straggler_seconds",
    "From the median device's update to the last round's end: what its slowest devices cost.",
    unit="s",
    example=(
        "max by (namespace, job) (lockstep_straggler_seconds)"
        " / max by (namespace, job) (lockstep_last_round_seconds)"
    ),
)
CLIENT_ARRIVED_SECONDS = _gauge(
    "lockstep_client_arrived_seconds",
    "When each device's update was in, from the last round's start.",
    unit="s",
    labels=(labels.JOB, labels.CLIENT),
    more="Only where the job's devices tell series of their own (`spec.telemetry.perDevice`).",
    example="topk(5, max by (namespace, job, client) (lockstep_client_arrived_seconds))",
)
SESSIONS_ENDED = _counter(
    "lockstep_sessions_ended",
    "Sessions of devices that ended before the job did: a device that is lost, or starts anew.",
    example="sum by (namespace, job) (increase(lockstep_sessions_ended_total[15m]))",
)
ROUNDS_WITHOUT_QUORUM = _counter(
    "lockstep_rounds_without_quorum",
    "Rounds that closed with fewer updates than the quorum (than participants, without one).",
    more="Those that are repeated for it, too.",
    example="sum by (namespace, job) (increase(lockstep_rounds_without_quorum_total[15m]))",
)
CLOUD_ACCURACY = _gauge(
    "lockstep_cloud_accuracy",
    "Accuracy of the front half with the cloud's half on the held-out data, 0 to 1.",
    unit="0…1",
    where=Where.SPLIT,
    more="Not there without distillation.",
    example="max by (namespace, job) (lockstep_cloud_accuracy)",
)
