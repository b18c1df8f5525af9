"""`lockstep list`: jobs in a line each, and as they change.

Invariant: columns that a person looks at first come first; `-o wide` adds what explains them.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from lockstep_cli.cluster import JOBS, Cluster
from lockstep_cli.facts import STYLES, Job, accuracy, amount, duration, joules, since
from lockstep_cli.follow import Selection, follow
from lockstep_cli.options import AllNamespaces, on_cluster
from lockstep_cli.shown import (
    NOTHING,
    Json,
    Output,
    OutputOption,
    say,
    show_table,
    write_objects,
)

COLUMNS = ("name", "phase", "round", "clients", "accuracy", "energy", "left", "age")
WIDE = ("mode", "strategy", "policy", "loss", "elapsed", "trouble")


@on_cluster
def list_jobs(
    cluster: Cluster,
    *,
    all_namespaces: AllNamespaces = False,
    output: OutputOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on with each change, until Ctrl-C.")
    ] = False,
) -> None:
    """Jobs, and how far they are."""
    namespace = None if all_namespaces else cluster.namespace
    if watch:
        _follow(cluster, namespace, output=output)
        return
    items = sorted(cluster.list(JOBS, namespace).items, key=_place)
    if output in (Output.JSON, Output.YAML, Output.NAME):
        write_objects(items, output)
    elif not items:
        say(f"no jobs in {f'namespace {namespace}' if namespace else 'any namespace'}")
    else:
        _print(items, everywhere=all_namespaces, wide=output is Output.WIDE)


def _follow(cluster: Cluster, namespace: str | None, *, output: Output | None) -> None:
    """A table, then a line for each job that changed."""
    for change in follow(cluster, Selection(JOBS, namespace)):
        if change.trouble:
            say(change.trouble, style="yellow")
            continue
        now = [change.changed] if change.changed else sorted(change.objects.values(), key=_place)
        if output in (Output.JSON, Output.YAML, Output.NAME):
            for item in now:
                write_objects([item], output, single=True)
        else:
            _print(now, everywhere=namespace is None, wide=output is Output.WIDE)


def _print(items: Sequence[Json], *, everywhere: bool, wide: bool) -> None:
    jobs, now = [Job(item) for item in items], datetime.now(UTC)
    columns = (*(("namespace",) if everywhere else ()), *COLUMNS, *(WIDE if wide else ()))
    rows = (
        [
            *([job.namespace] if everywhere else ()),
            *cells(job, now),
            *(_more(job) if wide else ()),
        ]
        for job in jobs
    )
    show_table(columns, rows)


def cells(job: Job, now: datetime) -> list[str | Text]:
    """What `COLUMNS` say of a job."""
    return [
        job.name,
        Text(job.phase, style=STYLES.get(job.phase, "")),
        job.status.get("progress") or NOTHING,
        job.status.get("clients") or NOTHING,
        accuracy(job.status.get("accuracy")),
        joules(job.status),
        duration(job.left_s()),
        since(job.age, now),
    ]


def _more(job: Job) -> list[str | Text]:
    spec = job.spec
    return [
        str(spec.get("mode") or "federated"),
        str((spec.get("strategy") or {}).get("name") or NOTHING),
        str((spec.get("allocation") or {}).get("policy") or NOTHING),
        amount(job.status.get("loss"), ""),
        duration(job.status.get("elapsedSeconds")),
        job.trouble() or NOTHING,
    ]


def _place(item: Json) -> tuple[str, str]:
    return item["metadata"]["namespace"], item["metadata"]["name"]
