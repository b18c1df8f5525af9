"""The screens of `watch`: one job with its devices, or many jobs in a line each; pure.

Invariant: what fits is shown and what does not is counted; a screen is never wider or higher than
the terminal. Elsewhere than on a terminal a round is one line.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lockstep_api.status import Phase
from lockstep_cli.devices import COLUMNS, Device, row, shown_columns
from lockstep_cli.facts import STYLES, Job, accuracy, amount, duration, joules
from lockstep_cli.shown import NOTHING, natural_width, table

_LEVELS = "▁▂▃▄▅▆▇█"
_HEAD_LINES = 8
"""Of a job's screen above its devices, with those that are there now and then."""
_DROPPED_FIRST = ("remark", "steps", "energy", "limit", "cluster", "edge", "Mbit/s")
"""Columns of devices, where a terminal is narrow."""
_LABEL = 10
_MOST_BAR = 48
_MOST = 1e9
"""Of a curve's values: what is beyond is drawn there."""


@dataclass(frozen=True, slots=True)
class Size:
    """Of a terminal."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A job as it is now."""

    job: Job
    devices: Sequence[Device] = ()
    accuracies: Sequence[float] = ()
    """After each round that is known, oldest first."""
    since_s: float = 0.0
    """Seconds since its status came."""
    round_s: float | None = None
    """Seconds for which the round goes on; None when nobody saw it begin."""
    note: str = ""
    trouble: str = ""
    """Why the cluster is not heard."""


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve in a line of text: the lowest value is the lowest block."""
    values = [max(-_MOST, min(_MOST, one)) for one in values if not math.isnan(one)]
    if not values or width < 1:
        return ""
    chosen = [values[place * len(values) // width] for place in range(width)]
    chosen = list(values) if len(values) <= width else [*chosen[:-1], values[-1]]
    low, high = min(chosen), max(chosen)
    span = (high - low) or 1.0
    return "".join(_LEVELS[round((value - low) / span * (len(_LEVELS) - 1))] for value in chosen)


def one_job(seen: Seen, size: Size) -> RenderableType:
    """A job's screen."""
    parts: list[RenderableType] = [_head(seen.job), _rounds(seen, size), _accuracy(seen, size)]
    if (going := _going(seen)) is not None:
        parts.append(going)
    if trouble := seen.job.trouble():
        parts.append(_cut(Text(trouble, "yellow"), size))
    parts += [Text(), _devices(seen.devices, size)]
    for line in (seen.note, seen.trouble):
        if line:
            parts.append(_cut(Text(line, "yellow"), size))
    return Group(*parts)


def many_jobs(all_seen: Sequence[Seen], size: Size) -> RenderableType:
    """A line for each job."""
    room = max(size.height - 3, 1)
    wide = size.width >= 110
    energy = ["energy"] if wide else []
    columns = ["namespace", "name", "phase", "round", "progress", "accuracy", *energy, "left"]
    made = table(columns, [])
    for seen in all_seen[:room]:
        job = seen.job
        made.add_row(
            job.namespace,
            job.name,
            Text(job.phase, STYLES.get(job.phase, "")),
            f"{job.round}/{job.rounds}",
            bar(job, 24 if wide else 12),
            Text.assemble(
                accuracy(job.status.get("accuracy")),
                " ",
                (sparkline(seen.accuracies, 16 if wide else 8), "cyan"),
            ),
            *([joules(job.status)] if wide else []),
            duration(left_s(seen)),
        )
    if not all_seen:
        return Text("no jobs yet", "dim")
    more = len(all_seen) - room
    return Group(made, Text(f"and {more} more", "dim")) if more > 0 else made


def line_of(job: Job) -> str:
    """A round of a job, where there is no screen."""
    status = job.status
    told = [
        f"{job.name}  {job.phase}",
        f"round {job.round}/{job.rounds}",
        f"clients {status.get('clients') or NOTHING}",
        f"accuracy {accuracy(status.get('accuracy'))}",
        f"loss {amount(status.get('loss'), '')}",
        f"energy {joules(status)}",
        f"{duration(status.get('elapsedSeconds'))}, {duration(job.left_s())} left",
    ]
    return "  ".join(told)


def left_s(seen: Seen) -> float | None:
    """What is left, less what went by since it was reckoned."""
    found = seen.job.left_s()
    return None if found is None else max(found - seen.since_s, 0.0)


def _head(job: Job) -> Text:
    spec = job.spec
    told = (
        job.namespace,
        spec.get("mode"),
        (spec.get("strategy") or {}).get("name"),
        f"frequencies by {(spec.get('allocation') or {}).get('policy')}",
    )
    return Text.assemble(
        (job.name, "bold"),
        "  ",
        (job.phase, STYLES.get(job.phase, "")),
        ("   " + " · ".join(str(one) for one in told if one), "dim"),
        overflow="ellipsis",
        no_wrap=True,
    )


def _labelled(label: str, *cells: RenderableType) -> Table:
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(width=_LABEL - 2)
    for _ in cells:
        made.add_column(no_wrap=True)
    made.add_row(Text(label, "dim"), *cells)
    return made


def bar(job: Job, width: int) -> Text:
    """How far a job is; readable without colours."""
    done = max(0, min(width * job.round // max(job.rounds, 1), width))
    colour = "red" if job.phase in (Phase.FAILED, Phase.REFUSED) else "green"
    return Text.assemble(("━" * done, colour), ("─" * (width - done), "dim"))


def _rounds(seen: Seen, size: Size) -> Table:
    job = seen.job
    width = max(min(size.width - _LABEL - 36, _MOST_BAR), 8)
    left = left_s(seen)
    told = f"{job.round}/{job.rounds}"
    told += f"  {duration(left)} left" if left is not None else ""
    if not job.ended and (clients := job.status.get("clients")):
        told += f"  {clients} clients"
    return _labelled("rounds", bar(job, width), told)


def _accuracy(seen: Seen, size: Size) -> Table:
    status = seen.job.status
    width = max(min(size.width - _LABEL - 46, _MOST_BAR), 8)
    told = f"loss {amount(status.get('loss'), '')}  {joules(status)}"
    told += f"  in {duration(status.get('elapsedSeconds'))}"
    curve = Text(sparkline(seen.accuracies, width), "cyan")
    return _labelled("accuracy", Text(accuracy(status.get("accuracy")), "bold"), curve, told)


def _going(seen: Seen) -> Table | None:
    """The round that goes on, beside what the last one took."""
    last = (seen.job.status.get("lastRound") or {}).get("seconds")
    if seen.job.phase != Phase.RUNNING:
        return None
    plan = (seen.job.status.get("lastPlan") or {}).get("round") or seen.job.round + 1
    going = f" for {seen.round_s:.0f} s" if seen.round_s is not None else ""
    usual = f", the last took {last:.3g} s" if last else ""
    return _labelled("round", f"{plan}{going}{usual}")


def _devices(devices: Sequence[Device], size: Size) -> RenderableType:
    """Those that are not well come first, so that they are seen."""
    room = max(size.height - _HEAD_LINES - 2, 1)
    ordered = sorted(devices, key=lambda device: device.well)[:room]
    kept = shown_columns(devices, COLUMNS)
    droppable = [COLUMNS.index(name) for name in _DROPPED_FIRST]
    made = _table_of(ordered, kept)
    while natural_width(made) > size.width and droppable:
        dropped = droppable.pop(0)
        kept = [place for place in kept if place != dropped]
        made = _table_of(ordered, kept)
    if len(devices) <= room:
        return made
    return Group(made, Text(f"and {len(devices) - room} more: lockstep devices", "dim"))


def _table_of(devices: Sequence[Device], kept: Sequence[int]) -> Table:
    rows = [[row(device)[place] for place in kept] for device in devices]
    made = table([COLUMNS[place] for place in kept], rows, gap=2)
    for column in made.columns:
        column.overflow = "ellipsis"
    return made


def _cut(text: Text, size: Size) -> Text:
    """One line."""
    text.truncate(max(size.width - 1, 1), overflow="ellipsis")
    return text
