"""The chart on a real API server: it comes, changes, goes, and may do what it needs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from cluster.kubernetes.access import required_rules
from cluster.kubernetes.objects import MANAGED
from cluster.kubernetes.settings import KubernetesSettings
from cluster.nodes import NodesUnknownError
from serve.config import Config
from serve.deployment import PLANNER
from serve.node_provider import kubernetes_settings
from tests.chart.conftest import helm_program
from tests.kube.control_plane import RefusedError, eventually
from tests.kube.operated_cluster import HOLLOW_NODES
from tests.kube.release import FULL_NAME, LITTLE, NAME, RBAC, Release, older_chart
from tests.planner_fakes import BIG, H100, L4, SMALL, STANDARD, Shell, nodes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cluster.kubernetes.nodes import KubernetesNodes
    from tests.kube.control_plane import ControlPlane

    Connect = Callable[[KubernetesSettings], KubernetesNodes]

pytestmark = [pytest.mark.kube, pytest.mark.timeout(300)]

# Ray's autoscaler does this under the same account.
AUTOSCALERS = {("pods", "get"), ("pods", "delete"), ("pods", "patch")}


def values(*, most: int = 8, **changes: Any) -> dict[str, Any]:
    # Workers of one core feed all their accelerators.
    variant = {"engine": "echo", "min_replicas": 0, "max_replicas": most, "cpus_per_replica": 0.1}
    return {
        "config": {
            "models": [
                {
                    "name": "m",
                    "variants": [
                        variant | {"name": BIG, "accelerator": "h100-sxm"},
                        variant | {"name": SMALL, "accelerator": "l4", "quality": 0.9},
                    ],
                }
            ],
            "node_groups": [
                nodes_of(H100, "h100-sxm", accelerators_per_node=8, max_nodes=8),
                # So dear that it is chosen only if there is no other.
                nodes_of(L4, "l4", node_power_w=9000.0),
            ],
            "planner": {"nodes": "kubernetes"},
        },
        "head": LITTLE,
        "worker": LITTLE,
        "modelCache": {"size": "1Gi"},
        **changes,
    }


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return older_chart(tmp_path_factory.mktemp("chart"))


@pytest.fixture
def release(plane: ControlPlane, chart: Path) -> Iterator[Release]:
    """Give a release that is yet to be installed."""
    release = Release(plane, helm_program(), chart)
    try:
        yield release
    finally:
        release.end()
        if NAME in release.run("list", "--short"):
            release.run("uninstall", NAME, "--wait")


def everything(release: Release) -> set[str]:
    """Name what is in the release's namespace, and the cluster's roles that name it."""
    plane, found = release.plane, set()
    cores = [("/api/v1", each) for each in plane.get("/api/v1")["resources"]]
    for group in plane.get("/apis")["groups"]:
        path = f"/apis/{group['preferredVersion']['groupVersion']}"
        cores += [(path, each) for each in plane.get(path)["resources"]]
    for path, kind in cores:
        if "list" not in kind["verbs"] or kind["name"] in {"events", "endpointslices"}:
            continue
        if kind["namespaced"]:
            where = f"{path}/namespaces/{release.namespace}/{kind['name']}"
        elif path == RBAC:
            where = f"{path}/{kind['name']}"
        else:
            continue
        names = [each["metadata"]["name"] for each in plane.get(where)["items"]]
        if not kind["namespaced"]:
            names = [each for each in names if release.namespace in each]
        found |= {f"{kind['kind']} {each}" for each in names}
    return found


def test_it_is_installed_changed_taken_back_and_leaves_nothing(release: Release) -> None:
    release.plane.create("/api/v1/namespaces", {"metadata": {"name": release.namespace}})
    default = f"/api/v1/namespaces/{release.namespace}/serviceaccounts/default"
    assert eventually(lambda: _there(release, default))
    before = everything(release)
    release.install(values(apiKeys={"enabled": True}))
    release.make_cluster()
    release.reconcile()
    first = release.rayservice()["spec"]
    key = release.get("secrets", f"{FULL_NAME}-api-keys")["data"]
    assert everything(release) - before >= {
        f"RayService {FULL_NAME}",
        f"ServiceAccount {FULL_NAME}",
        f"Role {FULL_NAME}",
        f"ClusterRole {release.namespace}-{FULL_NAME}-nodes",
        f"PodDisruptionBudget {FULL_NAME}-head",
    }

    release.upgrade(values(apiKeys={"enabled": True}, most=16, idleTimeoutSeconds=5))
    changed = release.rayservice()["spec"]
    assert changed["rayClusterConfig"]["autoscalerOptions"]["idleTimeoutSeconds"] == 5
    assert "max_replicas: 16" in changed["serveConfigV2"]
    assert release.get("secrets", f"{FULL_NAME}-api-keys")["data"] == key, "keys stay"

    release.run("rollback", NAME, "1")
    assert release.rayservice()["spec"] == first
    assert release.get("secrets", f"{FULL_NAME}-api-keys")["data"] == key

    release.run("uninstall", NAME, "--wait")
    release.made.clear()
    # What the operator had made goes with what owns it.
    assert eventually(lambda: everything(release) == before, 90.0), everything(release) - before


def _there(release: Release, path: str) -> bool:
    try:
        release.plane.get(path)
    except RefusedError:
        return False
    return True


def test_a_certificate_stays_through_an_upgrade(release: Release) -> None:
    tls = {"enabled": True, "host": "joules.example.org", "tls": {"generate": True}}
    release.install(values(ingress=tls))
    made = release.get("secrets", f"{FULL_NAME}-tls")["data"]
    release.upgrade(values(ingress=tls, most=2))
    assert release.get("secrets", f"{FULL_NAME}-tls")["data"] == made


def granted(
    release: Release, verb: str, resource: str, group: str = "", namespace: str = ""
) -> bool:
    """Ask the API server whether the chart's account may do something."""
    review = {
        "spec": {
            "user": f"system:serviceaccount:{release.namespace}:{FULL_NAME}",
            "resourceAttributes": {
                "namespace": namespace,
                "verb": verb,
                "group": group,
                "resource": resource,
            },
        }
    }
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    return bool(release.plane.create(path, review)["status"]["allowed"])


def test_its_account_may_do_what_is_needed_and_no_more(release: Release) -> None:
    release.install(values())
    needed = {
        (resource, verb, group)
        for rule in required_rules()
        for group in rule.api_groups
        for resource in rule.resources
        for verb in rule.verbs
    } | {(resource, verb, "") for resource, verb in AUTOSCALERS}
    verbs = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
    resources = [
        ("", name)
        for name in ("nodes", "pods", "events", "secrets", "configmaps", "services", "namespaces")
    ]
    resources += [("", "pods/exec"), ("", "nodes/status"), ("", "serviceaccounts/token")]
    resources += [("ray.io", name) for name in ("rayclusters", "rayservices", "rayjobs")]
    resources += [("apps", "deployments"), ("rbac.authorization.k8s.io", "clusterroles")]
    allowed = {
        (name, verb, group)
        for group, name in resources
        for verb in verbs
        if granted(release, verb, name, group, "" if name == "nodes" else release.namespace)
    }
    assert allowed == needed
    assert not granted(release, "list", "pods", "", "kube-system")
    assert not granted(release, "patch", "rayclusters", "ray.io", "default")


def configured(release: Release) -> Config:
    """Give what the planner is told."""
    told = yaml.safe_load(release.rayservice()["spec"]["serveConfigV2"])
    (planner,) = (
        each for each in told["applications"][0]["deployments"] if each["name"] == PLANNER
    )
    return Config.model_validate(planner["user_config"])


def settings_of(
    release: Release, monkeypatch: pytest.MonkeyPatch, kubeconfig: str
) -> KubernetesSettings:
    """Give what the planner in the release's head would use, quicker to notice things."""
    monkeypatch.setenv("RAY_CLUSTER_NAME", release.raycluster)
    meant = kubernetes_settings(configured(release), namespace=release.namespace)
    return KubernetesSettings(
        namespace=meant.namespace,
        raycluster=meant.raycluster,
        groups=meant.groups,
        kubeconfig=kubeconfig,
        no_capacity_after_s=1.0,
        watch_s=2.0,
        request_timeout_s=3.0,
        stale_after_s=6.0,
        backoff_limit_s=1.0,
    )


def test_with_that_account_the_planner_does_all_it_does(
    release: Release, connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    release.install(values())
    release.make_cluster()
    nodes = connected(settings_of(release, monkeypatch, release.token()))

    def works() -> bool:
        try:
            return nodes.observe()[H100].ready == HOLLOW_NODES
        except NodesUnknownError:
            return False

    assert eventually(works)
    # KubeRay has handed the chart's mark on; a node has that of its operator.
    nodes.ask({H100: 2})
    assert _group(release, H100)["minReplicas"] == 2
    mark = {"metadata": {"annotations": {MANAGED: "true"}}}
    release.plane.merge("/api/v1/nodes/gpu-0", mark)
    try:
        assert nodes.cordon("gpu-0")
        nodes.uncordon("gpu-0")
    finally:
        release.plane.merge("/api/v1/nodes/gpu-0", {"metadata": {"annotations": {MANAGED: None}}})
    nodes.close()
    assert _group(release, H100)["minReplicas"] == 0


def _group(release: Release, name: str) -> Any:
    spec = release.plane.get(release.cluster_path)["spec"]
    return next(each for each in spec["workerGroupSpecs"] if each["groupName"] == name)


def test_workers_come_to_their_nodes_and_what_is_missing_is_planned_around(
    release: Release, connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    release.install(values())
    release.make_cluster()
    settings = settings_of(release, monkeypatch, release.token())
    nodes = connected(settings)
    nodes.ask({H100: HOLLOW_NODES + 1})
    release.reconcile()
    *there, beyond = release.made[H100]
    assert release.ready(*there, *release.made["headgroup"])
    hosts = {release.pod(name)["spec"]["nodeName"] for name in there}
    assert hosts == {f"gpu-{number}" for number in range(HOLLOW_NODES)}, "a node each"
    assert release.pod(beyond)["status"]["phase"] == "Pending"
    assert eventually(lambda: nodes.observe()[H100].trouble)
    assert "Insufficient nvidia.com/gpu" in nodes.observe()[H100].trouble

    planner = Shell(configured(release))
    planner.hear(held={STANDARD: 1})
    planner.turn()
    assert planner.wanted(big=1), "it is the leaner one"
    planner.nodes |= nodes.observe()
    planner.starting[BIG], planner.seekers[BIG] = 1, 0.0
    planner.hear(held={STANDARD: 1})
    planner.turn()
    assert planner.wanted(small=1), planner.planner.targets()


def test_a_worker_for_an_accelerator_that_is_not_there_waits(
    release: Release, connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    release.install(values(workerGroups={L4: {"minReplicas": 1}}))
    release.make_cluster()
    nodes = connected(settings_of(release, monkeypatch, release.token()))
    release.reconcile()
    assert eventually(lambda: nodes.observe()[L4].trouble)
    assert "didn't match" in nodes.observe()[L4].trouble
    assert nodes.observe()[H100].trouble == ""


def test_a_drain_respects_the_budget(release: Release) -> None:
    least = HOLLOW_NODES - 1
    release.install(
        values(
            workerGroups={H100: {"minReplicas": HOLLOW_NODES}},
            podDisruptionBudget={"workers": least},
        )
    )
    release.make_cluster()
    release.reconcile()
    workers = release.made[H100]
    assert release.ready(*workers, *release.made["headgroup"])
    budgets = f"/apis/policy/v1beta1/namespaces/{release.namespace}/poddisruptionbudgets"

    def allowed(part: str) -> int | None:
        status = release.plane.get(f"{budgets}/{FULL_NAME}-{part}")["status"]
        return status.get("disruptionsAllowed") if status.get("currentHealthy") else None

    assert eventually(lambda: (allowed("head"), allowed(H100)) == (0, 1))

    def evict(pod: str) -> None:
        body = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": pod}}
        release.plane.create(f"{release.pods}/{pod}/eviction", body)

    evict(workers[0])
    release.made[H100] = workers[1:]
    for pod in (workers[1], *release.made["headgroup"]):
        with pytest.raises(RefusedError, match="disruption budget"):
            evict(pod)
