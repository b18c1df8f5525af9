"""A dashboard's JSON as the renderer needs it: panels with place, kind, queries and look."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """A query of a panel."""

    expr: str
    legend: str
    instant: bool


@dataclass(frozen=True, slots=True)
class Place:
    """On Grafana's grid of 24 columns."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Figure:
    """A panel, or the heading of a row (`kind` row)."""

    title: str
    kind: str
    place: Place
    unit: str = "none"
    targets: Sequence[Target] = ()
    look: Json | None = None
    """fieldConfig.defaults."""
    columns: Sequence[str] = ()
    """Of a table: the labels that it shows first."""
    units: Mapping[str, str] | None = None
    """Of a table: column → its own unit."""


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard."""

    uid: str
    title: str
    figures: Sequence[Figure]
    names: frozenset[str]
    """Of all variables."""
    variables: Mapping[str, str]
    """Those that are asked for: name → label_values(…)."""
    several: frozenset[str]
    """Of these more than one value can be chosen."""


def read(board: Json) -> Board:
    """The JSON that Grafana would get."""
    variables = board["templating"]["list"]
    return Board(
        uid=board["uid"],
        title=board["title"],
        figures=[_figure(panel) for panel in board["panels"]],
        names=frozenset(one["name"] for one in variables),
        variables={
            one["name"]: one["query"]["query"] for one in variables if one["type"] == "query"
        },
        several=frozenset(one["name"] for one in variables if one.get("multi")),
    )


def _figure(panel: Json) -> Figure:
    at = panel["gridPos"]
    place = Place(at["x"], at["y"], at["w"], at["h"])
    if panel["type"] == "row":
        return Figure(panel["title"], "row", place)
    config = panel["fieldConfig"]
    return Figure(
        panel["title"],
        _kind(panel),
        place,
        unit=config["defaults"]["unit"],
        targets=[
            Target(one["expr"], one["legendFormat"], one.get("instant", False))
            for one in panel["targets"]
        ],
        look=config["defaults"],
        columns=list(_columns(panel)),
        units=dict(_units(config.get("overrides", ()))),
    )


def _kind(panel: Json) -> str:
    """The panel's type; time series in their three forms."""
    if panel["type"] != "timeseries":
        return str(panel["type"])
    custom = panel["fieldConfig"]["defaults"]["custom"]
    if custom.get("drawStyle") == "bars":
        return "columns"
    return "areas" if custom.get("stacking", {}).get("mode") == "normal" else "lines"


def _columns(panel: Json) -> Iterator[str]:
    for one in panel.get("transformations", ()):
        if one["id"] == "organize":
            yield from (
                name for name in one["options"]["indexByName"] if not name.startswith("Value #")
            )


def _units(overrides: Sequence[Json]) -> Iterator[tuple[str, str]]:
    for one in overrides:
        for each in one["properties"]:
            if each["id"] == "unit":
                yield one["matcher"]["options"], each["value"]
