"""Panels of the dashboards drawn with matplotlib from what Prometheus answers to their queries."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from prometheus import Prometheus
from scaled_rules import scaled_duration, scaled_expression

DASHBOARDS = Path(__file__).parents[2] / "deploy" / "monitoring" / "dashboards"
_COLUMNS = 3
_MOST_LEGENDS = 6
_VALUES = {"$job": ".*", "$watchlist": ".*", "$instance": ".*", "$indicator": "speculation"}


def draw(
    prometheus: Prometheus, board: str, titles: list[str], out: Path, *, start_s: float, end_s: float, by: float
) -> None:
    """Draws panels of a dashboard into one picture.

    Args:
        prometheus: Answers their queries.
        board: The dashboard's name.
        titles: Titles of the panels.
        out: The PNG file.
        start_s: Beginning of the time shown, in seconds since 1970.
        end_s: Its end.
        by: What every duration in the queries is multiplied by.
    """
    document = json.loads((DASHBOARDS / f"{board}.json").read_text(encoding="utf-8"))
    panels = {panel["title"]: panel for panel in document["panels"]}
    rows = -(-len(titles) // _COLUMNS)
    figure, axes = plt.subplots(rows, _COLUMNS, figsize=(4.2 * _COLUMNS, 2.7 * rows), squeeze=False)
    for axis in axes.flat[len(titles) :]:
        axis.axis("off")
    for axis, title in zip(axes.flat, titles, strict=False):
        panel = panels[title]
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        if panel["type"] == "bargauge":
            _bars(axis, prometheus, panel, end_s, by)
        else:
            _curves(axis, prometheus, panel, (start_s, end_s), by)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=70, metadata={"Software": None})
    plt.close(figure)


def _asked(target: dict[str, Any], by: float) -> str:
    expression = scaled_expression(str(target["expr"]), by)
    for name, value in _VALUES.items():
        expression = expression.replace(name, value)
    return expression.replace("$__rate_interval", scaled_duration("10m", by))


def _legend(target: dict[str, Any], metric: dict[str, str]) -> str:
    """What Grafana would write beside the series."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: metric.get(found[1], ""), target.get("legendFormat", ""))


def _curves(axis: Any, prometheus: Prometheus, panel: dict[str, Any], times: tuple[float, float], by: float) -> None:
    start_s, end_s = times
    shown = 0
    for target in panel["targets"]:
        for series in prometheus.query_range(_asked(target, by), start_s, end_s, 1):
            seconds = [float(at) - start_s for at, _ in series["values"]]
            legend = _legend(target, series["metric"]) if shown < _MOST_LEGENDS else None
            axis.plot(seconds, [float(value) for _, value in series["values"]], linewidth=1, label=legend)
            shown += 1
    axis.set_xlim(0, end_s - start_s)
    axis.set_xlabel("s", fontsize=7)
    if panel["fieldConfig"]["defaults"].get("min") == 0:
        axis.set_ylim(bottom=0)
    if shown:
        axis.legend(fontsize=5, loc="best", framealpha=0.6)


def _bars(axis: Any, prometheus: Prometheus, panel: dict[str, Any], at_s: float, by: float) -> None:
    found = [
        (_legend(target, series["metric"]), float(series["value"][1]))
        for target in panel["targets"]
        for series in prometheus.query(_asked(target, by), at_s)
    ]
    names, values = zip(*sorted(found, reverse=True), strict=True) if found else ((), ())
    axis.barh(range(len(names)), values)
    axis.set_yticks(range(len(names)), names, fontsize=6)
