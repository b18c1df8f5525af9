"""`lockstep compare`: several jobs beside each other, as a table and as a page."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lockstep_api.records import HISTORY_FILE
from lockstep_cli.cluster import Cluster, connect
from lockstep_cli.drawn import check_name, figures, write_report
from lockstep_cli.errors import CliError, Exit
from lockstep_cli.options import Context, Kubeconfig, Namespace, where_of
from lockstep_cli.runs import Run, files_in, run_of_files, run_of_job
from lockstep_cli.shown import console, out, table
from lockstep_pictures import tables


def compare(
    ctx: typer.Context,
    jobs: Annotated[
        list[str],
        typer.Argument(
            help="NAME, NAMESPACE/NAME, or a folder that report --save wrote.", metavar="JOB"
        ),
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Also a page, compare.html, or a .png or .svg.", metavar="FILE"
        ),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="What reads the volumes of jobs without pods.")
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print several jobs beside each other; with -o also their curves in one page."""
    if len(jobs) < 2:
        raise CliError("compare needs two jobs or more", Exit.USAGE)
    if output is not None:
        check_name(output)
    said = {"namespace": namespace, "context": context, "kubeconfig": kubeconfig}
    reach = _once(lambda: connect(where_of(ctx, said)))
    runs = [_run(one, reach, image=image) for one in jobs]
    found = tables.finals([figures(run) for run in runs])
    shown = table([""] * (1 + len(runs)), zip(found.head, *found.rows, strict=True))
    shown.show_header = False
    console().print(shown)
    if output is not None:
        write_report(runs, output)
        out(str(output.absolute()))


def _once(connected: Callable[[], Cluster]) -> Callable[[], Cluster]:
    """The cluster, reached when the first job of it is asked for."""
    found: list[Cluster] = []

    def reach() -> Cluster:
        if not found:
            found.append(connected())
        return found[0]

    return reach


def _run(named: str, reach: Callable[[], Cluster], *, image: str | None) -> Run:
    """A job of a folder, or of the cluster.

    Raises:
        CliError: it cannot be read.
    """
    if (Path(named) / HISTORY_FILE).exists():
        return run_of_files(files_in(Path(named)))
    namespace, slash, name = named.rpartition("/")
    cluster = replace(reach(), namespace=namespace) if slash else reach()
    return run_of_job(cluster, name, image=image)
