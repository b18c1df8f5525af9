"""Pictures of data: which labels each device and each cluster holds.

Called by `report`. Invariant: no more rows and columns than `devices.MOST_ROWS` and `MOST_LABELS`;
a row shows shares of its own examples, so that large and small ones compare.
"""

from collections.abc import Mapping, Sequence

import altair as alt

from lockstep_pictures import theme
from lockstep_pictures.devices import MOST_ROWS, Row, by_name, rows_of
from lockstep_pictures.model import JobFigures
from lockstep_pictures.rows import Value, data, shares

MOST_LABELS = 50


def of_devices(job: JobFigures) -> theme.Picture:
    """Labels of the devices; few are ordered by clusters where there are some, else by name."""
    held = {one.client: one.labels for one in job.clients if any(one.labels)}
    cluster = clusters_of(job) if len(held) <= MOST_ROWS else {}
    groups = {one.client: cluster.get(one.client, one.group) for one in job.clients}
    names = sorted(by_name(list(held)), key=lambda client: cluster.get(client, ""))
    rows = rows_of(names, groups, most=MOST_ROWS)
    text = f"Labels that {len(held)} devices hold, in {len(rows)} rows"
    return _shares(rows, held, what="device").properties(description=text)


def of_clusters(job: JobFigures) -> theme.Picture:
    """Labels of the newest round's clusters."""
    held = {one.client: one.labels for one in job.clients if any(one.labels)}
    last = next((one for one in reversed(job.rounds) if one.clusters), None)
    rows = [
        Row(one.cluster, members)
        for one in (last.clusters if last else ())
        if (members := tuple(client for client in one.clients if client in held))
    ]
    chart = _shares(rows[:MOST_ROWS], held, what="cluster")
    text = f"Labels of {len(rows)} clusters, the first {MOST_ROWS} of them at most"
    return chart.properties(description=text)


def clusters_of(job: JobFigures) -> dict[str, str]:
    """Client → its cluster in the newest round that had some."""
    last = next((one for one in reversed(job.rounds) if one.clusters), None)
    return {
        client: one.cluster for one in (last.clusters if last else ()) for client in one.clients
    }


def _shares(rows: Sequence[Row], held: Mapping[str, Sequence[int]], *, what: str) -> alt.Chart:
    labels = max((len(held[client]) for row in rows for client in row.clients), default=0)
    columns = shares(labels, MOST_LABELS)
    values = [cell for row in rows for cell in _cells(row, held, columns=columns)]
    chart: alt.Chart = (
        alt.Chart(data(values))
        .mark_rect(stroke=theme.PAPER, strokeWidth=0.5)
        .encode(
            x=alt.X(
                "label:N",
                sort=[_label(*one) for one in columns],
                title="label",
                axis=alt.Axis(labelAngle=0),
            ),
            y=alt.Y("row:N", sort=[row.name for row in rows], title=None),
            color=alt.Color(
                "share:Q",
                scale=theme.ramp_scale(),
                legend=alt.Legend(
                    title=f"share of the {what}'s examples (dark is few)",
                    format=".0%",
                    gradientLength=200,
                ),
            ),
            tooltip=[
                alt.Tooltip("row:N", title=what),
                alt.Tooltip("label:N", title="label"),
                alt.Tooltip("examples:Q", title="examples"),
                alt.Tooltip("share:Q", title="share", format=".1%"),
            ],
        )
    )
    return chart.properties(height=theme.height_of(len(rows)))


def _cells(
    row: Row, held: Mapping[str, Sequence[int]], *, columns: Sequence[tuple[int, int]]
) -> list[dict[str, Value]]:
    counts = [sum(sum(held[client][begin:end]) for client in row.clients) for begin, end in columns]
    total = sum(counts) or 1
    return [
        {"row": row.name, "label": _label(*one), "examples": count, "share": count / total}
        for one, count in zip(columns, counts, strict=True)
    ]


def _label(begin: int, end: int) -> str:
    return str(begin) if end == begin + 1 else f"{begin}–{end - 1}"
