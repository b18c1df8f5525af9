"""Writes a run's curve: csv always, PNG where Altair is installed."""

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
    from lockstep_pictures import curves, files, panels  # noqa: PLC0415 - an extra of its own

    plots = [
        curves.lines(
            {name: [curves.Point(x=p.updates, y=getattr(p, name)) for p in curve]},
            x=curves.Axis(title="updates", format="~d"),
            y=curves.Axis(title=title),
        )
        for name, title in _PLOTTED
    ]
    picture = panels.stacked(plots[:2], plots[2:], width=400, height=220)
    file.write_bytes(files.rendered(picture, "png", title="training"))
