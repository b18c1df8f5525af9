"""The csv of a sweep: a row for each run and round, or for why a run failed; `sweep` writes it.

Invariant: the file is whole after every run, its rows stand in the order of the runs, and the
column `run` tells apart whatever has an influence on a run, so that a sweep can go on.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lockstep_admission.errors import Refused
from lockstep_simulator.grid import Case
from lockstep_simulator.simulated import SimulatedRound
from lockstep_workers.files import write_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A round of a run; sums count from the run's start."""

    round: int
    accuracy: float
    loss: float
    time_s: float
    energy_j: float
    bytes: int
    steps: int
    """Of all devices, in this round."""
    clients: int
    """Accepted updates of this round."""
    divergence: float | None = None
    """Mean KL of the clusters' labels, in nats; None: there are none."""
    cloud_accuracy: float | None = None
    """None: nothing was distilled."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run."""

    rows: tuple[Row, ...] = ()
    error: str = ""
    """Why it failed; empty: it did not."""


_FIGURES = tuple(one.name for one in fields(Row))
_TIERS = ("divergence", "cloud_accuracy")
"""Empty where they do not apply, and not in older files."""
_WHOLE = ("round", "bytes", "steps", "clients")


def row_of(done: SimulatedRound) -> Row:
    """A round as a row."""
    return Row(
        round=done.round,
        accuracy=done.accuracy,
        loss=done.loss,
        time_s=done.time_s,
        energy_j=done.energy_j,
        bytes=done.bytes,
        steps=sum(done.steps.values()),
        clients=len(done.report.clients),
        divergence=done.divergence,
        cloud_accuracy=done.cloud_accuracy,
    )


def write_rows(
    path: Path, cases: Sequence[tuple[str, Case]], *, outcomes: Mapping[str, Outcome]
) -> None:
    """Writes what is known of the runs.

    Args:
        path: the file.
        cases: all runs, by their ids.
        outcomes: id → what became of it, of the runs that are over.

    Raises:
        OSError: it cannot be written.
    """
    text = io.StringIO()
    paths = [path for path, _ in cases[0][1].values] if cases else []
    table = csv.DictWriter(text, ["run", *paths, "seed", *_FIGURES, "error"], lineterminator="\n")
    table.writeheader()
    for run, case in cases:
        outcome = outcomes.get(run)
        if outcome is None:
            continue
        same = {"run": run, **dict(case.values), "seed": case.seed}
        table.writerows({**same, **asdict(one)} for one in outcome.rows)
        if outcome.error:
            table.writerow({**same, "error": outcome.error})
    write_whole(path, text.getvalue().encode())


def read_rows(path: Path) -> dict[str, Outcome]:
    """The runs of a file of `write_rows` that did not fail; none when it is not there.

    Raises:
        Refused: it is another file.
    """
    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as text:
            found = list(csv.DictReader(text))
        kept: dict[str, list[Row]] = {}
        failed = {one["run"] for one in found if one["error"]}
        for one in found:
            if one["run"] not in failed:
                kept.setdefault(one["run"], []).append(_row(one))
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise Refused(
            [f"{path} is no csv of a sweep ({error!r}): name another with --out"]
        ) from error
    return {run: Outcome(tuple(rows)) for run, rows in kept.items()}


def _row(told: Mapping[str, str]) -> Row:
    numbers = {name: float(told[name]) for name in _FIGURES if name not in (*_WHOLE, *_TIERS)}
    tiers = {name: float(text) for name in _TIERS if (text := told.get(name))}
    return Row(**numbers, **tiers, **{name: int(told[name]) for name in _WHOLE})  # type: ignore[arg-type]
