"""The pictures of the page: accuracy against fedavg, and curves by round."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench.split.arms import ARMS, FEDAVG, KL, LABELS, MUTUAL, RANDOM, Setting
from tests.bench.split.figures import BySeed, difference
from tests.bench.split.runs import Bench

_SHOWN = (FEDAVG, RANDOM, KL, LABELS, MUTUAL)


def draw(bench: Bench, folder: Path) -> None:
    """Both, into a folder; a setting without a run has no panel, unless none has one."""
    settings = [one for one in bench.settings() if _has_runs(bench, one)] or bench.settings()
    for name, panel in (("split-accuracy.png", _bars), ("split-curves.png", _curves)):
        figure = Figure(figsize=(4.6 * len(settings), 3.6), layout="constrained")
        panels: Sequence[Axes] = list(np.atleast_1d(figure.subplots(1, len(settings))).flat)
        for axes, setting in zip(panels, settings, strict=True):
            panel(axes, bench, setting)
        figure.savefig(folder / name, dpi=90)


def _has_runs(bench: Bench, setting: Setting) -> bool:
    return any(bench.tuned(arm) for arm in ARMS[setting.name].values())


def _bars(axes: Axes, bench: Bench, setting: Setting) -> None:
    """Points against fedavg; whiskers are standard errors."""
    arms = ARMS[setting.name]
    fedavg = bench.tuned(arms[FEDAVG])
    for name, arm in reversed(list(arms.items())):
        found = difference(bench.tuned(arm), fedavg)
        if name != FEDAVG and found is not None:
            axes.barh(name, found.value, xerr=np.nan_to_num(found.error), color="C0")
    axes.axvline(0, color="k", lw=0.8)
    axes.set_title(f"{setting.name}: points against fedavg", fontsize=9)
    axes.tick_params(labelsize=7)


def _curves(axes: Axes, bench: Bench, setting: Setting) -> None:
    """Mean accuracy of the edges' model by round, and (dashed) of the cloud's."""
    for number, name in enumerate(_SHOWN):
        if runs := bench.tuned(ARMS[setting.name][name]):
            _line(axes, runs, label=name, color=f"C{number}")
    axes.set(title=setting.name, xlabel="round", ylabel="accuracy, %")
    axes.title.set_fontsize(9)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=7)


def _line(axes: Axes, runs: BySeed, *, label: str, color: str) -> None:
    rounds = next(iter(runs.values())).rounds
    edge = 100 * np.array([curve.edge for curve in runs.values()])
    axes.plot(rounds, edge.mean(axis=0), lw=1.2, color=color, label=label)
    if all(curve.cloud for curve in runs.values()):
        cloud = 100 * np.array([curve.cloud for curve in runs.values()])
        axes.plot(rounds, cloud.mean(axis=0), lw=0.9, ls="--", color=color)
