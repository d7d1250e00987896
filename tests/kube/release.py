"""A release of the chart on the control plane, with a stand-in for KubeRay's operator.

Its own module because the operator is not to be had as a program here: what this does of it (a
RayCluster of a RayService, pods of worker groups, who owns what) is KubeRay's.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.kube.control_plane import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.kube.control_plane import ControlPlane

CHART = Path(__file__).parents[2] / "helm" / "jouleserve"
NAME = "demo"
# As the chart makes it of the release's.
FULL_NAME = "demo-jouleserve"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
LIMIT_S = 60.0
# Hollow nodes have one core and little memory.
LITTLE = {"resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "16Mi"}}}

_numbers = itertools.count()


def older_chart(folder: Path) -> Path:
    """Copy the chart for the test bed's Kubernetes, which lacks what came after 1.20."""
    copy = shutil.copytree(CHART, folder / "jouleserve")
    description = yaml.safe_load((copy / "Chart.yaml").read_text())
    del description["kubeVersion"]
    (copy / "Chart.yaml").write_text(yaml.safe_dump(description))
    budget = copy / "templates" / "disruption.yaml"
    budget.write_text(budget.read_text().replace("policy/v1", "policy/v1beta1"))
    return copy


@dataclass
class Release:
    """An installed chart in a namespace of its own."""

    plane: ControlPlane
    helm: str
    chart: Path
    namespace: str = field(default_factory=lambda: f"release{next(_numbers)}")
    raycluster: str = f"{FULL_NAME}-abcde"
    made: dict[str, list[str]] = field(default_factory=dict)

    # ── as an operator ──────────────────────────────────────────────────────

    def run(self, *arguments: str) -> str:
        """Run helm on this release; give what it prints."""
        home = str(self.chart.parent)
        done = subprocess.run(
            [self.helm, *arguments, "--namespace", self.namespace],
            check=False,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            env={
                **os.environ,
                "KUBECONFIG": self.plane.kubeconfig,
                "HELM_CACHE_HOME": home,
                "HELM_CONFIG_HOME": home,
                "HELM_DATA_HOME": home,
            },
        )
        assert not done.returncode, done.stderr
        return done.stdout

    def write(self, values: Mapping[str, Any]) -> str:
        """Write values into a file."""
        file = self.chart.parent / f"{self.namespace}.yaml"
        file.write_text(yaml.safe_dump(dict(values)))
        return str(file)

    def install(self, values: Mapping[str, Any]) -> None:
        """Install it."""
        file = self.write(values)
        self.run("install", NAME, str(self.chart), "--create-namespace", "-f", file)

    def upgrade(self, values: Mapping[str, Any]) -> None:
        """Change it."""
        self.run("upgrade", NAME, str(self.chart), "-f", self.write(values))

    def get(self, kind: str, name: str = FULL_NAME, group: str = "/api/v1") -> Any:
        """Read an object of its namespace."""
        return self.plane.get(f"{group}/namespaces/{self.namespace}/{kind}/{name}")

    def rayservice(self) -> Any:
        """Read its RayService."""
        return self.get("rayservices", group="/apis/ray.io/v1")

    def token(self) -> str:
        """Ask for a token of its service account; give the kubeconfig."""
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{FULL_NAME}/token"
        asked = {"spec": {"expirationSeconds": 3600}}
        token = self.plane.create(path, asked)["status"]["token"]
        return self.plane.kubeconfig_of(f"{self.namespace}-planner", token)

    # ── as KubeRay ──────────────────────────────────────────────────────────

    @property
    def pods(self) -> str:
        """Of its pods."""
        return f"/api/v1/namespaces/{self.namespace}/pods"

    @property
    def cluster_path(self) -> str:
        """Of its RayCluster."""
        return f"/apis/ray.io/v1/namespaces/{self.namespace}/rayclusters/{self.raycluster}"

    def make_cluster(self) -> Any:
        """Make the RayCluster of the RayService, with its labels and annotations."""
        service = self.rayservice()
        body = {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "metadata": {
                "name": self.raycluster,
                "labels": service["metadata"]["labels"]
                | {"ray.io/originated-from-cr-name": FULL_NAME},
                "annotations": service["metadata"].get("annotations", {}),
                "ownerReferences": [_owner(service)],
            },
            "spec": service["spec"]["rayClusterConfig"],
        }
        return self.plane.create(self.cluster_path.rpartition("/")[0], body)

    def reconcile(self) -> None:
        """Make the pods of the head and of all worker groups that are missing."""
        cluster = self.plane.get(self.cluster_path)
        self._make_pod(cluster, "headgroup", "head", cluster["spec"]["headGroupSpec"], 1)
        for group in cluster["spec"]["workerGroupSpecs"]:
            self._make_pod(cluster, group["groupName"], "worker", group, group["replicas"])

    def _make_pod(
        self, cluster: Any, group: str, kind: str, spec: Mapping[str, Any], count: int
    ) -> None:
        names = self.made.setdefault(group, [])
        for _ in range(count - len(names)):
            template = deepcopy(spec["template"])
            name = f"{self.raycluster}-{group}-{len(names):05d}"
            labels = {
                "ray.io/cluster": self.raycluster,
                "ray.io/group": group,
                "ray.io/node-type": kind,
                "ray.io/serve": "true",
            }
            metadata = template.get("metadata", {})
            metadata |= {"name": name, "ownerReferences": [_owner(cluster)]}
            metadata["labels"] = metadata.get("labels", {}) | labels
            self.plane.create(self.pods, {"metadata": metadata, "spec": template["spec"]})
            names.append(name)

    def pod(self, name: str) -> Any:
        """Read a pod."""
        return self.plane.get(f"{self.pods}/{name}")

    def ready(self, *names: str) -> bool:
        """Wait for pods to be ready."""

        def all_ready() -> bool:
            return all(_is_ready(self.pod(name)) for name in names)

        return bool(eventually(all_ready))

    def end(self) -> None:
        """Free the nodes for the next test."""
        for name in itertools.chain.from_iterable(self.made.values()):
            self.plane.delete(f"{self.pods}/{name}")
        self.made.clear()


def _owner(thing: Any) -> dict[str, object]:
    metadata = thing["metadata"]
    return {
        "apiVersion": thing["apiVersion"],
        "kind": thing["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _is_ready(pod: Any) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
