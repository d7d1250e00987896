"""The chart asks Kubernetes and Ray Serve for what the program means."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from cluster.accelerators import CATALOGUE
from scripts import generate_chart
from serve import deployment
from serve.config import Config
from tests.chart.conftest import CHART

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chart.conftest import Helm, Rendered

EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
DEFAULTS = CHART / "values.yaml"


def config_of(file: Path) -> Config:
    return Config.model_validate(yaml.safe_load(file.read_text())["config"])


def serve_config(rendered: Rendered) -> dict[str, Any]:
    told: dict[str, Any] = yaml.safe_load(rendered.one("RayService")["spec"]["serveConfigV2"])
    return told


def test_what_is_generated_is_up_to_date() -> None:
    for file, text in generate_chart.contents().items():
        assert file.read_text() == text, f"run scripts/generate_chart.py: {file}"


@pytest.mark.parametrize("file", [DEFAULTS, *EXAMPLES], ids=lambda file: file.stem)
def test_ray_serve_is_told_what_up_would_tell_it(helm: Helm, file: Path) -> None:
    config = config_of(file)
    rendered = helm.template(file)
    assert not rendered.refusal
    told, meant = serve_config(rendered), json.loads(json.dumps(deployment.serve_config(config)))
    (ours,), (theirs,) = told.pop("applications"), meant.pop("applications")
    meant["http_options"]["host"] = "0.0.0.0"
    assert told == meant
    # What is left out stands for the defaults; both come to the same.
    assert Config.model_validate(ours.pop("args")) == Config.model_validate(theirs.pop("args"))
    for planner in (ours["deployments"][1], theirs["deployments"][1]):
        assert Config.model_validate(planner.pop("user_config")) == config
    assert ours == theirs


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_every_node_group_is_a_worker_group(helm: Helm, file: Path) -> None:
    groups = config_of(file).node_groups
    spec = helm.template(file).one("RayService")["spec"]["rayClusterConfig"]
    assert [each["groupName"] for each in spec["workerGroupSpecs"]] == [g.name for g in groups]
    for group, worker in zip(groups, spec["workerGroupSpecs"], strict=True):
        assert worker["maxReplicas"] == group.max_nodes
        pod = worker["template"]["spec"]
        limits = pod["containers"][0]["resources"]["limits"]
        gpus = [name for name in limits if name.startswith("nvidia.com/")]
        assert len(gpus) == (group.accelerator != "cpu")
        assert all(limits[name] == str(group.accelerators_per_node) for name in gpus)
        products = CATALOGUE[group.accelerator].kubernetes_products
        assert all(product in yaml.safe_dump(pod.get("affinity", {})) for product in products)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_every_container_has_what_ray_needs_and_no_rights_that_it_does_not(
    helm: Helm, file: Path
) -> None:
    spec = helm.template(file).one("RayService")["spec"]["rayClusterConfig"]
    pods = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for pod in (each["template"]["spec"] for each in pods):
        (container,) = pod["containers"]
        environment = {each["name"]: each.get("value") for each in container["env"]}
        assert environment.items() >= generate_chart.ray()["environment"].items()
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        ports = {each["name"] for each in container["ports"]}
        assert {"serve", "serve-grpc"} <= ports
        assert "helm.sh/chart" not in yaml.safe_dump(pod)


def test_without_kuberay_it_says_so(helm: Helm) -> None:
    refusal = helm.template(DEFAULTS, apis=()).refusal
    assert "install KubeRay's operator first" in refusal


def test_the_linter_is_content(helm: Helm) -> None:
    for file in EXAMPLES:
        done = helm.run("lint", "--strict", str(CHART), "-f", str(file))
        assert done.returncode == 0, done.stdout
