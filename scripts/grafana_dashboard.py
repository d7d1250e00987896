"""The chart's dashboards for Grafana: what an operator asks, one panel for each question.

Its own module because a dashboard is a table of questions; what Grafana wants around them is noise.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_COLUMNS = 24
TARGET = 0.99
"""Share of requests that is promised to meet its objectives; alert rules know the same."""
_GREEN = "green"


class Panel(NamedTuple):
    """A question.

    Attributes:
        title: the question, for people.
        unit: Grafana's name of the unit.
        queries: of Prometheus, by what Grafana writes beside a line.
        about: what the answer means, and what to do about it.
        width: of 24 columns.
        height: in rows.
        kind: Grafana's name of the picture.
        limits: values from which on the colour is another.
        most: top of the scale; None for what comes.
        stacked: one line upon the other.

    """

    title: str
    unit: str
    queries: dict[str, str]
    about: str
    width: int = 12
    height: int = 8
    kind: str = "timeseries"
    limits: tuple[tuple[float, str], ...] = ()
    most: float | None = None
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A page of panels.

    Attributes:
        name: of its file.
        title: for people.
        about: for whom it is.
        panels: from left to right, top to bottom.

    """

    name: str
    title: str
    about: str
    panels: tuple[Panel, ...] = field(default=())


def rate(metric: str, by: str = "", where: str = "") -> str:
    """Give the query of a sum of rates."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{where}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str) -> str:
    """Give the query of a quantile of a histogram."""
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', f'le, {by}')})"


def written(dashboard: Dashboard) -> str:
    """Write it as Grafana reads it."""
    source = {"type": "prometheus", "uid": "${source}"}
    variable = {
        "name": "source",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
    }
    links = {
        "title": "Jouleserve",
        "type": "dashboards",
        "tags": ["jouleserve"],
        "keepTime": True,
        "includeVars": True,
    }
    whole: dict[str, Any] = {
        "title": f"Jouleserve: {dashboard.title}",
        "uid": f"jouleserve-{dashboard.name}",
        "description": dashboard.about,
        "tags": ["jouleserve"],
        "links": [links],
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "graphTooltip": 1,
        "templating": {"list": [variable]},
        "panels": _placed(dashboard.panels, source),
    }
    return json.dumps(whole, indent=1) + "\n"


def _placed(panels: tuple[Panel, ...], source: dict[str, str]) -> list[dict[str, Any]]:
    """Lay panels out like words on lines."""
    placed, x, y, row_height = [], 0, 0, 0
    for number, panel in enumerate(panels):
        if x + panel.width > _COLUMNS:
            x, y, row_height = 0, y + row_height, 0
        place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
        placed.append({"id": number + 1, "gridPos": place, **_panel(panel, source)})
        x, row_height = x + panel.width, max(row_height, panel.height)
    return placed


def _panel(panel: Panel, source: dict[str, str]) -> dict[str, Any]:
    instant = panel.kind in {"stat", "table", "gauge"}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": source,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "expr": query,
                "legendFormat": legend,
                "datasource": source,
                **({"instant": True, "range": False} if instant else {}),
                **({"format": "table"} if panel.kind == "table" else {}),
            }
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    steps = [{"value": None, "color": _GREEN}] + [
        {"value": value, "color": colour} for value, colour in panel.limits
    ]
    given: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.most is not None:
        given["max"] = panel.most
    if panel.limits:
        given["color"] = {"mode": "thresholds" if panel.kind != "timeseries" else "palette-classic"}
    if panel.kind == "timeseries":
        custom: dict[str, Any] = {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never"}
        if panel.stacked:
            custom |= {"stacking": {"mode": "normal"}, "fillOpacity": 40}
        if panel.limits:
            custom["thresholdsStyle"] = {"mode": "dashed"}
        given["custom"] = custom
    return given


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "timeseries":
        legend = {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]}
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
    return {}
