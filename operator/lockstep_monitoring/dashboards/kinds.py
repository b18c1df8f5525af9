"""What is particular to each kind of panel: options of Grafana's visualizations.

Called by `panels`, which adds what all panels have.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    stat,
    statetimeline,
    table,
    timeseries,
    xychart,
)
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models import xychart as xychart_models


@dataclass(frozen=True, slots=True)
class Query:
    """A query of a panel and the name of what it finds."""

    expr: str
    legend: str


def ref(index: int) -> str:
    """The name of a panel's query among its queries: A, B, …"""
    return chr(ord("A") + index)


def stat_panel(queries: Sequence[Query]) -> models.Panel:
    many = len(queries) > 1 or "{{" in queries[0].legend
    mode = common_models.BigValueTextMode
    return (
        stat.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .color_mode(common_models.BigValueColorMode.VALUE)
        .text_mode(mode.VALUE_AND_NAME if many else mode.VALUE)
        .build()
    )


def lines_panel(_queries: Sequence[Query]) -> models.Panel:
    return _over_time().line_width(1).fill_opacity(0).build()


def areas_panel(_queries: Sequence[Query]) -> models.Panel:
    return _over_time().line_width(1).fill_opacity(40).stacking(_stacked()).build()


def columns_panel(_queries: Sequence[Query]) -> models.Panel:
    bars = common_models.GraphDrawStyle.BARS
    return _over_time().draw_style(bars).line_width(0).fill_opacity(80).stacking(_stacked()).build()


def gauges_panel(_queries: Sequence[Query]) -> models.Panel:
    return (
        bargauge.Panel()
        .orientation(common_models.VizOrientation.HORIZONTAL)
        .display_mode(common_models.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .build()
    )


def against_panel(queries: Sequence[Query]) -> models.Panel:
    x, *ys = (query.legend for query in queries)
    panel = (
        xychart.Panel()
        .mapping(xychart_models.SeriesMapping.MANUAL)
        .show(xychart_models.XYShowMode.POINTS_AND_LINES)
        .series([_pair(x, y) for y in ys])
        .legend(_legend())
        .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.SINGLE))
        .build()
    )
    joined = {"byField": "Time", "mode": "inner"}
    panel.transformations = [models.DataTransformerConfig(id_val="joinByField", options=joined)]
    return panel


def timeline_panel(_queries: Sequence[Query]) -> models.Panel:
    return (
        statetimeline.Panel()
        .merge_values(True)
        .show_value(common_models.VisibilityMode.AUTO)
        .row_height(0.9)
        .line_width(1)
        .fill_opacity(70)
        .legend(_legend().show_legend(False))
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.CONTINUOUS_BLUES))
        .build()
    )


def heat_panel(unit: str) -> Callable[[Sequence[Query]], models.Panel]:
    def made(_queries: Sequence[Query]) -> models.Panel:
        colours = (
            heatmap.HeatmapColorOptions()
            .mode(heatmap_models.HeatmapColorMode.SCHEME)
            .scheme("Viridis")
            .fill("dark-orange")
            .exponent(0.5)
            .steps(64)
        )
        layout = heatmap.RowsHeatmapOptions().layout(common_models.HeatmapCellLayout.AUTO)
        return (
            heatmap.Panel()
            .calculate(False)
            .color(colours)
            .cell_values(heatmap.CellValues().unit(unit))
            .y_axis(heatmap.YAxisConfig().unit("short"))
            .rows_frame(layout)
            .cell_gap(1)
            .show_legend()
            .build()
        )

    return made


def table_panel(key: Sequence[str]) -> Callable[[Sequence[Query]], models.Panel]:
    def made(queries: Sequence[Query]) -> models.Panel:
        names = {f"Value #{ref(index)}": one.legend for index, one in enumerate(queries)}
        organized = {
            "excludeByName": {"Time": True},
            "indexByName": {name: index for index, name in enumerate((*key, *names))},
            "renameByName": names,
        }
        panel = table.Panel().build()
        panel.transformations = [
            models.DataTransformerConfig(id_val="merge", options={}),
            models.DataTransformerConfig(id_val="organize", options=organized),
        ]
        return panel

    return made


def _over_time() -> timeseries.Panel:
    return (
        timeseries.Panel()
        .show_points(common_models.VisibilityMode.AUTO)
        .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
        .legend(_legend())
    )


def _stacked() -> common.StackingConfig:
    return common.StackingConfig().mode(common_models.StackingMode.NORMAL)


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .display_mode(common_models.LegendDisplayMode.LIST)
        .placement(common_models.LegendPlacement.BOTTOM)
        .show_legend(True)
    )


def _pair(x: str, y: str) -> xychart.XYSeriesConfig:
    def named(name: str) -> xychart.MatcherConfig:
        return xychart.MatcherConfig().id("byName").options(name)

    first = xychart.MatcherConfig().id("byIndex").options(0)
    return (
        xychart.XYSeriesConfig()
        .name(xychart.XychartXYSeriesConfigName().fixed(y))
        .frame(xychart.XychartXYSeriesConfigFrame().matcher(first))
        .x(xychart.XychartXYSeriesConfigX().matcher(named(x)))
        .y(xychart.XychartXYSeriesConfigY().matcher(named(y)))
    )
