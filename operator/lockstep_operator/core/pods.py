"""The pod templates of a job's cloud pod, edges and devices; `children` makes sets of them."""

import math
from collections.abc import Mapping, Sequence

from lockstep_api import names
from lockstep_api.names import Role
from lockstep_api.spec import DeviceGroup, Edge, FederatedJobSpec, PodTemplate
from lockstep_operator.core.model import JobView, Manifest, Settings
from lockstep_operator.core.resources import (
    device_resources,
    scratch_size,
    server_resources,
    server_threads,
    trainer_resources,
)

TOKEN_SECONDS = 3600
IDENTITY_SECONDS = 600
"""The least that Kubernetes gives: nobody can take such a token back before it ends."""
SCRAPES_PER_SECOND = 50
"""Of all devices and edges of a job together. Each scrape of one that does not answer costs
Prometheus a connection until the kernel gives it up, after 131 s: 6,550 of them, some 300 MB."""
LONGEST_SCRAPE_S = 60
_USER = 65532


def cloud_template(
    job: JobView,
    spec: FederatedJobSpec,
    *,
    labels: Mapping[str, str],
    nodes: Sequence[str],
    settings: Settings,
) -> Manifest:
    """The cloud pod: the volume with the model, and a token for the planner only."""
    container = _container(Role.CLOUD, spec, settings=settings) | _probed(_DATA)
    container["resources"] = server_resources(spec.cloud)
    container["volumeMounts"] += [
        {"name": "data", "mountPath": names.DATA_DIR},
    ]
    pod = _pod(job.key.name, Role.CLOUD, spec=spec, nodes=nodes, container=container)
    claim = {"claimName": names.cloud_name(job.key.name)}
    pod["volumes"] += [{"name": "data", "persistentVolumeClaim": claim}]
    _add_token(pod, container, audience=names.PLANNER_AUDIENCE, seconds=TOKEN_SECONDS)
    return _template(spec, labels, pod=pod, selector={})


def edge_template(
    job: JobView,
    spec: FederatedJobSpec,
    *,
    group: Edge,
    labels: Mapping[str, str],
    nodes: Sequence[str],
    settings: Settings,
) -> Manifest:
    """An edge: as the cloud pod, without volume; a group's go to different nodes."""
    container = _container(Role.EDGE, spec, settings=settings) | _probed(_DATA)
    container["env"] += _grouped(group.name, threads=server_threads(group))
    container["resources"] = server_resources(group)
    pod = _pod(job.key.name, Role.EDGE, spec=spec, nodes=nodes, container=container)
    if group.replicas > 1:
        pod["topologySpreadConstraints"] = [_apart(labels)]
    _add_identity(job, pod, container=container, settings=settings)
    return _scraped(_template(spec, labels, pod=pod, selector=group.node_selector), spec)


def _apart(labels: Mapping[str, str]) -> Manifest:
    """Where kube-scheduler can, one node has no more of a group's pods than another."""
    keys = (names.JOB_LABEL, names.ROLE_LABEL, names.EDGE_GROUP_LABEL)
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {key: labels[key] for key in keys}},
    }


def device_template(
    job: JobView,
    spec: FederatedJobSpec,
    *,
    group: DeviceGroup,
    labels: Mapping[str, str],
    nodes: Sequence[str],
    settings: Settings,
) -> Manifest:
    """A device: starts with the boost limit; the planner resizes it before round 1."""
    container = _container(Role.DEVICE, spec, settings=settings) | _probed()
    container["env"] += _grouped(group.name, threads=1)
    container["resources"] = device_resources(spec, group, settings=settings)
    container["resizePolicy"] = [{"resourceName": "cpu", "restartPolicy": "NotRequired"}]
    pod = _pod(job.key.name, Role.DEVICE, spec=spec, nodes=nodes, container=container)
    _add_traces(job.key.name, pod, container=container, group=group)
    _add_identity(job, pod, container=container, settings=settings)
    return _scraped(_template(spec, labels, pod=pod, selector=group.node_selector), spec)


def _grouped(group: str, *, threads: int) -> list[Manifest]:
    """What a pod of a group is told beside what all are."""
    return [
        {"name": names.GROUP_ENV, "value": group},
        {"name": "OPENBLAS_NUM_THREADS", "value": str(threads)},
        {"name": "OMP_NUM_THREADS", "value": str(threads)},
    ]


def _scraped(template: Manifest, spec: FederatedJobSpec) -> Manifest:
    """The template with how often its pods ask to be scraped, in large jobs."""
    edges = sum(group.replicas for group in spec.edge_groups())
    if (seconds := scrape_interval_s(spec.clients() + edges)) > 1:
        annotations = template["metadata"].setdefault("annotations", {})
        annotations[names.SCRAPE_ANNOTATION] = f"{seconds}s"
    return template


def scrape_interval_s(pods: int) -> int:
    """Seconds between two scrapes of a device or edge in a job with so many."""
    return min(LONGEST_SCRAPE_S, max(1, math.ceil(pods / SCRAPES_PER_SECOND)))


def trainer_template(
    job: JobView,
    spec: FederatedJobSpec,
    *,
    labels: Mapping[str, str],
    nodes: Sequence[str],
    settings: Settings,
) -> Manifest:
    """The pod of a trainer: the recorded rounds, the policy, and a token for the planner only."""
    container = _container(Role.TRAINER, spec, settings=settings)
    container["resources"] = trainer_resources(settings)
    container["env"].append({"name": "OMP_NUM_THREADS", "value": "1"})
    container["volumeMounts"] += [
        {"name": "experience", "mountPath": names.EXPERIENCE_DIR, "readOnly": True},
    ]
    pod = _pod(job.key.name, Role.TRAINER, spec=spec, nodes=nodes, container=container)
    parts = (names.experience_name(job.key.name), names.policy_name(job.key.name))
    sources = [{"configMap": {"name": part}} for part in parts]
    experience = {"name": "experience", "projected": {"sources": sources}}
    pod["volumes"] += [experience]
    _add_token(pod, container, audience=names.PLANNER_AUDIENCE, seconds=TOKEN_SECONDS)
    pod["restartPolicy"] = "Never"
    return _template(spec, labels, pod=pod, selector={})


def traces_of(group: DeviceGroup) -> list[str]:
    """The users' ConfigMaps with the bandwidth traces of a group's links."""
    links = (group.uplink, group.downlink)
    return sorted({link.trace for link in links if link is not None and link.trace is not None})


def _add_traces(job: str, pod: Manifest, *, container: Manifest, group: DeviceGroup) -> None:
    """The job's copies of traces; a ConfigMap that is missing is the worker's to name."""
    for index, name in enumerate(traces_of(group)):
        source = {"name": names.traces_name(job, name), "optional": True}
        volume = {"name": f"trace-{index}", "configMap": source}
        path = f"{names.TRACES_DIR}/{name}"
        pod["volumes"].append(volume)
        container["volumeMounts"].append(
            {"name": volume["name"], "mountPath": path, "readOnly": True}
        )


def worker_image(spec: FederatedJobSpec, settings: Settings) -> str:
    """What all pods of a job run."""
    return spec.image or settings.worker_image


def _container(role: Role, spec: FederatedJobSpec, *, settings: Settings) -> Manifest:
    return {
        "name": names.WORKER_CONTAINER,
        "image": worker_image(spec, settings),
        "imagePullPolicy": settings.image_pull_policy,
        "args": [role],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "env": _environment(),
        "volumeMounts": [
            {"name": "settings", "mountPath": names.SETTINGS_DIR, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _environment() -> list[Manifest]:
    fields = {names.POD_ENV: "metadata.name", names.POD_UID_ENV: "metadata.uid"}
    values = {
        names.SETTINGS_ENV: f"{names.SETTINGS_DIR}/{names.SETTINGS_FILE}",
        names.DATA_DIR_ENV: names.DATA_DIR,
    }
    return [
        *({"name": key, "valueFrom": _field(path)} for key, path in fields.items()),
        *({"name": key, "value": value} for key, value in values.items()),
    ]


def _field(path: str) -> Manifest:
    return {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}


_DATA: Manifest = {"name": names.DATA, "containerPort": names.HTTP_PORT, "protocol": "TCP"}
_METRICS: Manifest = {
    "name": names.METRICS,
    "containerPort": names.METRICS_PORT,
    "protocol": "TCP",
}


def _probed(*ports: Manifest) -> Manifest:
    """The ports of a worker, and the probes, which are never at one that others can flood."""
    return {
        "ports": [*ports, _METRICS],
        "startupProbe": _probe(names.HEALTH_ROUTE, period=2, timeout=10, failures=150),
        "readinessProbe": _probe(names.READY_ROUTE, period=2, timeout=5, failures=6),
        "livenessProbe": _probe(names.HEALTH_ROUTE, period=20, timeout=15, failures=6),
    }


def _probe(path: str, *, period: int, timeout: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": names.METRICS, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    }


def _add_identity(job: JobView, pod: Manifest, *, container: Manifest, settings: Settings) -> None:
    """A token that only this job's cloud pod takes: it says which pod this is."""
    if settings.identity:
        audience = names.job_audience(job.uid)
        _add_token(pod, container, audience=audience, seconds=IDENTITY_SECONDS)


def _add_token(pod: Manifest, container: Manifest, *, audience: str, seconds: int) -> None:
    """A token that nobody else takes, not even the apiserver; the kubelet renews it."""
    token = {"audience": audience, "expirationSeconds": seconds, "path": names.TOKEN_FILE}
    sources = [{"serviceAccountToken": token}]
    pod["volumes"].append({"name": "token", "projected": {"sources": sources}})
    container["volumeMounts"].append(
        {"name": "token", "mountPath": names.TOKEN_DIR, "readOnly": True}
    )


def _pod(
    job: str,
    role: Role,
    *,
    spec: FederatedJobSpec,
    nodes: Sequence[str],
    container: Manifest,
) -> Manifest:
    return {
        "serviceAccountName": names.service_account_name(job, role),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30
        if role is Role.CLOUD
        else 10,  # for its last checkpoint
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": {"nodeAffinity": _node_affinity(nodes)},
        "containers": [container],
        "volumes": [
            {"name": "settings", "configMap": {"name": names.settings_name(job)}},
            {"name": "tmp", "emptyDir": {"sizeLimit": _scratch(role, spec, container=container)}},
        ],
        **_extras(spec.pod_template or PodTemplate()),
    }


def _scratch(role: Role, spec: FederatedJobSpec, *, container: Manifest) -> str:
    senders = spec.clients() + sum(group.replicas for group in spec.edge_groups())
    memory = container["resources"]["limits"]["memory"]
    return scratch_size(memory, senders if role in {Role.CLOUD, Role.EDGE} else 0)


def _node_affinity(nodes: Sequence[str]) -> Manifest:
    """One term a node: a term's matchFields takes a single value; terms are alternatives."""
    terms = [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
        for node in nodes
    ]
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}


def _extras(template: PodTemplate) -> Manifest:
    """The pod's fields from podTemplate; those that are not set are left out."""
    extras = {
        "tolerations": [
            t.model_dump(by_alias=True, exclude_none=True) for t in template.tolerations
        ],
        "priorityClassName": template.priority_class_name,
        "runtimeClassName": template.runtime_class_name,
        "imagePullSecrets": [{"name": secret} for secret in template.image_pull_secrets],
    }
    return {key: value for key, value in extras.items() if value}


def _template(
    spec: FederatedJobSpec,
    labels: Mapping[str, str],
    *,
    pod: Manifest,
    selector: Mapping[str, str],
) -> Manifest:
    user = spec.pod_template or PodTemplate()
    metadata: Manifest = {"labels": {**user.labels, **labels}}
    if user.annotations:
        metadata["annotations"] = dict(user.annotations)
    if merged := {**user.node_selector, **selector}:
        pod["nodeSelector"] = merged
    return {"metadata": metadata, "spec": pod}
