"""What people see of a simulation: a bar on a terminal, else a line a round; at the end a table."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from lockstep_simulator.simulated import SimulatedRound
from lockstep_simulator.summing_up import Summary

_MB = 1e6


class Show(Protocol):
    """Shows rounds."""

    def __call__(self, done: SimulatedRound, /) -> None:
        """A round is done."""


@contextmanager
def showing(console: Console, *, rounds: int, quiet: bool = False) -> Iterator[Show]:
    """Shows rounds while a simulation runs; `quiet`: on a terminal only."""
    if not console.is_terminal:
        yield (lambda _: None) if quiet else lambda done: console.print(line(done, rounds=rounds))
        return
    bars = Bars(
        TextColumn("round"),
        MofNCompleteColumn(),
        BarColumn(bar_width=30),
        TextColumn("{task.description}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
    )
    with bars:
        task = bars.add_task("", total=rounds)
        yield lambda done: bars.update(task, completed=done.round, description=figures(done))


def figures(done: SimulatedRound) -> str:
    """A round's figures, short."""
    cloud = "" if done.cloud_accuracy is None else f"cloud {done.cloud_accuracy:.4f}  "
    return (
        f"accuracy {done.accuracy:.4f}  {cloud}loss {done.loss:.4f}  "
        f"{done.time_s:.1f} s  {done.energy_j:.1f} J"
    )


def line(done: SimulatedRound, *, rounds: int) -> str:
    """A round as a line."""
    lost = f"  lost {len(done.report.lost)}" if done.report.lost else ""
    return f"round {done.round}/{rounds}  {figures(done)}{lost}"


def _privacy(summary: Summary) -> dict[str, str]:
    if summary.epsilon is None:
        return {}
    unit = f"ε {summary.epsilon:.4g}, δ {summary.delta:.2g}"
    return {"privacy": f"{unit} for a client, on devices: noise that repeats hides nothing"}


def table(summary: Summary, *, real_s: float) -> str:
    """What came of a simulation."""
    cloud = summary.cloud_accuracy
    rows = {
        "result": summary.message,
        "accuracy": f"{summary.accuracy:.4f}, best {summary.best_accuracy:.4f}",
        **({} if cloud is None else {"cloud's model": f"accuracy {cloud:.4f}"}),
        "loss": f"{summary.loss:.4f}",
        **_privacy(summary),
        "time": f"{summary.time_s:.1f} s on the devices' clock",
        "energy": f"{summary.energy_j:.1f} J by the devices' energy model",
        "uploads": f"{summary.bytes / _MB:.1f} MB",
        "work per step": f"{1000 * summary.work_per_step:.3g} ms of a core",
        "simulated in": f"{real_s:.1f} s",
    }
    return "\n".join(f"{name:14} {value}" for name, value in rows.items())
