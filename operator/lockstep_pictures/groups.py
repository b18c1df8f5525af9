"""Curves of device groups over rounds: the mean of a group, from its least to its greatest device.

Called by the simulator's pictures. Invariant: devices without an update count in no mean.
"""

from collections.abc import Callable
from statistics import fmean

from lockstep_pictures import theme
from lockstep_pictures.curves import Axis, Point, lines
from lockstep_pictures.model import JobFigures, Participant, RoundFigures

Figure = Callable[[Participant], float | None]


def frequencies(job: JobFigures) -> theme.Picture:
    """The frequency that devices had."""
    return _over_rounds(job, lambda one: one.had_ghz, title="CPU frequency, GHz")


def steps(job: JobFigures) -> theme.Picture:
    """The local steps that devices did."""
    return _over_rounds(job, lambda one: one.steps, title="local steps")


def _over_rounds(job: JobFigures, figure: Figure, *, title: str) -> theme.Picture:
    series = {
        group.name: [_point(one, group.name, figure=figure) for one in job.detailed()]
        for group in job.groups
    }
    return lines(series, x=Axis(title="round", format="~d"), y=Axis(title=title, zero=True))


def _point(one: RoundFigures, group: str, *, figure: Figure) -> Point:
    """A group that gave nothing in this round leaves a gap."""
    values = [
        value
        for each in one.participants
        if each.group == group and (value := figure(each)) is not None
    ]
    if not values:
        return Point(x=one.round, y=None, round=one.round)
    low, high = (min(values), max(values)) if len(values) > 1 else (None, None)
    return Point(x=one.round, y=fmean(values), low=low, high=high, round=one.round)
