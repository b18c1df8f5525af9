"""`lockstep suspend` and `lockstep resume`.

A suspension is applied by a field manager of its own, so that the field says who suspended; whoever
resumes gives the field back. Invariant: once a job is resumed, nothing of this stands in the way of
a manifest: `kubectl apply` of any kind wins without a conflict.
"""

from lockstep_api import names
from lockstep_cli.cluster import APPLY, JOBS, Cluster, Json
from lockstep_cli.errors import CliError
from lockstep_cli.facts import Job as Found
from lockstep_cli.jobs import find_job
from lockstep_cli.options import Jobs, on_cluster
from lockstep_cli.shown import out


@on_cluster
def suspend(cluster: Cluster, *, jobs: Jobs) -> None:
    """Take a job's pods away and keep its state: round, model and volume."""
    for name in jobs:
        job = find_job(cluster, name)
        if job.finished:
            raise CliError(f"{name} is {job.phase.lower()}: there is nothing to suspend")
        if job.spec.get("suspend"):
            out(f"{name} is suspended already")
            continue
        _apply(cluster, job, spec={"suspend": True})
        out(f"{name} suspended; go on with: lockstep resume {name}")


@on_cluster
def resume(cluster: Cluster, *, jobs: Jobs) -> None:
    """Let a suspended job go on."""
    for name in jobs:
        job = find_job(cluster, name)
        if not job.spec.get("suspend"):
            out(f"{name} is not suspended")
            continue
        _apply(cluster, job, spec={"suspend": False})
        _apply(cluster, job, spec={})
        out(f"{name} resumed")


def _apply(cluster: Cluster, job: Found, *, spec: Json) -> None:
    """The uid keeps it from making a job that was deleted meanwhile."""
    meta = {"name": job.name, "uid": job.body["metadata"]["uid"]}
    body = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": meta, "spec": spec}
    cluster.patch(JOBS, job.namespace, name=job.name, body=body, content_type=APPLY)
