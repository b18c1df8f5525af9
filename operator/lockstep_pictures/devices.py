"""Pictures of devices over a job: frequencies, bandwidths and what was decided on them, energy.

Called by `report`. Invariant: however many devices and rounds there are, a heat map has at most
`MOST_ROWS` × `MOST_COLUMNS` cells: neighbours (of one group) share a row and rounds a column, which
then have the mean, and are named for what they hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import altair as alt

from lockstep_api.names import group_of_client
from lockstep_pictures import theme
from lockstep_pictures.curves import source_title
from lockstep_pictures.model import JobFigures, Participant, RoundFigures
from lockstep_pictures.rows import MOST_POINTS, Value, data, few, shares

MOST_ROWS = 50
MOST_COLUMNS = 80
_MOST_DECISIONS = 600
_FOLLOWED = 4


@dataclass(frozen=True, slots=True)
class Row:
    """Devices that share a row of a picture."""

    name: str
    clients: tuple[str, ...]


def rows_of(clients: Sequence[str], groups: dict[str, str], *, most: int = MOST_ROWS) -> list[Row]:
    """Rows of devices: one each while there is room, else neighbours of a group together."""
    by_group: dict[str, list[str]] = {}
    for client in clients:
        by_group.setdefault(groups[client], []).append(client)
    if len(clients) <= most:
        return [Row(one, (one,)) for each in by_group.values() for one in each]
    return [
        _shared(group, members[begin:end])
        for group, members in by_group.items()
        for begin, end in shares(len(members), max(1, most * len(members) // len(clients)))
    ]


def by_name(clients: Sequence[str]) -> list[str]:
    """Clients in the order of groups and ordinals: `a-2` comes before `a-10`."""

    def key(client: str) -> tuple[str, int, str]:
        group, _, ordinal = client.rpartition("-")
        return (group, int(ordinal) if ordinal.isascii() and ordinal.isdigit() else 0, client)

    return sorted(set(clients), key=key)


def frequencies(job: JobFigures) -> theme.Picture:
    """The frequency that each device had in each round; what was asked where that is not known."""
    detailed = job.detailed()
    groups = {one.client: one.group for each in detailed for one in each.participants}
    rows = rows_of(by_name(list(groups)), groups)
    columns = [detailed[begin:end] for begin, end in shares(len(detailed), MOST_COLUMNS)]
    values = [cell for column in columns for cell in _frequency_cells(rows, column)]
    chart: alt.Chart = (
        alt.Chart(data(values))
        .mark_rect(stroke=theme.PAPER, strokeWidth=0.5)
        .encode(
            x=alt.X("round:O", title="round", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("row:N", sort=[row.name for row in rows], title=None),
            color=alt.Color(
                "ghz:Q",
                scale=theme.ramp_scale(*_range(job)),
                legend=alt.Legend(title="frequency, GHz (dark is low)", gradientLength=200),
            ),
            tooltip=[
                alt.Tooltip("row:N", title="device"),
                alt.Tooltip("rounds:N", title="round"),
                alt.Tooltip("ghz:Q", title="had, GHz"),
                alt.Tooltip("asked:Q", title="asked for, GHz"),
                alt.Tooltip("steps:Q", title="steps"),
            ],
        )
    )
    text = f"Frequency of {len(groups)} devices in {len(detailed)} rounds, in {len(rows)} rows"
    return chart.properties(description=text, height=theme.height_of(len(rows)))


def decisions(job: JobFigures) -> theme.Picture:
    """The frequency asked for over the bandwidth that was counted on, or else was met."""
    points = [
        {
            "client": one.client,
            "group": one.group,
            "round": each.round,
            "mbps": one.expected_mbps if one.expected_mbps is not None else one.mbps,
            "ghz": one.asked_ghz,
            "steps": one.asked_steps,
        }
        for each in job.detailed()
        for one in each.participants
    ]
    told = [one for one in points if one["mbps"] is not None and one["ghz"] is not None]
    names = [group.name for group in job.groups]
    chart: alt.Chart = (
        alt.Chart(data(few(told, _MOST_DECISIONS)))
        .mark_point(filled=True, size=40, opacity=0.65)
        .encode(
            x=alt.X("mbps:Q", title="bandwidth of the uplink, Mbit/s"),
            y=alt.Y("ghz:Q", title="frequency asked for, GHz", scale=alt.Scale(zero=False)),
            color=alt.Color("group:N", scale=theme.colour_scale(names)),
            shape=alt.Shape("group:N", scale=theme.shape_scale(names)),
            tooltip=[
                alt.Tooltip("client:N", title="device"),
                alt.Tooltip("round:Q"),
                alt.Tooltip("mbps:Q", title="Mbit/s"),
                alt.Tooltip("ghz:Q", title="GHz asked for"),
                alt.Tooltip("steps:Q", title="steps asked for"),
            ],
        )
    )
    text = "Frequency asked for over the bandwidth counted on: a mark a device and round"
    return chart.properties(description=text, usermeta={"zoom": ["x", "y"]})


def followed(job: JobFigures) -> list[str]:
    """A few devices to look at more closely: from the slowest uplink to the fastest."""
    met: dict[str, list[float]] = {}
    for each in job.detailed():
        for one in each.participants:
            if one.mbps is not None:
                met.setdefault(one.client, []).append(one.mbps)
    return few(sorted(met, key=lambda client: (fmean(met[client]), client)), _FOLLOWED)


def bandwidth(job: JobFigures, client: str) -> theme.Picture:
    """A device's bandwidth by round, as counted on and as met; marks tell the frequency chosen."""
    mine = [
        (each, one) for each in job.detailed() for one in each.participants if one.client == client
    ]
    values = [_met(each, one) for each, one in few(mine, MOST_POINTS)]
    kinds = ["met by the upload", "counted on by the plan"]
    base = alt.Chart(data(values)).encode(
        x=alt.X("round:Q", title="round", axis=alt.Axis(format="~d", tickMinStep=1))
    )
    layers = [
        base.mark_line(color=theme.QUIET, strokeDash=list(dash), opacity=0.8).encode(
            y=alt.Y(f"{field}:Q", title="uplink of the device, Mbit/s"),
            detail=alt.Detail("kind:N"),
            tooltip=[alt.Tooltip("round:Q"), alt.Tooltip(f"{field}:Q", title=f"Mbit/s {kind}")],
        )
        for field, kind, dash in zip(("met", "counted"), kinds, theme.DASHES, strict=False)
        if any(row[field] is not None for row in values)
    ]
    marks = base.mark_point(
        filled=True, opacity=1, size=80, stroke=theme.INK, strokeWidth=0.6
    ).encode(
        y=alt.Y("mark:Q", title="uplink of the device, Mbit/s"),
        color=alt.Color(
            "ghz:Q",
            scale=theme.ramp_scale(*_range(job, client)),
            legend=alt.Legend(title="frequency asked for, GHz (dark is low)", gradientLength=200),
        ),
        tooltip=[
            alt.Tooltip("round:Q"),
            alt.Tooltip("ghz:Q", title="GHz asked for"),
            alt.Tooltip("had:Q", title="GHz that it had"),
            alt.Tooltip("counted:Q", title="Mbit/s counted on"),
            alt.Tooltip("met:Q", title="Mbit/s met"),
        ],
    )
    text = f"Bandwidth of {client} by round, and the frequency that was chosen for it"
    return alt.layer(*layers, marks).properties(description=text, usermeta={"zoom": ["x"]})


def energy_by_device(job: JobFigures, source: str) -> theme.Picture:
    """Energy of each device by one source, in the rounds of which devices are known."""
    spent: dict[str, float] = {}
    groups: dict[str, str] = {}
    for each in job.detailed():
        for one in each.participants:
            groups[one.client] = one.group
            spent[one.client] = spent.get(one.client, 0.0) + one.energy.get(source, 0.0)
    rows = rows_of(by_name(list(spent)), groups, most=MOST_ROWS)
    names = [group.name for group in job.groups]
    values = [_spent(row, spent, group=groups[row.clients[0]]) for row in rows]
    bars = alt.Chart(data(values)).encode(
        y=alt.Y("row:N", sort=[row.name for row in rows], title=None)
    )
    tips = [
        alt.Tooltip("row:N", title="device"),
        alt.Tooltip("joules:Q", title="J (mean where several)"),
        alt.Tooltip("low:Q", title="least, J"),
        alt.Tooltip("high:Q", title="most, J"),
    ]
    title = f"energy of a device ({source_title(source)}), J"
    drawn = bars.mark_bar(height={"band": 0.7}).encode(
        x=alt.X("joules:Q", title=title),
        color=alt.Color("group:N", scale=theme.colour_scale(names)),
        tooltip=tips,
    )
    layers = [drawn]
    if any(len(row.clients) > 1 for row in rows):
        layers.append(bars.mark_rule(color=theme.INK).encode(x="low:Q", x2="high:Q", tooltip=tips))
    text = f"Energy of {len(spent)} devices by source {source_title(source)}, in {len(rows)} rows"
    return alt.layer(*layers).properties(description=text, height=theme.height_of(len(rows)))


def _shared(group: str, members: Sequence[str]) -> Row:
    first, last = members[0], members[-1].rpartition("-")[2]
    return Row(first if len(members) == 1 else f"{first} … {last}", tuple(members))


def _range(job: JobFigures, client: str = "") -> tuple[float, float] | tuple[()]:
    """From the least frequency that the manifest allows to the greatest, of all or of one's."""
    group = group_of_client(client)
    mine = [one for one in job.groups if not client or one.name == group]
    return (min(one.min_ghz for one in mine), max(one.max_ghz for one in mine)) if mine else ()


def _frequency_cells(rows: Sequence[Row], column: Sequence[RoundFigures]) -> list[dict[str, Value]]:
    known: dict[str, list[Participant]] = {}
    for each in column:
        for one in each.participants:
            known.setdefault(one.client, []).append(one)
    first, last = column[0].round, column[-1].round
    cells: list[dict[str, Value]] = []
    for row in rows:
        there = [one for client in row.clients for one in known.get(client, ())]
        had = [one.had_ghz if one.had_ghz is not None else one.asked_ghz for one in there]
        if told := [ghz for ghz in had if ghz is not None]:
            cells.append({
                "row": row.name,
                "round": first,
                "rounds": str(first) if first == last else f"{first} to {last}",
                "ghz": fmean(told),
                "asked": _mean([one.asked_ghz for one in there]),
                "steps": _mean([one.steps for one in there]),
            })  # fmt: skip
    return cells


def _mean(values: Sequence[float | None]) -> float | None:
    told = [one for one in values if one is not None]
    return fmean(told) if told else None


def _met(each: RoundFigures, one: Participant) -> dict[str, Value]:
    return {
        "round": each.round,
        "met": one.mbps,
        "counted": one.expected_mbps,
        "mark": one.expected_mbps if one.expected_mbps is not None else one.mbps,
        "ghz": one.asked_ghz,
        "had": one.had_ghz,
    }


def _spent(row: Row, spent: dict[str, float], *, group: str) -> dict[str, Value]:
    values = [spent[client] for client in row.clients]
    several = len(values) > 1
    return {
        "row": row.name,
        "group": group,
        "joules": fmean(values),
        "low": min(values) if several else None,
        "high": max(values) if several else None,
    }
