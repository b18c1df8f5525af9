"""All Kubernetes objects of a job as plain manifests; `decide` compares and applies them.

The same job, placement and settings give the same manifests. Each carries a hash of itself, so
that an object is applied only when what Lockstep wants has changed.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from lockstep_api import names
from lockstep_api.names import Role
from lockstep_api.settings import job_settings
from lockstep_api.spec import DeviceGroup, Edge, FederatedJobSpec
from lockstep_operator.core.manifests import hashed, identity
from lockstep_operator.core.model import JobView, Manifest, ObjectRef, Settings
from lockstep_operator.core.network import policy_name, policy_spec, wants_policies
from lockstep_operator.core.placement import CLOUD_POD, Placement, PodSet
from lockstep_operator.core.pods import (
    cloud_template,
    device_template,
    edge_template,
    traces_of,
    trainer_template,
    worker_image,
)
from lockstep_operator.core.trust import cloud_url, trusted

COPIED_ANNOTATION = "lockstep.dev/copied-version"


_VERSIONS = {
    "StatefulSet": "apps/v1",
    "PodDisruptionBudget": "policy/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "Job": "batch/v1",
}
TRAINER_SECONDS = 900
"""A trainer that has not ended by then is stopped; it and its log stay as long after its end,
unless its job is suspended or ends before."""


def children(job: JobView, placement: Placement, *, settings: Settings) -> tuple[Manifest, ...]:
    """What a running job consists of, in the order in which to apply it.

    Raises:
        ValueError: the job has no readable spec.
    """
    if job.spec is None:
        raise ValueError(f"job {job.key.name} has no readable spec: {job.spec_error}")
    edges = job.spec.edge_groups()
    objects = (
        *(_service_account(job, role) for role in _roles(job.spec)),
        _config_map(job, job.spec, settings=settings),
        _volume_claim(job, job.spec, settings=settings),
        _service(job, Role.CLOUD, name=names.cloud_name(job.key.name)),
        *((_service(job, Role.EDGE, name=names.edges_name(job.key.name)),) if edges else ()),
        _service(job, Role.DEVICE, name=names.devices_name(job.key.name)),
        _disruption_budget(job),
        *((_edges_budget(job, job.spec),) if edges else ()),
        *_network_policies(job, job.spec, settings=settings),
        _cloud_set(job, job.spec, placement=placement, settings=settings),
        *(
            _edge_set(job, job.spec, group=group, placement=placement, settings=settings)
            for group in edges
        ),
        *(
            _group_set(job, job.spec, group=group, placement=placement, settings=settings)
            for group in job.spec.devices
        ),
    )
    return tuple(hashed(manifest) for manifest in objects)


def child_refs(job: JobView, spec: FederatedJobSpec) -> tuple[ObjectRef, ...]:
    """What `children` makes, by name."""
    name, edges = job.key.name, spec.edge_groups()
    named = (
        *(("ServiceAccount", names.service_account_name(name, role)) for role in _roles(spec)),
        ("ConfigMap", names.settings_name(name)),
        ("PersistentVolumeClaim", names.cloud_name(name)),
        ("Service", names.cloud_name(name)),
        *((("Service", names.edges_name(name)),) if edges else ()),
        ("Service", names.devices_name(name)),
        ("PodDisruptionBudget", names.cloud_name(name)),
        *((("PodDisruptionBudget", names.edges_name(name)),) if edges else ()),
        *(("NetworkPolicy", policy_name(name, role)) for role in _restricted(spec)),
        ("StatefulSet", names.cloud_name(name)),
        *(("StatefulSet", names.edge_group_name(name, group.name)) for group in edges),
        *(("StatefulSet", names.group_name(name, group.name)) for group in spec.devices),
    )
    return tuple(_ref(job, kind, named=of_kind) for kind, of_kind in named)


def _roles(spec: FederatedJobSpec) -> list[Role]:
    """Of the pods that a job may have."""
    edges = [Role.EDGE] if spec.edge_groups() else []
    trainer = [Role.TRAINER] if spec.allocation.online else []
    return [Role.CLOUD, *edges, Role.DEVICE, *trainer]


def _restricted(spec: FederatedJobSpec) -> list[Role]:
    """Whose pods have a NetworkPolicy."""
    return _roles(spec) if wants_policies(spec) else []


def record_refs(job: JobView, spec: FederatedJobSpec) -> tuple[ObjectRef, ...]:
    """What the operator keeps for a job beside that, by name: copies of traces, what it learns."""
    copies = [copy for _, copy in trace_refs(job, spec)]
    learnt = (names.experience_name(job.key.name), names.policy_name(job.key.name))
    if spec.allocation.online:
        return (*copies, *(_ref(job, "ConfigMap", named=name) for name in learnt))
    return tuple(copies)


def trace_refs(job: JobView, spec: FederatedJobSpec) -> list[tuple[ObjectRef, ObjectRef]]:
    """The users' ConfigMaps with traces, each with the job's copy of it."""
    found = sorted({name for group in spec.devices for name in traces_of(group)})
    return [
        (
            _ref(job, "ConfigMap", named=name),
            _ref(job, "ConfigMap", named=names.traces_name(job.key.name, name)),
        )
        for name in found
    ]


def _ref(job: JobView, kind: str, *, named: str) -> ObjectRef:
    return ObjectRef(_VERSIONS.get(kind, "v1"), kind, job.key.namespace, named)


def _labels(job: str, role: Role | None, *, group: str | None = None) -> dict[str, str]:
    """The labels of an object; without a role for what all roles share."""
    labels = {
        "app.kubernetes.io/name": "lockstep-worker",
        "app.kubernetes.io/instance": names.label_value(job),
        "app.kubernetes.io/part-of": "lockstep",
        "app.kubernetes.io/managed-by": names.MANAGER,
        names.JOB_LABEL: names.label_value(job),
    }
    if role is not None:
        labels |= {"app.kubernetes.io/component": role, names.ROLE_LABEL: role}
    return labels if role is None or group is None else {**labels, names.GROUP_LABELS[role]: group}


def _object(
    job: JobView, kind: str, *, name: str, labels: Mapping[str, str], body: Mapping[str, Any]
) -> Manifest:
    owner = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": job.key.name,
        "uid": job.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    metadata = {
        "name": name,
        "namespace": job.key.namespace,
        "labels": dict(labels),
        "ownerReferences": [owner],
    }
    version = _VERSIONS.get(kind, "v1")
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **body}


def recorded(
    job: JobView, name: str, *, content: Mapping[str, bytes], told: Mapping[str, str]
) -> Manifest:
    """A ConfigMap with files that the operator keeps for a job, and what it notes beside them.

    It may have a megabyte and changes every round, so it has another label than what the job
    consists of: nobody lists or watches it. Its owner reference takes it away with the job.
    """
    coded = {file: base64.b64encode(data).decode() for file, data in content.items()}
    body = {"binaryData": coded, "data": dict(told)}
    labels = _labels(job.key.name, None)
    labels[names.RECORD_LABEL] = labels.pop(names.JOB_LABEL)
    return _object(job, "ConfigMap", name=name, labels=labels, body=body)


def trace_copy(job: JobView, source: Manifest) -> Manifest:
    """The job's copy of the traces in a user's ConfigMap: nothing else of it is for devices.

    Their image is chosen by whoever may make jobs, who need not be allowed to read ConfigMaps.
    """
    body = {kind: _traces(source.get(kind)) for kind in ("data", "binaryData")}
    name = names.traces_name(job.key.name, source["metadata"]["name"])
    copy = _object(job, "ConfigMap", name=name, labels=_labels(job.key.name, None), body=body)
    copy["metadata"]["annotations"] = {COPIED_ANNOTATION: version_copied(source)}
    return copy


def _traces(entries: Mapping[str, str] | None) -> dict[str, str]:
    return {key: text for key, text in (entries or {}).items() if key.endswith(".csv")}


def version_copied(source: Manifest) -> str:
    """What tells this state of a ConfigMap from all others."""
    meta = source["metadata"]
    return f"{meta['uid']}.{meta['resourceVersion']}"


def is_copy_of(copy: Manifest, source: Manifest) -> bool:
    """Whether a copy is of this state of a ConfigMap."""
    annotations = copy["metadata"].get("annotations") or {}
    return annotations.get(COPIED_ANNOTATION) == version_copied(source)


def trainer_job(
    job: JobView, spec: FederatedJobSpec, *, round: int, nodes: Sequence[str], settings: Settings
) -> Manifest:
    """The Job that learns from the rounds up to `round`, on one of the cloud pod's nodes."""
    labels = _labels(job.key.name, Role.TRAINER)
    template = trainer_template(job, spec, labels=labels, nodes=nodes, settings=settings)
    body = {
        "backoffLimit": 0,  # twenty rounds later another one learns
        "activeDeadlineSeconds": TRAINER_SECONDS,
        "ttlSecondsAfterFinished": TRAINER_SECONDS,
        "template": template,
    }
    name = names.trainer_name(job.key.name, round)
    return _object(job, "Job", name=name, labels=labels, body={"spec": body})


def _service_account(job: JobView, role: Role) -> Manifest:
    name = names.service_account_name(job.key.name, role)
    body = {"automountServiceAccountToken": False}
    labels = _labels(job.key.name, role)
    return _object(job, "ServiceAccount", name=name, labels=labels, body=body)


def _config_map(job: JobView, spec: FederatedJobSpec, *, settings: Settings) -> Manifest:
    shared = job_settings(
        spec,
        namespace=job.key.namespace,
        job=job.key.name,
        uid=job.uid,
        created_at=job.created_at,
        cloud_url=cloud_url(job, spec, settings=settings),
        planner_url=settings.planner_url,
        cpu_watts=settings.cpu_watts,
        identity=settings.identity,
    )
    files = trusted(job, spec, settings=settings)
    body = {"data": {names.SETTINGS_FILE: shared.to_json(), **files}}
    name, labels = names.settings_name(job.key.name), _labels(job.key.name, None)
    return _object(job, "ConfigMap", name=name, labels=labels, body=body)


def _volume_claim(job: JobView, spec: FederatedJobSpec, *, settings: Settings) -> Manifest:
    storage = spec.cloud.storage
    claim: Manifest = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.storage_class_name is not None:
        claim["storageClassName"] = storage.storage_class_name
    name, labels = names.cloud_name(job.key.name), _labels(job.key.name, Role.CLOUD)
    made = _object(job, "PersistentVolumeClaim", name=name, labels=labels, body={"spec": claim})
    made["metadata"]["annotations"] = {names.IMAGE_ANNOTATION: worker_image(spec, settings)}
    return made


def _service(job: JobView, role: Role, *, name: str) -> Manifest:
    """Headless, and with pods that are not ready: devices find the cloud pod while it starts."""
    called, number = (
        (names.METRICS, names.METRICS_PORT)
        if role is Role.DEVICE
        else (names.DATA, names.HTTP_PORT)
    )
    port = {"name": called, "port": number, "targetPort": called, "protocol": "TCP"}
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": names.role_labels(job.key.name, role),
        "ports": [port],
    }
    labels = _labels(job.key.name, role)
    return _object(job, "Service", name=name, labels=labels, body={"spec": spec})


def _disruption_budget(job: JobView) -> Manifest:
    """A drain of its node does not evict the cloud pod while the job runs."""
    return _budget(job, Role.CLOUD, name=names.cloud_name(job.key.name), spec={"minAvailable": 1})


def _edges_budget(job: JobView, spec: FederatedJobSpec) -> Manifest:
    """Drains evict one edge at a time, whose cluster another one takes; the only one they do not:
    nobody could go on for it."""
    most = min(1, sum(group.replicas for group in spec.edge_groups()) - 1)
    name = names.edges_name(job.key.name)
    return _budget(job, Role.EDGE, name=name, spec={"maxUnavailable": most})


def _budget(job: JobView, role: Role, *, name: str, spec: Mapping[str, Any]) -> Manifest:
    selector = {"matchLabels": names.role_labels(job.key.name, role)}
    body = {"spec": {**spec, "selector": selector}}
    labels = _labels(job.key.name, role)
    return _object(job, "PodDisruptionBudget", name=name, labels=labels, body=body)


def _network_policies(
    job: JobView, spec: FederatedJobSpec, *, settings: Settings
) -> list[Manifest]:
    """They are there before the pods are; none where the operator is not to make any."""
    if (network := settings.network) is None:
        return []
    name, roles = job.key.name, _roles(spec)
    return [
        _object(
            job,
            "NetworkPolicy",
            name=policy_name(name, role),
            labels=_labels(name, role),
            body={"spec": policy_spec(name, role, roles=roles, spec=spec, network=network)},
        )
        for role in _restricted(spec)
    ]


def _stateful_set(
    job: JobView, name: str, *, labels: dict[str, str], spec: Mapping[str, Any]
) -> Manifest:
    """Pods change only when somebody deletes them: an operator upgrade restarts no job."""
    selector = identity({"metadata": {"labels": labels}})
    named = spec["template"]["metadata"].setdefault("annotations", {})
    named[names.NAME_ANNOTATION] = job.key.name
    body = {
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "OnDelete"},
        "selector": {"matchLabels": selector},
        **spec,
    }
    return _object(job, "StatefulSet", name=name, labels=labels, body={"spec": body})


def _cloud_set(
    job: JobView, spec: FederatedJobSpec, *, placement: Placement, settings: Settings
) -> Manifest:
    name = names.cloud_name(job.key.name)
    labels = _labels(job.key.name, Role.CLOUD)
    template = cloud_template(
        job, spec, labels=labels, nodes=placement[CLOUD_POD], settings=settings
    )
    body = {"replicas": 1, "serviceName": name, "template": template}
    return _stateful_set(job, name, labels=labels, spec=body)


def _edge_set(
    job: JobView,
    spec: FederatedJobSpec,
    *,
    group: Edge,
    placement: Placement,
    settings: Settings,
) -> Manifest:
    labels = _labels(job.key.name, Role.EDGE, group=group.name)
    template = edge_template(
        job,
        spec,
        group=group,
        labels=labels,
        nodes=placement[PodSet(Role.EDGE, group.name)],
        settings=settings,
    )
    service = names.edges_name(job.key.name)
    body = {"replicas": group.replicas, "serviceName": service, "template": template}
    name = names.edge_group_name(job.key.name, group.name)
    return _stateful_set(job, name, labels=labels, spec=body)


def _group_set(
    job: JobView,
    spec: FederatedJobSpec,
    *,
    group: DeviceGroup,
    placement: Placement,
    settings: Settings,
) -> Manifest:
    labels = _labels(job.key.name, Role.DEVICE, group=group.name)
    template = device_template(
        job,
        spec,
        group=group,
        labels=labels,
        nodes=placement[PodSet(Role.DEVICE, group.name)],
        settings=settings,
    )
    service = names.devices_name(job.key.name)
    body = {"replicas": group.replicas, "serviceName": service, "template": template}
    name = names.group_name(job.key.name, group.name)
    return _stateful_set(job, name, labels=labels, spec=body)
