"""`lockstep report`: one page of a job, with pictures, while it runs and after its end."""

from pathlib import Path
from typing import Annotated

import typer

from lockstep_api.records import CLIENTS_FILE, HISTORY_FILE
from lockstep_cli.cluster import connect
from lockstep_cli.completion import job_names
from lockstep_cli.drawn import check_name, write_report
from lockstep_cli.errors import CliError, Exit
from lockstep_cli.options import Context, Kubeconfig, Namespace, where_of
from lockstep_cli.runs import MANIFESTS, Run, files_of, run_of_files, run_of_job
from lockstep_cli.shown import out


def report(
    ctx: typer.Context,
    job: Annotated[
        str | None, typer.Argument(help="The job's name.", autocompletion=job_names)
    ] = None,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="JOB.html; or .png or .svg: its curves alone.",
            metavar="FILE",
        ),
    ] = None,
    history: Annotated[
        Path | None, typer.Option(help="Without a cluster: its history.jsonl.")
    ] = None,
    clients: Annotated[
        Path | None, typer.Option(help="Without a cluster: its clients.json.")
    ] = None,
    manifest: Annotated[Path | None, typer.Option(help="Without a cluster: its manifest.")] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Also write these three files into a folder, for later.", metavar="FOLDER"
        ),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="What reads the volume of a job without pods.")
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Write one page of a job, with all its pictures, while it runs and after its end."""
    files = files_of(history, clients, manifest=manifest)
    if (job is None) == (files is None):
        message = "say a job, or --history and --manifest of one"
        raise CliError(message, Exit.USAGE)
    path = output or Path(f"{job or 'report'}.html")
    check_name(path)
    if files is not None:
        run = run_of_files(files)
    else:
        said = {"namespace": namespace, "context": context, "kubeconfig": kubeconfig}
        run = run_of_job(connect(where_of(ctx, said)), str(job), image=image)
    write_report([run], path)
    out(str(path.absolute()))
    if save is not None:
        _save(run, save)


def _save(run: Run, folder: Path) -> None:
    """The files of a job, as `report` and `compare` read them again."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{one.to_json()}\n" for one in run.records.rounds)
    (folder / HISTORY_FILE).write_text(lines, encoding="utf-8")
    if run.records.clients is not None:
        (folder / CLIENTS_FILE).write_text(run.records.clients.to_json(), encoding="utf-8")
    (folder / MANIFESTS[0]).write_text(run.manifest, encoding="utf-8")
    out(str(folder.absolute()))
