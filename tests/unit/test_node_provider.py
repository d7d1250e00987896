"""Who is asked about nodes, by configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cluster.accelerators import CATALOGUE
from cluster.kubernetes.settings import PRODUCT_LABEL, KubernetesGroup
from cluster.nodes import GroupState, NodesUnknownError
from serve.node_provider import kubernetes_settings, node_provider
from tests.planner_fakes import H100, L4, config, nodes_of

if TYPE_CHECKING:
    from cluster.kubernetes.settings import KubernetesSettings


def test_by_default_ray_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest.importorskip("ray"), "nodes", list)
    seen = node_provider(config(node_groups=(nodes_of("mine", "h100-sxm"),))).observe()
    assert dict(seen) == {"mine": GroupState(), L4: GroupState()}


def test_ray_is_asked_only_for_nodes_that_are_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, float]] = []

    def request_resources(bundles: list[dict[str, float]]) -> None:
        asked.extend(bundles)

    sdk = pytest.importorskip("ray.autoscaler.sdk")
    monkeypatch.setattr(sdk, "request_resources", request_resources)
    nodes = node_provider(config(node_groups=(nodes_of(H100, "h100-sxm"),)))
    nodes.ask({H100: 1, L4: 1})
    assert [bundle["GPU"] for bundle in asked] == [4.0]


def test_where_it_is_configured_kubernetes_is_asked_in_the_namespace_of_the_pod(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_CLUSTER_NAME", "mine")
    monkeypatch.setenv("RAY_CLUSTER_NAMESPACE", "there")
    told: list[KubernetesSettings] = []
    monkeypatch.setattr("cluster.kubernetes.nodes.connect", told.append)
    node_provider(config(nodes="kubernetes"))
    assert told == [kubernetes_settings(config(), namespace="there")]


def test_kubernetes_is_not_asked_outside_a_raycluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_CLUSTER_NAME", raising=False)
    with pytest.raises(NodesUnknownError, match="RAY_CLUSTER_NAME"):
        node_provider(config(nodes="kubernetes"))


def test_node_groups_are_worker_groups_of_the_raycluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_CLUSTER_NAME", "mine")
    given = config(node_groups=(nodes_of(H100, "h100-sxm"),))
    settings = kubernetes_settings(given, namespace="there")
    assert (settings.namespace, settings.raycluster) == ("there", "mine")
    assert {name: each.selector for name, each in settings.groups.items()} == {
        H100: {PRODUCT_LABEL: CATALOGUE["h100-sxm"].kubernetes_products}
    }


def test_a_node_group_may_have_labels_and_several_workers_on_a_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_CLUSTER_NAME", "mine")
    group = nodes_of(H100, "cpu") | {"workers_per_node": 2, "node_labels": {"pool": ["a", "b"]}}
    settings = kubernetes_settings(config(node_groups=(group,)), namespace="there")
    assert settings.groups[H100] == KubernetesGroup({"pool": ("a", "b")}, 2)
