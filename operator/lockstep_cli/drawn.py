"""Reports and comparisons of runs: what `lockstep_pictures` draws of them, and when it was made.

`report`, `compare` and `dashboard` call it. Invariant: it reads nothing: runs are brought.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from lockstep_cli.errors import CliError
from lockstep_cli.release import release
from lockstep_cli.runs import Run
from lockstep_pictures.figures import JobParts, figures_of
from lockstep_pictures.files import check_suffix, kind_of, rendered
from lockstep_pictures.model import JobFigures
from lockstep_pictures.page import page
from lockstep_pictures.panels import progress, stacked
from lockstep_pictures.report import Made, comparison_of, report_of

_WIDTH, _HEIGHT = 300, 190
"""Of each plot in a picture."""


def figures(run: Run) -> JobFigures:
    """What is drawn of a run."""
    parts = JobParts(
        name=run.name,
        namespace=run.namespace,
        spec=run.spec,
        status=run.status,
        clients=run.records.clients,
        manifest=run.manifest,
    )
    return figures_of(parts, run.records.rounds)


def made(now: datetime) -> Made:
    """When and with what a page was made."""
    return Made(when=f"{now.astimezone():%Y-%m-%d %H:%M %Z}", versions={"lockstep": release()})


def live_page(drawn: JobFigures) -> tuple[str, bool]:
    """A job's page, which asks for itself again, and whether it changes no more."""
    content = report_of(drawn, made=made(datetime.now(UTC)))
    return page(content, live=True), content.ended


def write_report(runs: Sequence[Run], path: Path) -> None:
    """Writes the page of a job, or of several beside each other, or a picture of their curves.

    Raises:
        OSError: it cannot be written.
    """
    drawn = [figures(run) for run in runs]
    kind = kind_of(path)
    if kind != "html":
        title = ", ".join(run.shown for run in runs)
        source = next(filter(None, (job.source() for job in drawn)), "model")
        rows = progress(drawn, source=source)
        picture = stacked(*rows, width=_WIDTH, height=_HEIGHT, one_legend=True)
        path.write_bytes(rendered(picture, kind, title=title))
        return
    told = made(datetime.now(UTC))
    content = report_of(drawn[0], made=told) if len(drawn) == 1 else comparison_of(drawn, made=told)
    path.write_text(page(content), encoding="utf-8")


def check_name(path: Path) -> None:
    """Whether a report can have this name, and its folder is there.

    Raises:
        CliError: it cannot.
    """
    if (wrong := check_suffix(path, option="-o")) is not None:
        raise CliError(wrong)
    if not path.absolute().parent.is_dir():
        raise CliError(f"there is no folder {path.absolute().parent}: make it first")
