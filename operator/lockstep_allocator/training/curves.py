"""Writes a run's curve: csv always, PNG where matplotlib is installed."""

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lockstep_allocator.training.train import Point

_PLOTTED = (
    ("gap_closed", "gap closed on validation traces, %"),
    ("regret", "excess over the optimum, %"),
    ("value_loss", "value loss / variance of returns"),
    ("clip_fraction", "share of clipped ratios"),
)


def write_csv(curve: Sequence[Point], file: Path) -> None:
    """One row an evaluation."""
    with file.open("w", newline="") as text:
        rows = csv.DictWriter(text, fieldnames=list(Point.__dataclass_fields__))
        rows.writeheader()
        rows.writerows(asdict(point) for point in curve)


def write_png(curve: Sequence[Point], file: Path) -> None:
    """Four curves over the updates."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra of its own

    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, _PLOTTED, strict=True):
        axes.plot([p.updates for p in curve], [getattr(p, name) for p in curve])
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("updates")
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
