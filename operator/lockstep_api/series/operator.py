"""Series of the operator and of its process.

Labels are few on purpose: a job appears where nobody else knows what is told of it, its clusters,
the costs of its plans and its policy, and that goes with it.
"""

from functools import partial

from lockstep_api.series import labels
from lockstep_api.series.base import Kind, Owner, Series, Where
from lockstep_api.status import Phase

_FAST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_one = partial(Series, owner=Owner.OPERATOR, labels=())
_gauge = partial(_one, kind=Kind.GAUGE)
_counter = partial(_one, kind=Kind.COUNTER)
_seconds = partial(_one, kind=Kind.HISTOGRAM, unit="s", buckets=_FAST_S)

JOBS = _gauge(
    "lockstep_jobs",
    "Jobs by phase.",
    labels=(labels.PHASE,),
    values=tuple(Phase),
    example="sum by (phase) (lockstep_jobs)",
)
QUEUE_DEPTH = _gauge(
    "lockstep_queue_depth",
    "Jobs that wait for their pass.",
    example="max(lockstep_queue_depth)",
)
RECONCILE_SECONDS = _seconds(
    "lockstep_reconcile_seconds",
    "One pass over a job.",
    example="histogram_quantile(0.99, sum by (le) (rate(lockstep_reconcile_seconds_bucket[5m])))",
)
RECONCILE_ERRORS = _counter(
    "lockstep_reconcile_errors",
    "Failed passes, and failed writes of a pass, by error.",
    labels=(labels.ERROR,),
    example="sum by (error) (increase(lockstep_reconcile_errors_total[10m]))",
)
KUBE_REQUESTS = _counter(
    "lockstep_kube_requests",
    "Requests to the Kubernetes API by verb and kind.",
    labels=(labels.VERB, labels.KIND),
    more="A list counts once a page, a watch once.",
    example="sum by (verb, kind) (rate(lockstep_kube_requests_total[5m]))",
)
LAST_PASS_AGE_SECONDS = _gauge(
    "lockstep_last_pass_age_seconds",
    "Since the last pass over any job.",
    unit="s",
    more="`/healthz` answers 503 after three resync times.",
    example="min(lockstep_last_pass_age_seconds)",
)
LEADER = _gauge(
    "lockstep_leader",
    "1 while this operator leads; 0 while another does, or it cannot renew its Lease.",
    example="sum(lockstep_leader)",
)
STATUS_WRITES = _counter(
    "lockstep_status_writes",
    "Statuses written.",
    example="sum(rate(lockstep_status_writes_total[5m]))",
)
PLAN_SECONDS = _seconds(
    "lockstep_plan_seconds",
    "A plan request, from its arrival until its limits are in force.",
    example="histogram_quantile(0.9, sum by (le) (rate(lockstep_plan_seconds_bucket[5m])))",
)
TELEMETRY_SECONDS = _seconds(
    "lockstep_telemetry_seconds",
    "Reading a job's telemetry from Prometheus before a round.",
    example="histogram_quantile(0.9, sum by (le) (rate(lockstep_telemetry_seconds_bucket[5m])))",
)
TELEMETRY_FAILURES = _counter(
    "lockstep_telemetry_failures",
    "Rounds planned without an answer of Prometheus.",
    example="sum(increase(lockstep_telemetry_failures_total[10m]))",
)
RESIZE_SECONDS = _seconds(
    "lockstep_resize_seconds",
    "From the patch of a CPU limit until the pod's status shows it.",
    example="histogram_quantile(0.9, sum by (le) (rate(lockstep_resize_seconds_bucket[5m])))",
)
RESIZE_FAILURES = _counter(
    "lockstep_resize_failures",
    "Limits that were not in force in time, or resizes that were refused, by reason.",
    labels=(labels.REASON,),
    example="sum by (reason) (increase(lockstep_resize_failures_total[10m]))",
)
_of_a_cluster = partial(
    _gauge, labels=(labels.NAMESPACE, labels.JOB, labels.CLUSTER), where=Where.EDGES
)
CLUSTER_DIVERGENCE = _of_a_cluster(
    "lockstep_cluster_divergence",
    "KL of a cluster's labels from those of the whole round, in the newest plan.",
    unit="nats",
    more="Not there where no labels are told; goes with the job, or its end.",
    example="max by (namespace, job, cluster) (lockstep_cluster_divergence)",
)
CLUSTER_COST_SECONDS = _of_a_cluster(
    "lockstep_cluster_cost_seconds",
    "What the cluster's part of a round is expected to take on its edge.",
    unit="s",
    more="Goes with the job, or its end.",
    example="max by (namespace, job) (lockstep_cluster_cost_seconds)",
)
PLAN_COST_SECONDS = _gauge(
    "lockstep_plan_cost_seconds",
    "What a round of the newest plan is expected to cost: seconds + energyWeight · joules.",
    unit="s",
    labels=(labels.NAMESPACE, labels.JOB, labels.METHOD),
    values=("planned", "equalize", "maximum"),
    more="With the plan's frequencies, the equaliser's, and all at maxGHz, by what was known then."
    " Not there until something was measured; goes with the job, or its end.",
    example=(
        'max by (namespace, job) (lockstep_plan_cost_seconds{method="planned"})'
        ' / max by (namespace, job) (lockstep_plan_cost_seconds{method="maximum"})'
    ),
)
ROUND_COST_SECONDS = _gauge(
    "lockstep_round_cost_seconds",
    "What the last finished round cost: seconds + energyWeight · joules.",
    unit="s",
    labels=(labels.NAMESPACE, labels.JOB, labels.METHOD),
    values=("spent", "optimum"),
    more="`optimum`: the least that it could have cost for one who knew its bandwidths and work;"
    " goes with the job, or its end.",
    example=(
        'max by (namespace, job) (lockstep_round_cost_seconds{method="spent"})'
        ' / max by (namespace, job) (lockstep_round_cost_seconds{method="optimum"})'
    ),
)
PRIVACY_EPSILON = _gauge(
    "lockstep_privacy_epsilon",
    "ε so far of a job that hides its clients (spec.privacy), of a client with all its examples.",
    labels=(labels.NAMESPACE, labels.JOB),
    more="Of the client that most models know; its δ is in status.privacy. As of the newest plan,"
    " so without the model of a round that is on; goes with the job, or its end.",
    example="max by (namespace, job) (lockstep_privacy_epsilon)",
)
POLICY_IN_USE = _gauge(
    "lockstep_policy_in_use",
    "1: the allocation policy that made the newest plan, and where it comes from.",
    labels=(labels.NAMESPACE, labels.JOB, labels.POLICY, labels.SOURCE),
    values=("builtin", "shipped", "ref", "online", "fallback"),
    more="`fallback`: the equaliser, in the place of a trained one that cannot be used; goes with"
    " the job, or its end.",
    example="max by (namespace, job, policy, source) (lockstep_policy_in_use)",
)
POLICY_FALLBACKS = _counter(
    "lockstep_policy_fallbacks",
    "Plans of policy ppo that the equaliser made instead, by reason.",
    labels=(labels.NAMESPACE, labels.JOB, labels.REASON),
    values=("missing", "invalid", "unreadable"),
    more="Goes with the job, or its end.",
    example="sum by (namespace, job, reason) (increase(lockstep_policy_fallbacks_total[1h]))",
)
POLICIES_OFFERED = _counter(
    "lockstep_policies_offered",
    "Policies that trainers offered, by what was used afterwards.",
    labels=(labels.VERDICT,),
    values=("offered", "kept", "begun"),
    more="`kept`: the one before; `begun`: the one that the job began with.",
    example="sum by (verdict) (increase(lockstep_policies_offered_total[1h]))",
)
CERTIFICATES = _counter(
    "lockstep_certificates",
    "Certificates that the operator signed, by whom they are for.",
    labels=(labels.SERVER,),
    values=("cloud", "edge", "planner"),
    more="Each server gets a new one after two thirds of its certificate's life.",
    example="sum by (server) (increase(lockstep_certificates_total[1d]))",
)
PLANNER_CERTIFICATE_EXPIRATION_TIMESTAMP_SECONDS = _gauge(
    "lockstep_planner_certificate_expiration_timestamp_seconds",
    "When the certificate that the planner serves with ends, in seconds since the epoch.",
    unit="s",
    more="Not there where it speaks plain HTTP.",
    example=(
        "min by (namespace) (lockstep_planner_certificate_expiration_timestamp_seconds) - time()"
    ),
)
FREQUENCY_MISMATCHES = _counter(
    "lockstep_frequency_mismatches",
    "Clients whose own report says another frequency than the plan.",
    more="By more than 5 %; 15 % where it was measured.",
    example="sum(increase(lockstep_frequency_mismatches_total[10m]))",
)
PROCESS_CPU_SECONDS = _counter(
    "process_cpu_seconds",
    "CPU of the operator's process.",
    unit="core·s",
    example="rate(process_cpu_seconds_total[5m]) and on (namespace, instance) lockstep_leader",
)
PROCESS_RESIDENT_MEMORY_BYTES = _gauge(
    "process_resident_memory_bytes",
    "Memory of the operator's process.",
    unit="bytes",
    example="process_resident_memory_bytes and on (namespace, instance) lockstep_leader",
)
PROCESS_OPEN_FDS = _gauge(
    "process_open_fds",
    "Open files and connections of the operator's process.",
    example="process_open_fds and on (namespace, instance) lockstep_leader",
)
