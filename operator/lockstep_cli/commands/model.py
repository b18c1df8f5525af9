"""`lockstep model`: the trained model of a job, from its volume, also after the job has ended."""

from pathlib import Path
from typing import Annotated

import typer

from lockstep_api.records import CLOUD_MODEL_FILE, HISTORY_FILE, MODEL_FILE
from lockstep_cli.cluster import JOBS, Cluster
from lockstep_cli.errors import CliError, NotFound
from lockstep_cli.facts import Job as JobFacts
from lockstep_cli.options import Job, on_cluster
from lockstep_cli.shown import out
from lockstep_cli.transfers import showing
from lockstep_cli.volume import NotWritten, Volume, volume_of

Image = Annotated[
    str | None,
    typer.Option(help="What reads the volume of a job without pods; the job's image when empty."),
]


@on_cluster
def model(
    cluster: Cluster,
    job: Job,
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="JOB.safetensors when empty.", metavar="FILE"),
    ] = None,
    history: Annotated[
        Path | None, typer.Option(help="Also the history of its rounds (history.jsonl).")
    ] = None,
    cloud_model: Annotated[
        Path | None, typer.Option(help="Also the cloud's deeper model, of a job that distils.")
    ] = None,
    image: Image = None,
) -> None:
    """Fetch the trained model of a job from its volume, also after the job has ended."""
    found = cluster.get(JOBS, cluster.namespace, name=job)
    wanted = {
        HISTORY_FILE: history,
        MODEL_FILE: output or Path(f"{job}.safetensors"),
        CLOUD_MODEL_FILE: cloud_model,
    }
    for path in wanted.values():
        if path is not None and not path.absolute().parent.is_dir():
            raise CliError(f"there is no folder {path.absolute().parent}: make it first")
    with volume_of(cluster, found, image=image) as volume:
        for name, path in wanted.items():
            if path is not None:
                _fetch(volume, name, to=path, job=JobFacts(found))


def _fetch(volume: Volume, name: str, *, to: Path, job: JobFacts) -> None:
    try:
        with showing(name) as progress:
            size = volume.copy(name, to, progress=progress)
    except NotWritten as error:
        raise NotFound(_why(name, job)) from error
    out(f"{to} ({size:,} bytes)")


def _why(name: str, job: JobFacts) -> str:
    """Why a file is not there."""
    if name == CLOUD_MODEL_FILE:
        return f"job {job.name} has no model of the cloud: only those with spec.distillation have"
    if name == HISTORY_FILE:
        return f"job {job.name} has no history: no round has finished yet"
    progress = f"{job.phase}, round {job.round} of {job.rounds}"
    return f"job {job.name} has no model yet: it is written when the job completes ({progress})"
