"""What the chart lets Prometheus and Grafana see of a cluster."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml

from cluster.telemetry_variables import ScrapePlace, wanted_export
from scripts.grafana_panels import DASHBOARDS
from tests.chart.conftest import CHART
from tests.chart.given import values

if TYPE_CHECKING:
    from tests.chart.conftest import Helm, Rendered


def containers(rendered: Rendered) -> list[dict[str, Any]]:
    spec = rendered.one("RayService")["spec"]["rayClusterConfig"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [each["template"]["spec"]["containers"][0] for each in groups]


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def test_what_is_fetched_is_where_prometheus_looks(helm: Helm) -> None:
    rendered = helm.template(values(podMonitor={"enabled": True}))
    endpoints = rendered.one("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert [each["port"] for each in endpoints] == ["metrics", "telemetry"]
    found = containers(rendered)
    assert len(found) > 1
    for container in found:
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        export = wanted_export(environment(container))
        assert export.scrape == ScrapePlace("0.0.0.0", ports["telemetry"])
        assert export.metrics is None
        assert "metrics" in ports


def test_traces_are_pushed_beside_metrics_that_are_fetched(helm: Helm) -> None:
    otlp = {"endpoint": "http://collector:4318"}
    both = helm.template(values(podMonitor={"enabled": True}, otlp=otlp))
    pushed = helm.template(values(otlp=otlp))
    for rendered, metrics in ((both, None), (pushed, "http/protobuf")):
        for container in containers(rendered):
            export = wanted_export(environment(container))
            assert (export.traces, export.metrics) == ("http/protobuf", metrics)


def test_nothing_is_exported_unless_it_is_asked_for(helm: Helm) -> None:
    for container in containers(helm.template(values())):
        assert not any(wanted_export(environment(container)))


def test_a_network_policy_lets_prometheus_in_where_it_fetches(helm: Helm) -> None:
    def opened(**changes: Any) -> set[str]:
        rendered = helm.template(values(networkPolicy={"enabled": True}, **changes))
        rules = rendered.one("NetworkPolicy")["spec"]["ingress"]
        return {port["port"] for rule in rules if "from" not in rule for port in rule["ports"]}

    assert opened(podMonitor={"enabled": True}) - opened() == {"metrics", "telemetry"}


def test_every_dashboard_and_every_alert_is_shipped(helm: Helm) -> None:
    rendered = helm.template(values(dashboard={"enabled": True}, alertRules={"enabled": True}))
    shipped = rendered.one("ConfigMap")["data"]
    assert {json.loads(text)["uid"] for text in shipped.values()} == {
        f"jouleserve-{each.name}" for each in DASHBOARDS
    }
    (group,) = rendered.one("PrometheusRule")["spec"]["groups"]
    alerts = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    assert group["rules"] == alerts
