"""A job and what belongs to it, as the cluster has it.

Commands about one job begin here. Invariant: a name that is not there is answered with those that
are.
"""

from lockstep_api.names import job_selector
from lockstep_api.text import few
from lockstep_cli.cluster import EVENTS, JOBS, PODS, Cluster
from lockstep_cli.errors import CliError, NotFound
from lockstep_cli.facts import Job
from lockstep_cli.follow import Selection
from lockstep_cli.shown import Json

_NAMED = 10


def find_job(cluster: Cluster, name: str) -> Job:
    """A job of the namespace.

    Raises:
        NotFound: there is none of this name.
    """
    try:
        return Job(cluster.get(JOBS, cluster.namespace, name=name))
    except NotFound as error:
        raise _not_found(cluster, name, error=error) from error


def pods_of(cluster: Cluster, job: Job) -> list[Json]:
    """The pods that carry a job's label."""
    return cluster.list(PODS, job.namespace, labels=job_selector(job.name)).items


def this_job(cluster: Cluster, name: str) -> Selection:
    """Selects one job."""
    return Selection(JOBS, cluster.namespace, fields=f"metadata.name={name}")


def its_pods(cluster: Cluster, name: str) -> Selection:
    """Selects the pods of a job."""
    return Selection(PODS, cluster.namespace, labels=job_selector(name))


def its_events(namespace: str) -> Selection:
    """Selects what a job's events are among."""
    return Selection(EVENTS, namespace)


def _not_found(cluster: Cluster, name: str, *, error: NotFound) -> CliError:
    if "not found" not in str(error):  # no such kind
        return error
    found = cluster.list(JOBS, cluster.namespace).items
    there = [item["metadata"]["name"] for item in found]
    said = f"there are {few(there, _NAMED)}" if there else "it has none: try -A, or another -n"
    return NotFound(f"no job {name} in namespace {cluster.namespace}: {said}")
