"""Curves of several runs as one: their mean, within a standard deviation.

Called by sweeps and benches, whose runs differ in their seed. Invariant: a single run is drawn as
it is, and several only where all of them are.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lockstep_pictures.curves import Point

_POINTS = 200

Run = Sequence[tuple[float, float]]
"""x and y of each round of a run."""


def banded(runs: Sequence[Run], *, every: float | None = None) -> list[Point]:
    """The mean of runs between their standard deviations; of one run its own points.

    Args:
        runs: x rises within each; what is not finite leaves a gap.
        every: the step of x of the result (1 for rounds); None: fine enough for the eye.
    """
    kept = [np.asarray(run, np.float64) for run in runs if len(run)]
    if len(kept) <= 1:
        return [Point(x=float(x), y=float(y)) for run in kept for x, y in run]
    shared = _grid(kept, every)
    values = np.stack([np.interp(shared, run[:, 0], _gaps(run[:, 1])) for run in kept])
    mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1)
    return [
        Point(x=float(x), y=float(y), low=float(y - width), high=float(y + width))
        for x, y, width in zip(shared, mean, spread, strict=True)
    ]


def _grid(runs: Sequence[NDArray[np.float64]], every: float | None) -> NDArray[np.float64]:
    """Where all runs are: from the latest beginning to the earliest end."""
    begin = max(float(run[0, 0]) for run in runs)
    end = max(begin, min(float(run[-1, 0]) for run in runs))
    count = _POINTS if every is None else max(1, round((end - begin) / every) + 1)
    return np.linspace(begin, end, count)


def _gaps(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan)
