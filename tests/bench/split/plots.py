"""The pictures of the page: accuracy against fedavg, and curves by round."""

from pathlib import Path

import numpy as np

from lockstep_pictures.bars import Bar, bars
from lockstep_pictures.curves import Axis, Point, lines
from lockstep_pictures.files import rendered
from lockstep_pictures.panels import stacked
from lockstep_pictures.theme import Picture
from tests.bench.split.arms import ARMS, FEDAVG, KL, LABELS, MUTUAL, RANDOM, Setting
from tests.bench.split.figures import difference
from tests.bench.split.runs import Bench

_SHOWN = (FEDAVG, RANDOM, KL, LABELS, MUTUAL)


def draw(bench: Bench, folder: Path) -> None:
    """Both, into a folder; a setting without a run has no panel, unless none has one."""
    settings = [one for one in bench.settings() if _has_runs(bench, one)] or bench.settings()
    for name, title, panel, height in (
        ("split-accuracy.png", "Accuracy", _bars, None),
        ("split-curves.png", "Accuracy of the edges' and (cloud) the cloud's model", _curves, 220),
    ):
        plots = [panel(bench, setting) for setting in settings]
        picture = stacked(plots, width=330, height=height)
        (folder / name).write_bytes(rendered(picture, "png", title=title, scale=1.5))


def _has_runs(bench: Bench, setting: Setting) -> bool:
    return any(bench.tuned(arm) for arm in ARMS[setting.name].values())


def _bars(bench: Bench, setting: Setting) -> Picture:
    """Points against fedavg; whiskers are standard errors."""
    arms = ARMS[setting.name]
    fedavg = bench.tuned(arms[FEDAVG])
    shown = [
        Bar(name=name, value=found.value, error=found.error)
        for name, arm in arms.items()
        if name != FEDAVG and (found := difference(bench.tuned(arm), fedavg)) is not None
    ]
    return bars(shown, x=Axis(title="points against fedavg"), title=setting.name)


def _curves(bench: Bench, setting: Setting) -> Picture:
    """Mean accuracy of the edges' model by round, and of the cloud's."""
    series: dict[str, list[Point]] = {}
    for name in _SHOWN:
        if runs := bench.tuned(ARMS[setting.name][name]):
            rounds = next(iter(runs.values())).rounds
            series[name] = _mean(rounds, [curve.edge for curve in runs.values()])
            if all(curve.cloud for curve in runs.values()):
                cloud = [curve.cloud for curve in runs.values()]
                series[f"{name} (cloud)"] = _mean(rounds, cloud)
    return lines(
        series, x=Axis(title="round", format="~d"), y=Axis(title=f"{setting.name}: accuracy, %")
    )


def _mean(rounds: tuple[int, ...], runs: list[tuple[float, ...]]) -> list[Point]:
    means = 100 * np.array(runs).mean(axis=0)
    return [Point(x=number, y=float(y)) for number, y in zip(rounds, means, strict=True)]
