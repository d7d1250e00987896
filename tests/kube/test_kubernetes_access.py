"""The rights that are asked for: with them everything works, without any one of them not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cluster.kubernetes.access import AccessRule, required_rules
from cluster.kubernetes.objects import MANAGED
from cluster.nodes import NodesUnknownError
from tests.kube.control_plane import eventually
from tests.kube.operated_cluster import GROUP, NAME, OperatedCluster, paper_node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cluster.kubernetes.nodes import KubernetesNodes
    from cluster.kubernetes.settings import KubernetesSettings

    Connect = Callable[[KubernetesSettings], KubernetesNodes]

pytestmark = [pytest.mark.kube, pytest.mark.timeout(300)]

RIGHTS = [
    pytest.param(index, verb, id=f"{verb}-{rule.resources[0]}")
    for index, rule in enumerate(required_rules())
    for verb in rule.verbs
]
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def _without(index: int, verb: str) -> list[AccessRule]:
    rules = list(required_rules())
    rule = rules[index]
    rules[index] = replace(rule, verbs=tuple(each for each in rule.verbs if each != verb))
    return rules


def _account(demo: OperatedCluster, rules: Iterable[AccessRule]) -> str:
    """Make a service account with these rights and no other; give its kubeconfig."""
    plane, namespace, name = demo.plane, demo.namespace, f"planner-{demo.namespace}"
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    plane.create(accounts, {"metadata": {"name": name}})
    for cluster_wide, kind, where in (
        (True, "ClusterRole", RBAC),
        (False, "Role", f"{RBAC}/namespaces/{namespace}"),
    ):
        chosen = [_rule(rule) for rule in rules if rule.cluster_wide == cluster_wide]
        plane.create(f"{where}/{kind.lower()}s", {"metadata": {"name": name}, "rules": chosen})
        binding = {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        }
        plane.create(f"{where}/{kind.lower()}bindings", binding)
    asked = {"spec": {"expirationSeconds": 3600}}
    token = plane.create(f"{accounts}/{name}/token", asked)["status"]["token"]
    return plane.kubeconfig_of(name, token)


def _rule(rule: AccessRule) -> dict[str, object]:
    return {
        "apiGroups": rule.api_groups,
        "resources": rule.resources,
        "verbs": rule.verbs,
        "resourceNames": [NAME] if rule.nameable else [],
    }


def _settings(demo: OperatedCluster, rules: Iterable[AccessRule]) -> KubernetesSettings:
    return demo.settings(
        kubeconfig=_account(demo, rules),
        watch_s=0.5,
        request_timeout_s=2.0,
        stale_after_s=4.0,
    )


def _use_everything(nodes: KubernetesNodes, demo: OperatedCluster, node: str) -> None:
    nodes.observe()
    nodes.ask({GROUP: 1})
    assert demo.floor()[0] == 1
    assert nodes.cordon(node)
    nodes.uncordon(node)


def test_with_these_rights_everything_works(demo: OperatedCluster, connected: Connect) -> None:
    node = paper_node(demo.plane, "granted", annotations={MANAGED: "true"})
    nodes = connected(_settings(demo, required_rules()))
    # A role takes effect once the API server has seen it.
    assert eventually(lambda: _works(nodes))
    for _ in range(3):
        _use_everything(nodes, demo, node)
        assert not eventually(lambda: not _works(nodes), within_s=2.0)
    nodes.close()
    assert demo.floor()[0] == 0


@pytest.mark.parametrize(("index", "verb"), RIGHTS)
def test_without_any_one_of_them_something_does_not(
    demo: OperatedCluster, connected: Connect, index: int, verb: str
) -> None:
    node = paper_node(demo.plane, "denied", annotations={MANAGED: "true"})
    nodes = connected(_settings(demo, _without(index, verb)))
    resource = required_rules()[index].resources[0]
    if verb in {"list", "watch"}:
        assert eventually(lambda: resource in _why_unknown(nodes))
        assert "403" in _why_unknown(nodes)
    else:
        assert eventually(lambda: _works(nodes))
        with pytest.raises(NodesUnknownError, match="403"):
            _use_everything(nodes, demo, node)


def _works(nodes: KubernetesNodes) -> bool:
    return not _why_unknown(nodes)


def _why_unknown(nodes: KubernetesNodes) -> str:
    try:
        nodes.observe()
    except NodesUnknownError as error:
        return str(error)
    return ""
