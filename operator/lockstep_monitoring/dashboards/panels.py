"""Panels of every kind, all in one manner: what is told of each, its queries, its place.

Called by the modules of dashboards, which write panels down as constants; `build` makes Grafana's
model of one. Invariant: a panel has a title, a description that says what a bad value means, and a
unit; there is no way to make one without.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus

from lockstep_monitoring.dashboards import kinds
from lockstep_monitoring.dashboards.kinds import Query

DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, ORANGE, RED = "green", "orange", "red"


@dataclass(frozen=True, slots=True)
class Told:
    """What a person reads of a panel before its data."""

    title: str
    good: str
    """What it shows."""
    bad: str
    """What a bad value looks like, and what it means."""
    unit: str
    """Of its values, as Grafana spells units."""

    def __post_init__(self) -> None:
        for name in ("title", "good", "bad", "unit"):
            if not getattr(self, name).strip():
                raise ValueError(f"panel {self.title!r}: its {name} is missing")

    @property
    def description(self) -> str:
        """As it stands behind the panel's (i)."""
        return f"{self.good}\n\nBad: {self.bad}"


@dataclass(frozen=True, slots=True)
class Look:
    """Where a panel stands and how it looks; what is left out is the same everywhere."""

    width: int = 8
    """Of the 24 columns that a dashboard has."""
    height: int = 8
    thresholds: Sequence[tuple[float | None, str]] = ()
    """From which value on which colour; the first value is None."""
    decimals: int | None = None
    low: float | None = None
    high: float | None = None
    texts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Value → what is shown for it, and its colour."""
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of a table, and of pairs: column → its own properties, such as `unit`; None: none."""


@dataclass(frozen=True)
class Panel(Builder[models.Panel]):
    """A panel as it is written down."""

    told: Told
    queries: tuple[Query, ...]
    look: Look
    kind: Callable[[Sequence[Query]], models.Panel]
    """What is particular to its kind."""
    instant: bool = False
    """Only the newest value is asked for."""
    table: bool = False

    def build(self) -> models.Panel:
        """Grafana's model of it."""
        panel, look = self.kind(self.queries), self.look
        panel.title, panel.description = self.told.title, self.told.description
        panel.datasource = DATASOURCE
        panel.grid_pos = models.GridPos(h=look.height, w=look.width)
        panel.targets = [self._target(index) for index in range(len(self.queries))]
        config = panel.field_config = panel.field_config or models.FieldConfigSource()
        config.overrides = [_override(name, of) for name, of in look.columns.items()]
        config.defaults = config.defaults or models.FieldConfig()
        self._show(config.defaults)
        return panel

    def _target(self, index: int) -> prometheus.Dataquery:
        return prometheus.Dataquery(
            expr=self.queries[index].expr,
            legend_format=self.queries[index].legend,
            ref_id=kinds.ref(index),
            datasource=DATASOURCE,
            instant=self.instant,
            range_val=not self.instant,
            format_val=prometheus.PromQueryFormat.TABLE if self.table else None,
        )

    def _show(self, config: models.FieldConfig) -> None:
        look = self.look
        config.unit, config.decimals = self.told.unit, look.decimals
        config.min_val, config.max_val = look.low, look.high
        if look.thresholds:
            config.thresholds = _thresholds(look.thresholds)
            config.color = models.FieldColor(mode=models.FieldColorModeId.THRESHOLDS)
        if look.texts:
            config.mappings = [_mapping(look.texts)]


FROM_ZERO = Look(low=0)
"""Values that are never negative: a small change looks small."""
_SMALL = Look(width=4, height=4)
_PLAIN = Look()


def number(told: Told, *queries: Query, look: Look = _SMALL) -> Panel:
    """The newest values in large."""
    return Panel(told, queries, look, kinds.stat_panel, instant=True)


def lines(told: Told, *queries: Query, look: Look = _PLAIN) -> Panel:
    """Values over time."""
    return Panel(told, queries, look, kinds.lines_panel)


def areas(told: Told, *queries: Query, look: Look = _PLAIN) -> Panel:
    """Values over time, stacked: their sum means something."""
    return Panel(told, queries, look, kinds.areas_panel)


def columns(told: Told, *queries: Query, look: Look = _PLAIN) -> Panel:
    """What is counted in each step of time, as stacked bars."""
    return Panel(told, queries, look, kinds.columns_panel)


def gauges(told: Told, *queries: Query, look: Look = _PLAIN) -> Panel:
    """The newest values beside each other, as bars."""
    return Panel(told, queries, look, kinds.gauges_panel, instant=True)


def against(told: Told, x: Query, *ys: Query, x_unit: str, look: Look = _PLAIN) -> Panel:
    """Values against those of `x` instead of time; each query finds one series, named by legend.

    Unit and bounds of the panel are those of the values: `x` has its own.
    """
    own = {"unit": x_unit, "min": None, "max": None}
    look = replace(look, columns={x.legend: own})
    return Panel(told, (x, *ys), look, kinds.against_panel)


def timeline(told: Told, *queries: Query, look: Look = _PLAIN) -> Panel:
    """A block for each value as long as it holds."""
    return Panel(told, queries, look, kinds.timeline_panel)


def heat(told: Told, query: Query, *, look: Look = _PLAIN) -> Panel:
    """A row for each series, time to the right, the value as colour."""
    return Panel(told, (query,), look, kinds.heat_panel(told.unit))


def rows(told: Told, key: Sequence[str], *, queries: Sequence[Query], look: Look) -> Panel:
    """A table: a row for each combination of the labels `key`, a column for each query."""
    kind = kinds.table_panel(key)
    return Panel(told, tuple(queries), look, kind, instant=True, table=True)


def _thresholds(steps: Sequence[tuple[float | None, str]]) -> models.ThresholdsConfig:
    return models.ThresholdsConfig(
        mode=models.ThresholdsMode.ABSOLUTE,
        steps=[models.Threshold(value=value, color=color) for value, color in steps],
    )


def _mapping(texts: Mapping[str, tuple[str, str]]) -> models.ValueMap:
    return models.ValueMap(
        options={
            value: models.ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(texts.items())
        }
    )


def _override(
    column: str, properties: Mapping[str, Any]
) -> models.DashboardFieldConfigSourceOverrides:
    return models.DashboardFieldConfigSourceOverrides(
        matcher=models.MatcherConfig(id_val="byName", options=column),
        properties=[models.DynamicConfigValue(k, v) for k, v in properties.items()],
    )
