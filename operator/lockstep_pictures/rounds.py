"""Pictures of rounds: what each device did and when, how long rounds took, who was waited for.

Called by `report`. Invariant: at most `MOST_BARS` devices are drawn, whatever the job has; which
ones of many is said by `shown_of`.
"""

from collections import Counter
from collections.abc import Sequence

import altair as alt

from lockstep_pictures import curves, theme
from lockstep_pictures.model import JobFigures, Participant, RoundFigures
from lockstep_pictures.rows import MOST_POINTS, Value, data, few, quantile

MOST_BARS = 40
"""Devices of one picture with a row each."""
_MOST_NAMED = 12
_MOST_LOST = 10
"""Of them without an update, where there are many of either."""
PARTS = ("download", "compute", "upload", "wait")
_COLOURS = ("#56b4e9", "#0072b2", "#e69f00", "#dddddd")
"""Of the parts; in grey they differ as well: middle, dark, light, lightest."""


def gantt(one: RoundFigures) -> theme.Picture:
    """What each device did in a round, from its start to its aggregation."""
    shown = chosen(one)
    names = [each.client for each in shown]
    bars = [row for each in shown for row in _parts(each, one.seconds)]
    missing = [each.client for each in shown if not each.updated]
    height = alt.Y("client:N", sort=names, title=None, axis=alt.Axis(labelLimit=110))
    layers: list[alt.Chart] = [
        alt.Chart(data(bars))
        .mark_bar(height={"band": 0.72})
        .encode(
            x=alt.X("begin:Q", title="time since the round began, s"),
            x2="end:Q",
            y=height,
            color=alt.Color(
                "part:N",
                scale=alt.Scale(domain=list(PARTS), range=list(_COLOURS)),
                legend=alt.Legend(title=None, columns=4),
            ),
            tooltip=[
                alt.Tooltip("client:N", title="device"),
                alt.Tooltip("part:N", title="part"),
                alt.Tooltip("seconds:Q", title="seconds"),
                alt.Tooltip("ghz:Q", title="frequency, GHz"),
                alt.Tooltip("steps:Q", title="steps"),
            ],
        )
    ]
    if missing:
        layers.append(
            alt.Chart(data({"client": client, "end": 0.0} for client in missing))
            .mark_text(text="× no update", align="left", dx=4, color=theme.ALARM)
            .encode(x=alt.X("end:Q"), y=height)
        )
    if expected := _expected(shown):
        layers.append(
            alt.Chart(data(expected))
            .mark_tick(color=theme.INK, thickness=2, height={"band": 0.9})
            .encode(x="finish:Q", y=height, tooltip=[alt.Tooltip("text:N", title=" ")])
        )
    text = f"Round {one.round}: what {len(shown)} devices did in its {one.seconds:.3g} s"
    return alt.layer(*layers).properties(description=text, height=theme.height_of(len(shown)))


def chosen(one: RoundFigures) -> list[Participant]:
    """The devices that `gantt` shows: all, or of many the first, the last and evenly others."""
    done = one.finished()
    lost = [each for each in one.participants if not each.updated]
    shown = few(done, max(MOST_BARS - len(lost), MOST_BARS - _MOST_LOST))
    return [*shown, *lost[: MOST_BARS - len(shown)]]


def durations(job: JobFigures) -> theme.Picture:
    """How long each round took, and when half and nine tenths of its updates were in."""
    shown = few(job.rounds, MOST_POINTS)
    bars = [row for one in shown for row in _duration(one)]
    names = ["round", "9 of 10 updates in", "half of the updates in"]
    looks = [theme.COLOURS[0], theme.COLOURS[5], theme.COLOURS[6]]
    chart: alt.Chart = (
        alt.Chart(data(bars))
        .mark_line(point=curves.points(len(shown)))
        .encode(
            x=alt.X("round:Q", axis=alt.Axis(format="~d", tickMinStep=1)),
            y=alt.Y("seconds:Q", title="seconds since the round began"),
            color=alt.Color(
                "what:N", scale=alt.Scale(domain=names, range=looks), legend=curves.LINES
            ),
            strokeDash=alt.StrokeDash("what:N", scale=theme.dash_scale(names), legend=curves.LINES),
            tooltip=[
                alt.Tooltip("what:N", title=" "),
                alt.Tooltip("round:Q"),
                alt.Tooltip("seconds:Q"),
                alt.Tooltip("last:N", title="last device"),
                alt.Tooltip("note:N", title="note"),
            ],
        )
    )
    text = "How long each round took, and when most of its updates were in"
    return chart.properties(description=text, usermeta={"zoom": ["x"]})


def stragglers(job: JobFigures) -> theme.Picture:
    """Who came last, in how many rounds, and how long the others had waited by then."""
    last: Counter[str] = Counter()
    waited: dict[str, float] = {}
    for one in job.detailed():
        done = one.finished()
        if len(done) > 1:
            name, arrivals = done[-1].client, [each.arrived_s or 0.0 for each in done]
            last[name] += 1
            late = arrivals[-1] - quantile(arrivals, 0.5)
            waited[name] = waited.get(name, 0.0) + late
    values: list[dict[str, Value]] = [
        {
            "client": name,
            "rounds": count,
            "waited": waited[name] / count,
            "text": f"+{waited[name] / count:.2g} s",
        }
        for name, count in last.most_common(_MOST_NAMED)
    ]
    most = max(last.values(), default=1)
    bars = alt.Chart(data(values)).encode(
        x=alt.X(
            "rounds:Q",
            title="rounds in which it came last",
            axis=alt.Axis(format="~d", tickMinStep=1),
            scale=alt.Scale(domainMax=1.3 * most),
        ),
        y=alt.Y("client:N", sort=None, title=None),
        tooltip=[
            alt.Tooltip("client:N", title="device"),
            alt.Tooltip("rounds:Q", title="times last"),
            alt.Tooltip("waited:Q", title="then after the median, s"),
        ],
    )
    words = bars.mark_text(align="left", dx=4).encode(text="text:N")
    text = "Devices that came last, by the number of rounds in which they did"
    height = theme.height_of(len(values))
    return alt.layer(bars.mark_bar(height={"band": 0.7}), words).properties(
        description=text, height=height
    )


def _parts(one: Participant, round_s: float) -> list[dict[str, Value]]:
    if one.arrived_s is None:
        return []
    download, compute = one.download_s or 0.0, one.compute_s or 0.0
    upload = min(one.upload_s or 0.0, one.arrived_s)
    spans = (
        (0.0, download),
        (download, download + compute),
        (one.arrived_s - upload, one.arrived_s),
        (one.arrived_s, max(one.arrived_s, round_s)),
    )
    return [
        {
            "client": one.client,
            "part": part,
            "begin": begin,
            "end": end,
            "seconds": end - begin,
            "ghz": one.had_ghz,
            "steps": one.steps,
        }
        for part, (begin, end) in zip(PARTS, spans, strict=True)
        if end > begin
    ]


def _expected(shown: Sequence[Participant]) -> list[dict[str, Value]]:
    return [
        {
            "client": one.client,
            "finish": one.expected_finish_s,
            "text": f"{one.client} was expected at {one.expected_finish_s:.3g} s",
        }
        for one in shown
        if one.expected_finish_s is not None
    ]


def _duration(one: RoundFigures) -> list[dict[str, Value]]:
    done = one.finished()
    notes = [
        *(["without the planner"] if not one.planned else []),
        *([f"{one.missing} without update"] if one.missing else []),
        *([f"{sum(one.refused.values())} refused"] if one.refused else []),
    ]
    same: dict[str, Value] = {"round": one.round, "note": ", ".join(notes) or None}
    rows = [{**same, "what": "round", "seconds": one.seconds}]
    if done:
        arrivals = [each.arrived_s or 0.0 for each in done]
        rows[0]["last"] = done[-1].client
        rows.append({**same, "what": "9 of 10 updates in", "seconds": quantile(arrivals, 0.9)})
        rows.append({**same, "what": "half of the updates in", "seconds": quantile(arrivals, 0.5)})
    return rows
