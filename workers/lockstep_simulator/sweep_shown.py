"""What people see of a sweep: a bar on a terminal, a line a run, at the end a table and a picture.

`cli` calls it.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, stdev

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from lockstep_simulator.grid import Case
from lockstep_simulator.rows import Outcome, Row
from lockstep_simulator.sweep import Progress, Sweep, by_setting

_EVERY_SETTING = "the job as it is"


class _Lines(Progress):
    """A line for each run that is over."""

    def __init__(self, console: Console, *, runs: int, over: int) -> None:
        self._console, self._runs, self._over = console, runs, over

    def over(self, case: Case, outcome: Outcome, *, unplayed: int) -> None:
        self._over += 1
        self._console.print(
            f"run {self._over}/{self._runs}  {named(case)}: {_came(outcome)}",
            soft_wrap=True,
            markup=False,
        )


class _Bar(_Lines):
    """The same, with a bar of all rounds below."""

    def __init__(self, bars: Bars, *, runs: int, over: int, rounds: int) -> None:
        super().__init__(bars.console, runs=runs, over=over)
        self._bars, self._task = bars, bars.add_task("", total=rounds)

    def round(self, case: Case, row: Row) -> None:
        said = f"{named(case)}: round {row.round}, accuracy {row.accuracy:.4f}"
        self._bars.update(self._task, advance=1, description=said)

    def over(self, case: Case, outcome: Outcome, *, unplayed: int) -> None:
        super().over(case, outcome, unplayed=unplayed)
        self._bars.update(self._task, advance=unplayed)


@contextmanager
def showing_runs(console: Console, sweep: Sweep) -> Iterator[Progress]:
    """Shows a sweep while it runs."""
    runs, over = len(sweep.runs), len(sweep.outcomes)
    if not console.is_terminal:
        yield _Lines(console, runs=runs, over=over)
        return
    rounds = sum(most for run, most in sweep.rounds.items() if run not in sweep.outcomes)
    bars = Bars(
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.description}", markup=False),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
    )
    with bars:
        yield _Bar(bars, runs=runs, over=over, rounds=rounds)


def named(case: Case) -> str:
    """A run, for people."""
    seed = [] if case.seed is None else [f"seed {case.seed}"]
    return ", ".join([*filter(None, [case.label()]), *seed]) or _EVERY_SETTING


def _came(outcome: Outcome) -> str:
    if outcome.error:
        return f"failed: {outcome.error}"
    last = outcome.rows[-1]
    return (
        f"accuracy {last.accuracy:.4f} after {last.round} rounds, {last.time_s:.1f} s, "
        f"{last.energy_j:.1f} J"
    )


def table_of(sweep: Sweep) -> str:
    """What each setting came to at its runs' ends: mean and standard deviation over the seeds."""
    rows = [["setting", "runs", "rounds", "accuracy", "loss", "time, s", "energy, J"]]
    for setting, outcomes in by_setting(sweep).items():
        last = [one.rows[-1] for one in outcomes]
        figures = [
            _spread([one.round for one in last], digits=0),
            _spread([one.accuracy for one in last], digits=4),
            _spread([one.loss for one in last], digits=4),
            _spread([one.time_s for one in last], digits=1),
            _spread([one.energy_j for one in last], digits=1),
        ]
        rows.append([setting or _EVERY_SETTING, str(len(last)), *figures])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_aligned(row, widths) for row in rows)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    """The first to the left, figures to the right."""
    first, *figures = zip(row, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in figures)])


def _spread(values: Sequence[float], *, digits: int) -> str:
    middle = f"{mean(values):.{digits}f}"
    differ = all(map(math.isfinite, values)) and len(set(values)) > 1
    return f"{middle} ± {stdev(values):.{digits}f}" if differ else middle


def failures_of(sweep: Sweep) -> list[str]:
    """Why runs failed: a sentence for those of a setting that failed alike."""
    alike: dict[tuple[str, str], list[Case]] = {}
    for run, case in sweep.runs:
        if run in sweep.outcomes and (error := sweep.outcomes[run].error):
            alike.setdefault((case.label(), error), []).append(case)
    return [f"{_together(found)}: {error}" for (_, error), found in alike.items()]


def _together(found: Sequence[Case]) -> str:
    seeds = [str(one.seed) for one in found if one.seed is not None]
    if len(seeds) < 2:
        return named(found[0])
    label = found[0].label()
    return f"{label}, seeds {', '.join(seeds)}" if label else f"seeds {', '.join(seeds)}"


def draw(sweep: Sweep, path: Path, *, name: str) -> bool:
    """Draws the curves of all settings; whether there was something to draw.

    Raises:
        OSError: it cannot be written.
    """
    series = {
        setting or _EVERY_SETTING: [one.rows for one in outcomes]
        for setting, outcomes in by_setting(sweep).items()
    }
    if not series:
        return False
    from lockstep_simulator.plots import plot_sweep  # noqa: PLC0415 - altair takes a second

    most = max(map(len, series.values()))
    over = f": mean of {most} seeds ± standard deviation" if most > 1 else ""
    plot_sweep(series, path, title=f"{name}{over}")
    return True
