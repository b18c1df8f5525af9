"""A short-lived pod that mounts the volume of a job that has no pods, read-only.

`volume` calls it. Invariant: it is deleted whatever happens; if this program is killed, it ends by
itself and goes with its job. It needs nothing that a restricted namespace forbids.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from lockstep_api import names
from lockstep_cli.cluster import PODS, Cluster, Json, Request, path_of
from lockstep_cli.errors import CliError, Exit, NotFound

READER_LABEL = "lockstep.dev/reader-of"
CONTAINER = "reader"
LIFE_S = 3600
"""After which it ends by itself."""
_PATIENCE_S = 180
_USER = 65532
_WAITS = "import time; time.sleep(3600)"
_HOPELESS = frozenset(
    (
        *("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"),
        *("CreateContainerConfigError", "CreateContainerError", "CrashLoopBackOff"),
    )
)
_SCHEDULING = ("tolerations", "runtimeClassName", "priorityClassName")


@dataclass(frozen=True, slots=True)
class Reader:
    """What a reader is made from."""

    job: Json
    image: str

    @property
    def namespace(self) -> str:
        """The job's."""
        return str(self.job["metadata"]["namespace"])


@contextmanager
def reading_pod(cluster: Cluster, reader: Reader) -> Iterator[str]:
    """Its name, once it runs.

    Raises:
        CliError: it does not come up.
    """
    made = cluster.create(PODS, reader.namespace, body=manifest(reader))
    name = str(made["metadata"]["name"])
    try:
        _wait(cluster, reader, made=made)
        yield name
    finally:
        _remove(cluster, reader.namespace, name=name)


def _remove(cluster: Cluster, namespace: str, *, name: str) -> None:
    with suppress(NotFound):  # it went with its job
        cluster.delete(PODS, namespace, name=name, options={"gracePeriodSeconds": 0})


def _wait(cluster: Cluster, reader: Reader, *, made: Json) -> None:
    """Until its container runs."""
    reason = "nothing was heard of it"
    for pod in _states(cluster, reader.namespace, made=made):
        phase = pod["status"].get("phase")
        if _is_running(pod):
            return
        if phase in {"Failed", "Succeeded"}:
            raise CliError(_told(reader, pod["status"].get("message") or f"it is {phase}"))
        blocked, said = _why(pod)
        reason = said or reason
        if blocked:
            raise CliError(_told(reader, reason))
    raise CliError(_told(reader, f"not within {_PATIENCE_S} s: {reason}"), Exit.TIMEOUT)


def _told(reader: Reader, reason: str) -> str:
    name = reader.job["metadata"]["name"]
    return (
        f"the pod that would read the volume of {name}, with image {reader.image}, does not run:"
        f" {reason}: --image names another image with python3"
    )


def _states(cluster: Cluster, namespace: str, *, made: Json) -> Iterator[Json]:
    """The pod after each change, for as long as one waits for it."""
    name, version = made["metadata"]["name"], made["metadata"]["resourceVersion"]
    query = {
        "watch": "true",
        "fieldSelector": f"metadata.name={name}",
        "resourceVersion": version,
        "timeoutSeconds": _PATIENCE_S,
    }
    request = Request("GET", path_of(PODS, namespace), query, resource=PODS, namespace=namespace)
    for line in cluster.lines(request, silence_s=_PATIENCE_S + 10):
        event = json.loads(line)
        if event["type"] == "DELETED":
            raise CliError(f"somebody deleted pod {name}, which was to read the volume: try again")
        if event["type"] in {"ADDED", "MODIFIED"}:
            yield event["object"]


def _is_running(pod: Json) -> bool:
    statuses = pod["status"].get("containerStatuses") or ()
    return any("running" in (one.get("state") or {}) for one in statuses)


def _why(pod: Json) -> tuple[bool, str]:
    """Whether waiting is in vain, and why it does not run."""
    for one in pod["status"].get("containerStatuses") or ():
        waiting = (one.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason:
            return reason in _HOPELESS, f"{reason}{': ' if message else ''}{message}"
    for one in pod["status"].get("conditions") or ():
        if one["type"] == "PodScheduled" and one["status"] != "True":
            return False, str(one.get("message") or one.get("reason"))
    return False, ""


def manifest(reader: Reader) -> Json:
    """The pod: the volume's own node affinity says where it goes."""
    meta = reader.job["metadata"]
    owner = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": meta["name"],
        "uid": meta["uid"],
    }
    labels = {
        "app.kubernetes.io/name": "lockstep-reader",
        "app.kubernetes.io/managed-by": names.CLI_MANAGER,
        READER_LABEL: names.label_value(meta["name"]),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{names.shorten(meta['name'], 50)}-reader-",
            "namespace": reader.namespace,
            "labels": labels,
            "ownerReferences": [owner],
        },
        "spec": _spec(reader),
    }


def _spec(reader: Reader) -> Json:
    claim = {"claimName": names.cloud_name(reader.job["metadata"]["name"]), "readOnly": True}
    return {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": LIFE_S,
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(reader)],
        "volumes": [{"name": "data", "persistentVolumeClaim": claim}],
        **_of_template(reader.job["spec"].get("podTemplate") or {}),
    }


def _container(reader: Reader) -> Json:
    return {
        "name": CONTAINER,
        "image": reader.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-I", "-c", _WAITS],
        "volumeMounts": [{"name": "data", "mountPath": names.DATA_DIR, "readOnly": True}],
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"cpu": "1", "memory": "128Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _of_template(template: dict[str, Any]) -> Json:
    """What lets the job's own pods run where they run."""
    found = {key: template[key] for key in _SCHEDULING if template.get(key)}
    if secrets := template.get("imagePullSecrets"):
        found["imagePullSecrets"] = [{"name": one} for one in secrets]
    return found
