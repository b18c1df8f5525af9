"""`lockstep events`: what was said of a job and of what belongs to it, oldest first."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from lockstep_cli.cluster import Cluster
from lockstep_cli.events import Wanted, by_time, events_of, last_seen
from lockstep_cli.facts import since
from lockstep_cli.follow import follow
from lockstep_cli.jobs import find_job, its_events
from lockstep_cli.options import Job, on_cluster
from lockstep_cli.shown import (
    Json,
    Output,
    OutputOption,
    say,
    show_table,
    write_objects,
)

COLUMNS = ("last seen", "type", "reason", "object", "message")


@on_cluster
def events(
    cluster: Cluster,
    *,
    job: Job,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on with new ones, until Ctrl-C.")
    ] = False,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Also resizes, probes, and the daily life of pods."),
    ] = False,
    output: OutputOption = None,
) -> None:
    """Events of a job, its pods, sets and volume, oldest first."""
    found = find_job(cluster, job)
    wanted = Wanted(found.name, everything=everything)
    if watch:
        _follow(cluster, wanted, output=output)
        return
    said = events_of(cluster, wanted)
    if output in (Output.JSON, Output.YAML, Output.NAME):
        write_objects(said, output)
    elif said:
        show(said)
    else:
        say(f"no events of {found.name}: the cluster forgets them after an hour")


def _follow(cluster: Cluster, wanted: Wanted, *, output: Output | None) -> None:
    """Each event once, and again when it is repeated."""
    told: set[tuple[str, str]] = set()
    for change in follow(cluster, its_events(cluster.namespace)):
        if change.trouble:
            say(change.trouble, style="yellow")
            continue
        new = [change.changed] if change.changed else by_time(change.objects.values())
        fresh = [one for one in new if wanted.has(one) and _version(one) not in told]
        told |= {_version(one) for one in fresh}
        if output in (Output.JSON, Output.YAML, Output.NAME):
            for one in fresh:
                write_objects([one], output, single=True)
        elif fresh:
            show(fresh)


def _version(event: Json) -> tuple[str, str]:
    meta = event["metadata"]
    return meta["uid"], meta["resourceVersion"]


def show(said: Iterable[Json]) -> None:
    """A table of events."""
    now = datetime.now(UTC)
    show_table(COLUMNS, rows(said, now), fold=True)


def rows(said: Iterable[Json], now: datetime) -> Iterable[list[str | Text]]:
    """Events as cells."""
    for one in said:
        about, times = one["involvedObject"], int(one.get("count") or 1)
        style = "yellow" if one.get("type") == "Warning" else ""
        again = f" (×{times})" if times > 1 else ""
        yield [
            since(last_seen(one), now),
            Text(str(one.get("type") or ""), style=style),
            str(one.get("reason") or ""),
            f"{about['kind'].lower()}/{about['name']}",
            " ".join(str(one.get("message") or "").split()) + again,
        ]
