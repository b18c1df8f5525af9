"""Lockstep's Prometheus, through a port-forward to its pod, or the apiserver's proxy for Services.

Commands ask it for what a job's status does not have. A port-forward gets in whatever
NetworkPolicies say; the proxy is the second way, of those who may not forward ports, and to a
Service of this name that somebody else has made. Invariant: Prometheus may be away: every question
ends soon, and who asks can go on without an answer (`NoFigures` says why there is none).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from lockstep_cli.cluster import PODS, SERVICES, Cluster, Json, Request, path_of
from lockstep_cli.errors import CliError, Denied, Unreachable
from lockstep_cli.facts import Job
from lockstep_cli.forwarding import NotOpened, Port, answer_of
from lockstep_cli.pods import RUNNING, Pod

SERVICE = "lockstep-prometheus"
PORT = 9090
USUAL_NAMESPACE = "lockstep-system"
"""Where the README installs the chart."""
PATIENCE_S = 5.0
_PROXY = "through the apiserver's proxy for Services"
_RIGHTS = "list of pods, get and create of pods/portforward"
_LABELS = "app.kubernetes.io/part-of=lockstep,app.kubernetes.io/component=prometheus"


class NoFigures(CliError):
    """Prometheus is not there, may not be asked, or does not answer; the message says which."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A series' value now."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A series' values over a time."""

    labels: Mapping[str, str]
    points: list[tuple[float, float]]
    """Unix seconds and values."""


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when, in unix seconds, and how often."""

    start: float
    end: float
    step_s: float


@dataclass(slots=True)
class Prometheus:
    """The Prometheus of one namespace."""

    cluster: Cluster
    namespace: str
    patience_s: float = PATIENCE_S
    note: str = ""
    """What people should know of how it was reached."""

    def instant(self, promql: str, *, at: float | None = None) -> list[Sample]:
        """What a query has now, or had at a time (unix seconds).

        Raises:
            NoFigures: no answer.
        """
        found = self._ask("query", {"query": promql} | ({} if at is None else {"time": at}))
        return [Sample(one["metric"], float(one["value"][1])) for one in found]

    def curves(self, promql: str, span: Span) -> list[Curve]:
        """What a query had over a time.

        Raises:
            NoFigures: no answer.
        """
        query = {"query": promql, "start": span.start, "end": span.end, "step": span.step_s}
        return [
            Curve(one["metric"], [(float(at), float(value)) for at, value in one["values"]])
            for one in self._ask("query_range", query)
        ]

    def _ask(self, question: str, query: Mapping[str, Any]) -> list[Json]:
        try:
            answer = self._answer(f"api/v1/{question}", query)
            found: list[Json] = json.loads(answer)["data"]["result"]
        except (CliError, ValueError, KeyError, TypeError) as error:
            raise NoFigures(
                f"no figures from Prometheus ({SERVICE} in namespace {self.namespace}): {error}"
            ) from error
        return found

    def _answer(self, path: str, query: Mapping[str, Any]) -> str:
        """By the first way, or the second one.

        Raises:
            Denied: for lack of a right, neither leads to it.
            CliError: no answer.
        """
        self.note = ""
        try:
            port = Port(self.namespace, self._pod(), PORT)
            target = f"/{path}?{urlencode(query)}"
            return answer_of(self.cluster, port, target=target, patience_s=self.patience_s)
        except Denied as error:
            needed = f"{error}: {_RIGHTS} in namespace {self.namespace}"
            answer = self._proxied(path, query, instead=Denied(needed))
            self.note = f"Prometheus was asked {_PROXY}: {needed}"
            return answer
        except NotOpened as error:
            return self._proxied(path, query, instead=error)

    def _pod(self) -> str:
        """The pod's name.

        Raises:
            NotOpened: there is none.
            Unreachable: it does not run.
            CliError: nobody tells.
        """
        listed = self.cluster.list(
            PODS, self.namespace, labels=_LABELS, timeout_s=self.patience_s
        ).items
        pods = sorted(map(Pod, listed), key=lambda pod: pod.state != RUNNING)
        if not pods:
            raise NotOpened(f"no pod has the labels {_LABELS}")
        if pods[0].state != RUNNING:
            where = f"-n {self.namespace} describe pod {pods[0].name}"
            raise Unreachable(f"its pod is not ready: {pods[0].state}: kubectl {where}")
        return pods[0].name

    def _proxied(self, path: str, query: Mapping[str, Any], *, instead: CliError) -> str:
        """Through the apiserver, which is a stranger to NetworkPolicies.

        Raises:
            CliError: of the kind of `instead`, what stood in the way of both.
        """
        service = f"{SERVICE}:{PORT}"
        proxy = path_of(SERVICES, self.namespace, name=service, part=f"proxy/{path}")
        try:
            return self.cluster.text(Request("GET", proxy, query, timeout_s=self.patience_s))
        except CliError as error:
            raise type(instead)(f"{instead}; and {_PROXY}: {error}") from error


def installed(cluster: Cluster) -> list[str]:
    """The namespaces with a Prometheus of a release.

    Raises:
        CliError: nobody tells.
    """
    found = cluster.list(SERVICES, labels=_LABELS, timeout_s=PATIENCE_S).items
    return sorted(item["metadata"]["namespace"] for item in found)


def find_prometheus(cluster: Cluster, job_namespace: str, *, said: str | None) -> Prometheus:
    """The Prometheus that scrapes a job: the one that was named, of its namespace, of a release.

    Raises:
        NoFigures: no release has one.
    """
    if said is not None:
        return Prometheus(cluster, said)
    try:
        there = installed(cluster)
    except Denied:  # whoever may look at one namespace only
        found = cluster.list(SERVICES, job_namespace, labels=_LABELS, timeout_s=PATIENCE_S).items
        return Prometheus(cluster, job_namespace if found else USUAL_NAMESPACE)
    if not there:
        raise NoFigures(
            "no figures: the cluster has no Prometheus of Lockstep (chart value prometheus.enabled)"
        )
    best = [name for name in (job_namespace, USUAL_NAMESPACE) if name in there]
    return Prometheus(cluster, [*best, *there][0])


def of_job(job: Job) -> str:
    """The labels that all series of a job have, for a selector."""
    return f'namespace="{job.namespace}",job="{job.name}"'
