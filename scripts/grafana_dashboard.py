"""The chart's dashboard for Grafana: what an operator asks first, one panel for each question.

Its own module because a dashboard is a table of questions; what Grafana wants around them is noise.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

_COLUMNS, _WIDTH, _HEIGHT = 3, 8, 8


class Panel(NamedTuple):
    """A question.

    Attributes:
        title: the question, for people.
        unit: Grafana's name of the unit.
        queries: of Prometheus, by what Grafana writes beside a line.

    """

    title: str
    unit: str
    queries: dict[str, str]


def _rate(metric: str, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate({metric}[$__rate_interval]))"


def _quantile(share: float, metric: str) -> str:
    by = "le, jouleserve_service_class"
    return f"histogram_quantile({share}, {_rate(f'{metric}_bucket', by)})"


PANELS = (
    Panel(
        "Requests, by how they end",
        "reqps",
        {"{{jouleserve_outcome}}": _rate("jouleserve_requests_total", "jouleserve_outcome")},
    ),
    Panel(
        "Time to the first token, 99 %",
        "s",
        {"{{jouleserve_service_class}}": _quantile(0.99, "jouleserve_ttft_s_seconds")},
    ),
    Panel(
        "Time per token, 99 %",
        "s",
        {"{{jouleserve_service_class}}": _quantile(0.99, "jouleserve_tpot_s_seconds")},
    ),
    Panel(
        "Energy of a generated token",
        "joule",
        {
            "{{jouleserve_variant}}": (
                f"{_rate('jouleserve_energy_j_joules_sum', 'jouleserve_variant')}"
                f" / {_rate('jouleserve_completion_tokens_total', 'jouleserve_variant')}"
            ),
        },
    ),
    Panel(
        "Power",
        "watt",
        {
            "{{jouleserve_variant}}": "sum by (jouleserve_variant) (jouleserve_power_w_watts)",
            "planned": "max(jouleserve_plan_predicted_w_watts)",
            "least that could serve": "max(jouleserve_plan_bound_w_watts)",
        },
    ),
    Panel(
        "Generated tokens",
        "short",
        {
            "{{jouleserve_variant}}": _rate(
                "jouleserve_completion_tokens_total", "jouleserve_variant"
            )
        },
    ),
    Panel(
        "Replicas",
        "short",
        {
            "{{jouleserve_variant}} {{jouleserve_state}}": (
                "sum by (jouleserve_variant, jouleserve_state) (jouleserve_plan_replicas)"
            )
        },
    ),
    Panel(
        "Nodes",
        "short",
        {
            "{{jouleserve_node_group}} {{jouleserve_state}}": (
                "max by (jouleserve_node_group, jouleserve_state) (jouleserve_plan_nodes)"
            )
        },
    ),
    Panel(
        "Troubles",
        "short",
        {"{{jouleserve_subject}}": "max by (jouleserve_subject) (jouleserve_trouble)"},
    ),
)


def dashboard() -> str:
    """Write it as Grafana reads it."""
    source = {"type": "prometheus", "uid": "${source}"}
    panels = [
        {
            "id": number + 1,
            "type": "timeseries",
            "title": panel.title,
            "datasource": source,
            "gridPos": {
                "x": number % _COLUMNS * _WIDTH,
                "y": number // _COLUMNS * _HEIGHT,
                "w": _WIDTH,
                "h": _HEIGHT,
            },
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + index), "expr": query, "legendFormat": legend}
                for index, (legend, query) in enumerate(panel.queries.items())
            ],
        }
        for number, panel in enumerate(PANELS)
    ]
    variable = {
        "name": "source",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
    }
    whole: dict[str, Any] = {
        "title": "Jouleserve",
        "uid": "jouleserve",
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [variable]},
        "panels": panels,
    }
    return json.dumps(whole, indent=1) + "\n"
