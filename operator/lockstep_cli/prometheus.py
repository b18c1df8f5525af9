"""Lockstep's Prometheus, through the apiserver's service proxy: no port-forward is needed.

Commands ask it for what a job's status does not have. Invariant: it may be away: every question
ends soon, and who asks can go on without an answer (`NoFigures` says why there is none).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lockstep_cli.cluster import SERVICES, Cluster, Json, Request, path_of
from lockstep_cli.errors import CliError, Denied
from lockstep_cli.facts import Job

SERVICE = "lockstep-prometheus"
PORT = 9090
USUAL_NAMESPACE = "lockstep-system"
"""Where the README installs the chart."""
PATIENCE_S = 5.0
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


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One Prometheus behind the proxy."""

    cluster: Cluster
    namespace: str
    patience_s: float = PATIENCE_S

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
        path = path_of(
            SERVICES,
            self.namespace,
            name=f"{SERVICE}:{PORT}",
            part=f"proxy/api/v1/{question}",
        )
        try:
            answer = self.cluster.text(Request("GET", path, query, timeout_s=self.patience_s))
            found: list[Json] = json.loads(answer)["data"]["result"]
        except (CliError, ValueError, KeyError, TypeError) as error:
            raise NoFigures(
                f"no figures from Prometheus ({SERVICE} in namespace {self.namespace}): {error}"
            ) from error
        return found


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
