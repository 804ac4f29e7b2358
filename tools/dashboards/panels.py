"""Panels of a few kinds, and the beginning that all dashboards share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
HALF, THIRD, FULL = 12, 8, 24
"""Widths in columns, of which a dashboard has 24."""


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression with the legend of its series, in which `{{label}}` stands for a label's value."""

    expr: str
    legend: str = ""


def board(uid: str, title: str, about: str, *variables: Any) -> dashboard.Dashboard:
    """An empty dashboard with a variable for the data source and one for the job, and links to its siblings."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(about)
        .tags(["scopewatch"])
        .refresh("1m")
        .time("now-6h", "now")
        .timezone("browser")
        .editable()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("scopewatch")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["scopewatch"])
            .as_dropdown(True)
            .keep_time(True)
            .include_vars(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(choice("job", "Job", "label_values(scopewatch_build_info, job)"))
    )
    for variable in variables:
        made.with_variable(variable)
    return made


def choice(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """A variable whose values come from a query, of which several, or all, may be chosen."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(text="All", value="$__all"))
    )


def watchlists() -> dashboard.QueryVariable:
    return choice("watchlist", "Watchlist", 'label_values(scopewatch_watchlist_info{job=~"$job"}, watchlist)')


def lines(
    title: str, about: str, unit: str, *queries: Query, width: int = HALF, stacked: bool = False, from_zero: bool = True
) -> Any:
    """Curves over time."""
    panel = timeseries.Panel().fill_opacity(30 if stacked else 5).line_width(1).show_points(_NO_POINTS)
    if stacked:
        panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    legend = common.VizLegendOptions().display_mode(common_models.LegendDisplayMode.LIST).show_legend(True)
    panel.legend(legend.placement(common_models.LegendPlacement.BOTTOM))
    if from_zero:
        panel.min(0)
    return _with(panel, title, about, queries, width=width).unit(unit)


def number(title: str, about: str, unit: str, expr: str, *, bad: float | None = None, worse_above: bool = True) -> Any:
    """One number as it is now; red from a value on, or below it."""
    panel = stat.Panel().graph_mode(common_models.BigValueGraphMode.AREA)
    if bad is not None:
        colours = ("green", "red") if worse_above else ("red", "green")
        steps = [models.Threshold(color=colours[0]), models.Threshold(value=bad, color=colours[1])]
        panel.thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
    return _with(panel, title, about, [Query(expr)], width=4, height=4).unit(unit)


def bars(title: str, about: str, unit: str, *queries: Query, width: int = HALF) -> Any:
    """One bar for every series, as it is now."""
    panel = bargauge.Panel().orientation(common_models.VizOrientation.HORIZONTAL).min(0)
    return _with(panel, title, about, queries, width=width, instant=True).unit(unit)


def rows(title: str, about: str, expr: str, width: int = HALF) -> Any:
    """A table with a row for every series, as it is now."""
    query = [Query(expr)]
    return _with(table.Panel(), title, about, query, width=width, instant=True, form=PromQueryFormat.TABLE)


def densities(title: str, about: str, expr: str, width: int = HALF) -> Any:
    """The buckets of a histogram over time, the fuller the darker."""
    colours = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues").steps(64)
    query = [Query(expr, "{{le}}")]
    return _with(heatmap.Panel().color(colours), title, about, query, width=width, form=PromQueryFormat.HEATMAP)


_NO_POINTS = common_models.VisibilityMode.NEVER


def _with(
    panel: Any,
    title: str,
    about: str,
    queries: Sequence[Query],
    *,
    width: int,
    height: int = 8,
    instant: bool = False,
    form: PromQueryFormat = PromQueryFormat.TIME_SERIES,
) -> Any:
    panel.title(title).description(about).datasource(SOURCE).span(width).height(height)
    for index, query in enumerate(queries):
        made = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(chr(ord("A") + index))
        panel.with_target((made.instant() if instant else made.range()).format(form).datasource(SOURCE))
    return panel
