"""`lockstep delete`: a job with all that belongs to it, its volume too.

Invariant: nobody loses a model by a slip: on a terminal it asks, elsewhere it wants --yes.
"""

import sys
from typing import Annotated

import typer

from lockstep_api.names import job_selector
from lockstep_api.text import few
from lockstep_cli.cluster import CLAIMS, JOBS, PODS, Cluster
from lockstep_cli.errors import CliError, Exit
from lockstep_cli.facts import Job as Found
from lockstep_cli.follow import Selection, follow
from lockstep_cli.jobs import find_job, this_job
from lockstep_cli.options import Jobs, on_cluster
from lockstep_cli.shown import out, say

_NAMED = 5


@on_cluster
def delete(
    cluster: Cluster,
    *,
    jobs: Jobs,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until its pods and its volume are gone.")
    ] = False,
) -> None:
    """Delete a job with its pods and its volume: model, history and checkpoints go."""
    found = [find_job(cluster, name) for name in jobs]
    if not yes:
        _ask(found)
    for job in found:
        options = {"preconditions": {"uid": job.body["metadata"]["uid"]}}
        cluster.delete(JOBS, job.namespace, name=job.name, options=options)
        if wait:
            _wait(cluster, job)
        out(f"{job.name} deleted")


def _ask(found: list[Found]) -> None:
    named = few([job.name for job in found], _NAMED)
    if not sys.stdin.isatty():
        raise CliError(f"say --yes to delete {named} with volume and model", Exit.USAGE)
    if not typer.confirm(f"delete {named} with volume and model?", err=True):
        say("nothing is deleted")
        raise typer.Exit(Exit.FAILED)


def _wait(cluster: Cluster, job: Found) -> None:
    labels = job_selector(job.name)
    for selection in (
        this_job(cluster, job.name),
        Selection(PODS, job.namespace, labels=labels),
        Selection(CLAIMS, job.namespace, labels=labels),
    ):
        for change in follow(cluster, selection):
            if change.trouble:
                say(change.trouble, style="yellow")
            elif not change.objects:
                break
