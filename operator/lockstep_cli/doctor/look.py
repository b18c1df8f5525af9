"""Looks once at everything that the checks judge; what fails stands as `Unseen`.

`commands/doctor` calls it. It writes nothing: access reviews are questions.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from lockstep_api import names
from lockstep_api.quantity import parse_quantity
from lockstep_cli.cluster import EVENTS, JOBS, NODES, PODS, Cluster, Request, Resource
from lockstep_cli.doctor.control import watched
from lockstep_cli.doctor.finding import Json, Right, Seen, Unseen
from lockstep_cli.doctor.rights import OPERATOR_RIGHTS, USER_RIGHTS
from lockstep_cli.doctor.scraping import scraped
from lockstep_cli.errors import CliError, Denied, NotFound, Unreachable
from lockstep_operator.core.election import LEASE_API
from lockstep_operator.core.scope import LEASE_LABELS

T = TypeVar("T")

_CRDS = Resource(
    "apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", False
)
_CLASSES = Resource("storage.k8s.io/v1", "storageclasses", "StorageClass", False)
_DEPLOYMENTS = Resource("apps/v1", "deployments", "Deployment")
_LEASES = Resource(LEASE_API, "leases", "Lease")
_OPERATORS = "app.kubernetes.io/name=lockstep,app.kubernetes.io/component=operator"
_REVIEWS = "/apis/authorization.k8s.io/v1"


def look(
    cluster: Cluster,
    namespace: str | None,
    *,
    now: datetime,
    ours: str,
) -> Seen:
    """Everything, as it is now.

    Args:
        cluster: what is looked at.
        namespace: whose jobs; None: all.
        now: by this machine's clock.
        ours: the version of this program.

    Raises:
        CliError: the cluster does not answer, or knows nobody of this name.
    """
    version, server_time = _version(cluster)
    deployments = _seen(lambda: cluster.list(_DEPLOYMENTS, labels=_OPERATORS).items)
    nodes = _seen(lambda: cluster.list(NODES).items)
    pods = _seen(lambda: cluster.list(PODS, namespace, labels=names.JOB_LABEL).items)
    operators = _seen(lambda: cluster.list(PODS, labels=_OPERATORS).items)
    return Seen(
        now=now,
        ours=ours,
        host=cluster.host,
        namespace=namespace,
        server_time=server_time,
        version=version,
        core=_seen(lambda: _core(cluster)),
        crd=_seen(lambda: _crd(cluster)),
        deployments=deployments,
        operator_pods=operators,
        leases=_seen(lambda: _leases(cluster)),
        rights=_seen(lambda: _own_rights(cluster, namespace)),
        operator_rights=_seen(lambda: _operator_rights(cluster, deployments)),
        scraping=_seen(lambda: scraped(cluster)),
        nodes=nodes,
        held=_seen(lambda: _held(cluster)),
        classes=_seen(lambda: cluster.list(_CLASSES).items),
        jobs=_seen(lambda: cluster.list(JOBS, namespace).items),
        pods=pods,
        events=_events(cluster, namespace, of=pods),
    )


def _seen(asked: Callable[[], T]) -> T | Unseen:
    try:
        return asked()
    except CliError as error:
        denied = any(isinstance(one, Denied) for one in (error, error.__cause__))
        return Unseen(str(error), denied=denied)


def _version(cluster: Cluster) -> tuple[str | Unseen, datetime | Unseen]:
    """What it is, and what time it has there.

    Raises:
        Unreachable: nothing else is worth a question.
    """
    try:
        with cluster.open(Request("GET", "/version")) as response:
            date = response.headers.get("Date")
            found = response.json()
    except Unreachable:
        raise
    except CliError as error:
        return Unseen(str(error)), Unseen(str(error))
    time = parsedate_to_datetime(date) if date else Unseen("the apiserver does not tell the time")
    return str(found.get("gitVersion")), time


def _core(cluster: Cluster) -> frozenset[str]:
    found = cluster.call(Request("GET", "/api/v1"))
    return frozenset(one["name"] for one in found["resources"])


def _crd(cluster: Cluster) -> Json | None:
    try:
        return cluster.get(_CRDS, name=f"{names.PLURAL}.{names.GROUP}")
    except NotFound:
        return None


def _leases(cluster: Cluster) -> list[Json]:
    labels = ",".join(f"{key}={value}" for key, value in LEASE_LABELS.items())
    return cluster.list(_LEASES, labels=labels).items


def _own_rights(cluster: Cluster, namespace: str | None) -> Mapping[Right, bool]:
    where = namespace or cluster.namespace
    return {right: _allowed(cluster, right, namespace=where) for right in USER_RIGHTS}


def _operator_rights(
    cluster: Cluster, deployments: Sequence[Json] | Unseen
) -> Mapping[Right, bool]:
    """Of the operators' accounts in a namespace whose jobs they run: what one lacks is missing."""
    if isinstance(deployments, Unseen) or not deployments:
        raise NotFound("no operator was seen")
    found: dict[Right, bool] = {}
    for deployment in deployments:
        home = deployment["metadata"]["namespace"]
        account = deployment["spec"]["template"]["spec"].get("serviceAccountName", "default")
        user = f"system:serviceaccount:{home}:{account}"
        served = watched(deployment)
        where = served[0] if served else cluster.namespace
        for right in OPERATOR_RIGHTS:
            allowed = _allowed(cluster, right, namespace=where, user=user)
            found[right] = found.get(right, True) and allowed
    return found


def _allowed(cluster: Cluster, right: Right, *, namespace: str, user: str | None = None) -> bool:
    """An access review, of this user or another."""
    resource, _, part = right.resource.partition("/")
    attributes = {
        "verb": right.verb,
        "group": right.group,
        "resource": resource,
        "subresource": part,
    }
    if not right.whole_cluster:
        attributes["namespace"] = namespace
    kind = "SelfSubjectAccessReview" if user is None else "SubjectAccessReview"
    spec: Json = {"resourceAttributes": attributes}
    if user is not None:
        spec["user"] = user
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
    answer = cluster.call(Request("POST", f"{_REVIEWS}/{kind.lower()}s", body=body))
    return bool(answer["status"].get("allowed"))


def _held(cluster: Cluster) -> Mapping[str, float]:
    """Cores that pods request, by node."""
    held: dict[str, float] = defaultdict(float)
    for pod in cluster.list(PODS, fields="status.phase!=Succeeded,status.phase!=Failed").items:
        if node := pod["spec"].get("nodeName"):
            held[node] += sum(map(_requested, pod["spec"]["containers"]))
    return held


def _requested(container: Json) -> float:
    requests = (container.get("resources") or {}).get("requests") or {}
    return float(parse_quantity(str(requests.get("cpu", "0"))))


def _events(
    cluster: Cluster, namespace: str | None, *, of: Iterable[Json] | Unseen
) -> Mapping[tuple[str, str], str]:
    """The newest warning of each pod; none when nobody may read them."""
    if isinstance(of, Unseen) or not any(True for _ in of):
        return {}
    try:
        found = cluster.list(EVENTS, namespace, fields="type=Warning,involvedObject.kind=Pod").items
    except Denied:
        return {}
    ordered = sorted(found, key=lambda one: one.get("lastTimestamp") or one.get("eventTime") or "")
    return {
        (one["involvedObject"]["namespace"], one["involvedObject"]["name"]): one.get("message", "")
        for one in ordered
    }
