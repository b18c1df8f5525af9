"""Every name that two parts must agree on: labels, children of a job, ports, paths, headers.

Names are deterministic; one that would be too long for Kubernetes ends in a hash of the whole.
"""

import hashlib
from enum import StrEnum

GROUP = "lockstep.dev"
VERSION = "v1alpha1"
KIND = "FederatedJob"
PLURAL = "federatedjobs"
API_VERSION = f"{GROUP}/{VERSION}"

JOB_LABEL = "lockstep.dev/job"
RECORD_LABEL = "lockstep.dev/record-of"
"""On what the operator keeps for a job: a change of it is none of the job's children."""
ROLE_LABEL = "lockstep.dev/role"
GROUP_LABEL = "lockstep.dev/device-group"
EDGE_GROUP_LABEL = "lockstep.dev/edge-group"
CLUSTER_LABEL = "lockstep.dev/cluster"
"""On device pods: the cluster that the client is in now."""
EDGE_LABEL = "lockstep.dev/edge"
"""On device pods: the edge that the client works with now; on those of edges: their own name."""
TRACES_LABEL = "lockstep.dev/traces"
"""On a user's ConfigMap: "true" where jobs may have the traces in it."""
TIER_LABEL = "lockstep.dev/tier"
CLOCK_LABEL = "lockstep.dev/clock-ghz"
SCRAPE_ANNOTATION = "lockstep.dev/scrape-interval"
"""On device pods of large jobs: how often their metrics are to be read (`5s`)."""
NAME_ANNOTATION = "lockstep.dev/job-name"
"""On pods: the job's name as it is, however long."""
IMAGE_ANNOTATION = "lockstep.dev/worker-image"
"""On a job's claim: what can read its volume when all pods are gone."""
MANAGER = "lockstep-operator"
CLI_MANAGER = "lockstep-cli"
"""The field manager of what people change with `lockstep`."""


class Role(StrEnum):
    """What a pod of a job does: the label `lockstep.dev/role`, and the worker image's argument."""

    CLOUD = "cloud"
    EDGE = "edge"
    DEVICE = "device"
    TRAINER = "trainer"


class Tier(StrEnum):
    """The label `lockstep.dev/tier` of nodes."""

    CLOUD = "cloud"
    EDGE = "edge"
    DEVICE = "device"


GROUP_LABELS = {Role.EDGE: EDGE_GROUP_LABEL, Role.DEVICE: GROUP_LABEL}
"""Which label of a pod names its group."""

HTTP_PORT = 8080
DATA = "data"
"""What that port is called: of models and updates, at the operator of plans."""
METRICS_PORT = 8081
METRICS = "metrics"
"""What that port is called: probes and metrics of all pods, at the operator the targets' list."""
WORKER_CONTAINER = "worker"
PLANNER_AUDIENCE = "lockstep-planner"
"""Of the tokens of cloud pods and trainers, which the planner checks."""

HEALTH_ROUTE = "/healthz"
READY_ROUTE = "/readyz"
METRICS_ROUTE = "/metrics"
TARGETS_ROUTE = "/targets"
"""Of the operator: the pods of jobs, as Prometheus discovers them (`http_sd`)."""

ENV_PREFIX = "LOCKSTEP_"
"""Of the variables that a worker learns from: what it may be told stands in its `environment`."""
POD_ENV = f"{ENV_PREFIX}POD"
POD_UID_ENV = f"{ENV_PREFIX}POD_UID"
GROUP_ENV = f"{ENV_PREFIX}GROUP"
"""The device or edge group of a pod."""
SETTINGS_ENV = f"{ENV_PREFIX}SETTINGS"
DATA_DIR_ENV = f"{ENV_PREFIX}DATA_DIR"

SETTINGS_DIR = "/etc/lockstep"
SETTINGS_FILE = "job.json"
CA_FILE = "ca.pem"
"""Beside the settings: the CA of the job's own servers, where they speak TLS."""
PLANNER_CA_FILE = "planner-ca.pem"
"""Beside the settings: the CA of the planner, where it speaks TLS."""
TOKEN_DIR = "/var/run/secrets/lockstep"
TOKEN_FILE = "token"
TRACES_DIR = "/etc/lockstep-traces"
EXPERIENCE_DIR = "/etc/lockstep-experience"
EXPERIENCE_FILE = "experience.safetensors"
POLICY_FILE = "policy.safetensors"
DATA_DIR = "/var/lib/lockstep"

# A StatefulSet's name ends up in the label `controller-revision-hash` with 11 more characters.
_MAX_STATEFULSET = 52
_MAX_NAME = 63


def shorten(name: str, limit: int = _MAX_NAME) -> str:
    """`name`, or its head and an 8-digit hash of all of it when it is longer than `limit`."""
    if len(name) <= limit:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: limit - 9].rstrip('-.')}-{digest}"


def label_value(name: str) -> str:
    """A job's name as the value of `lockstep.dev/job` (at most 63 characters)."""
    return shorten(name)


def job_selector(job: str) -> str:
    """Selects everything that belongs to a job by its labels."""
    return f"{JOB_LABEL}={label_value(job)}"


def role_selector(job: str, role: Role) -> str:
    """Selects what belongs to one role of a job."""
    return f"{job_selector(job)},{ROLE_LABEL}={role}"


def role_labels(job: str, role: Role) -> dict[str, str]:
    """The labels that all pods of a role have, and no others."""
    return {JOB_LABEL: label_value(job), ROLE_LABEL: role}


def cloud_name(job: str) -> str:
    """The StatefulSet, Service and volume claim of a job's cloud pod."""
    return shorten(f"{job}-cloud", _MAX_STATEFULSET)


def devices_name(job: str) -> str:
    """The headless Service over all device pods of a job."""
    return shorten(f"{job}-devices", _MAX_STATEFULSET)


def group_name(job: str, group: str) -> str:
    """The StatefulSet of one device group."""
    return shorten(f"{job}-device-{group}", _MAX_STATEFULSET)


def edges_name(job: str) -> str:
    """The headless Service and the PodDisruptionBudget over all edge pods of a job."""
    return shorten(f"{job}-edges", _MAX_STATEFULSET)


def edge_group_name(job: str, group: str) -> str:
    """The StatefulSet of one edge group."""
    return shorten(f"{job}-edge-{group}", _MAX_STATEFULSET)


def settings_name(job: str) -> str:
    """The ConfigMap with the job's settings."""
    return shorten(f"{job}-settings")


def experience_name(job: str) -> str:
    """The ConfigMap with the rounds that a job learns from."""
    return shorten(f"{job}-experience")


def policy_name(job: str) -> str:
    """The ConfigMap with the allocation policy that a job has learnt."""
    return shorten(f"{job}-policy")


def traces_name(job: str, config_map: str) -> str:
    """The ConfigMap with a job's copy of the traces in a user's ConfigMap."""
    return shorten(f"{job}-traces-{config_map}")


def trainer_name(job: str, round: int) -> str:
    """The Job that learns from the rounds up to `round`."""
    return shorten(f"{job}-trainer-{round}")


def service_account_name(job: str, role: Role) -> str:
    """The ServiceAccount of a role's pods; it has no rights in the API."""
    return shorten(f"{job}-{role}")


def job_audience(uid: str) -> str:
    """The audience of the tokens of a job's devices and edges, which its cloud pod checks."""
    return f"lockstep-job/{uid}"


def cloud_pod(job: str) -> str:
    """The name of the cloud pod."""
    return f"{cloud_name(job)}-0"


def cloud_host(namespace: str, job: str) -> str:
    """The host at which the cloud pod is reached."""
    return f"{cloud_name(job)}.{namespace}.svc"


def edges_host(namespace: str, job: str) -> str:
    """The host below which each edge has its own."""
    return f"{edges_name(job)}.{namespace}.svc"


def edge_host(namespace: str, job: str, *, edge: str) -> str:
    """The host at which an edge is reached, by its pod's name in the headless Service."""
    return f"{edge_pod(job, edge)}.{edges_host(namespace, job)}"


def client_name(group: str, ordinal: int) -> str:
    """The name of a client in plans, reports and metrics: its group and ordinal."""
    return f"{group}-{ordinal}"


def group_of_client(client: str) -> str:
    """The group that a client is of."""
    return client.rpartition("-")[0]


def client_pod(job: str, client: str) -> str:
    """The pod of a client."""
    group, _, ordinal = client.rpartition("-")
    return f"{group_name(job, group)}-{ordinal}"


def edge_pod(job: str, edge: str) -> str:
    """The pod of an edge."""
    group, _, ordinal = edge.rpartition("-")
    return f"{edge_group_name(job, group)}-{ordinal}"


# Routes of the cloud pod, which edges have too, format with client= and round=.
SESSION_ROUTE = "/v1/clients/{client}/session"
WORK_ROUTE = "/v1/clients/{client}/work"
CONSTANTS_ROUTE = "/v1/clients/{client}/constants"
FAILURE_ROUTE = "/v1/clients/{client}/failure"
UPDATE_ROUTE = "/v1/rounds/{round}/updates/{client}"
SPLIT_ROUTE = "/v1/rounds/{round}/split/{client}"
"""Of edges: a device's connection for a round of split training."""
SPLIT_PROTOCOL = "lockstep-split/1"
"""What such a connection is upgraded to."""
# Routes of the cloud pod for edges, format with edge=, round= and cluster=.
EDGE_SESSION_ROUTE = "/v1/edges/{edge}/session"
EDGE_WORK_ROUTE = "/v1/edges/{edge}/work"
EDGE_PROGRESS_ROUTE = "/v1/edges/{edge}/progress"
EDGE_CONSTANTS_ROUTE = "/v1/edges/{edge}/constants"
EDGE_CERTIFICATE_ROUTE = "/v1/edges/{edge}/certificate"
CLUSTER_RESULT_ROUTE = "/v1/rounds/{round}/clusters/{cluster}/result/{edge}"
# Routes of the planner, format with namespace= and job=.
PLAN_ROUTE = "/v1/namespaces/{namespace}/jobs/{job}/plan"
OUTCOME_ROUTE = "/v1/namespaces/{namespace}/jobs/{job}/outcome"
POLICY_ROUTE = "/v1/namespaces/{namespace}/jobs/{job}/policy"
KEYS_ROUTE = "/v1/namespaces/{namespace}/jobs/{job}/keys"
"""What the apiserver signs tokens with; `?kid=` names a key that the caller misses."""
CERTIFICATE_ROUTE = "/v1/namespaces/{namespace}/jobs/{job}/certificate"
CLOUD_SERVER = "cloud"
"""The cloud pod among a job's servers; the others are its edges, by their names."""

TASK_HEADER = "lockstep-task"
REPORT_HEADER = "lockstep-report"
SESSION_HEADER = "lockstep-session"
"""Carries the key of the sender's session, in whatever a device asks for after it was opened."""
PROTOCOL_HEADER = "lockstep-protocol"
PROTOCOL = "6"
"""Of what devices, edges and cloud pod say to each other; who names none (1) knows of no session
keys, 2 of no numbers and budgets in tasks, 3 of no edges, 4 of no tokens of pods, 5 of no keys for
edges alone."""
TENSORS = "application/vnd.lockstep.safetensors"
