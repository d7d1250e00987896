"""Alerts fire when they should, and nothing asks for a metric that no process exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry

from cluster import telemetry_attributes, telemetry_metrics, telemetry_requests
from cluster.telemetry import with_requests
from cluster.telemetry_metrics import Counter, Gauge, observe
from cluster.telemetry_requests import RequestRecord
from scripts.grafana_panels import DASHBOARDS, dashboards
from serve import plan_metrics, troubles

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricsData

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "helm" / "jouleserve" / "files" / "alerts.yaml"
CASES = sorted((ROOT / "tests" / "alerts").glob("*.yaml"))
NAME = re.compile(r"\b(?:jouleserve|gen_ai|error)_\w+")
# The node's port adds it.
OF_THE_PORT = {"jouleserve_scraped_processes"}


class Everything(PrometheusMetricReader):
    """Reads what a process exports that counts requests."""

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> None:
        super()._receive_metrics(with_requests(metrics_data), timeout_millis, **kwargs)


@pytest.fixture(scope="module")
def exported() -> set[str]:
    """Give the names of all series that a process of ours can export."""
    registry = CollectorRegistry()
    meter = MeterProvider([Everything(registry=registry)]).get_meter("test")
    requests = telemetry_requests.Requests()
    requests.record(
        RequestRecord(
            outcome="completed", model="m", variant="v", ttft_s=1.0, tpot_s=1.0,
            e2e_latency_s=1.0, energy_j=1.0, energy_method="model",
        )
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(telemetry_metrics, "meter", lambda _: meter)
        patch.setattr(telemetry_requests, "requests", lambda: requests)
        for module in (telemetry_metrics, plan_metrics, troubles):
            for each in vars(module).values():
                if isinstance(each, Gauge | Counter):
                    observe(each, lambda: 1.0)
        return {sample.name for each in registry.collect() for sample in each.samples}


@pytest.fixture(scope="module")
def labels() -> set[str]:
    """Give the names of all labels."""
    named = vars(telemetry_attributes).values()
    return {re.sub(r"\W", "_", each) for each in named if isinstance(each, str)}


def asked_by_dashboards() -> dict[str, str]:
    return {
        f"{dashboard.name}: {panel.title}": query
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        for query in panel.queries.values()
    }


def asked_by_alerts() -> dict[str, str]:
    return {each["alert"]: each["expr"] for each in yaml.safe_load(ALERTS.read_text())}


def test_everything_that_is_asked_for_is_exported(exported: set[str], labels: set[str]) -> None:
    asked = asked_by_dashboards() | asked_by_alerts()
    known = exported | labels | OF_THE_PORT
    unknown = {
        name: missing
        for name, query in asked.items()
        if (missing := set(NAME.findall(query)) - known)
    }
    assert not unknown
    assert all(set(NAME.findall(query)) & (exported | OF_THE_PORT) for query in asked.values())


def test_names_are_the_same_pushed_or_fetched(exported: set[str]) -> None:
    """Collectors add `_ratio` to gauges of unit 1, which the exporter here does not."""
    for module in (telemetry_metrics, plan_metrics, troubles):
        for each in vars(module).values():
            assert not isinstance(each, Gauge | Counter) or each.unit not in {"", "1"}, each
    assert exported


def test_dashboards_are_whole() -> None:
    texts = dashboards()
    assert set(texts) == {"fleet.json", "energy.json", "slo.json", "planner.json"}
    found = [json.loads(text) for text in texts.values()]
    assert len({each["uid"] for each in found}) == len(found)
    for each in found:
        places = [tuple(panel["gridPos"].values()) for panel in each["panels"]]
        cells = [(x + i, y + j) for x, y, w, h in places for i in range(w) for j in range(h)]
        assert len(cells) == len(set(cells)), "panels lie beside each other"
        assert max(x for x, _ in cells) < 24
        assert all(panel["description"] for panel in each["panels"])


def promtool(*arguments: str, place: Path) -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed; it comes with Prometheus")
    rules = {"groups": [{"name": "jouleserve", "rules": yaml.safe_load(ALERTS.read_text())}]}
    (place / "rules.yaml").write_text(yaml.safe_dump(rules))
    done = subprocess.run(
        [program, *arguments], check=False, cwd=place, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_can_read_the_rules(tmp_path: Path) -> None:
    assert f"{len(asked_by_alerts())} rules found" in promtool(
        "check", "rules", "rules.yaml", place=tmp_path
    )


@pytest.mark.parametrize("cases", CASES, ids=lambda cases: cases.stem)
def test_alerts_fire_when_they_should_and_else_not(cases: Path, tmp_path: Path) -> None:
    shutil.copy(cases, tmp_path / "cases.yaml")
    promtool("test", "rules", "cases.yaml", place=tmp_path)


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    cases = [case for file in CASES for case in yaml.safe_load(file.read_text())["tests"]]
    fires = {
        each["alertname"]
        for case in cases
        for each in case["alert_rule_test"]
        if each.get("exp_alerts")
    }
    assert fires == set(asked_by_alerts())


def test_prometheus_can_read_what_dashboards_ask(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(asked_by_dashboards().values())
    ]
    (tmp_path / "panels.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]})
    )
    promtool("check", "rules", "panels.yaml", place=tmp_path)
