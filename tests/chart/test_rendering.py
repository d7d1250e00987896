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


def variant(**changes: Any) -> dict[str, Any]:
    given = {"name": "v", "checkpoint": {"hub": "a/b"}, "accelerator": "h100-sxm"}
    return {**given, **changes}


def group(**changes: Any) -> dict[str, Any]:
    given = {"name": "h100", "accelerator": "h100-sxm", "accelerators_per_node": 8, "max_nodes": 2}
    return {**given, **changes}


def values(
    *variants: dict[str, Any], groups: list[dict[str, Any]] | None = None, **changes: Any
) -> dict[str, Any]:
    models = [{"name": "m", "variants": list(variants or [variant()])}]
    node_groups = [group()] if groups is None else groups
    given = {"models": models, "node_groups": node_groups, "planner": {"nodes": "kubernetes"}}
    return {"config": given, **changes}


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": (values(imagee={}), "imagee"),
    "an unknown key within": (values(image={"tagg": "x"}), "tagg"),
    "an unknown key of a variant": (values(variant(max_replica=2)), "max_replica"),
    "an unknown key of a worker": (values(worker={"gpus": 8}), "gpus"),
    "a number as a text": (values(variant(max_batch="many")), "max_batch"),
    "a text as a number": (values(idleTimeoutSeconds="60"), "idleTimeoutSeconds"),
    "a negative number": (values(variant(min_replicas=-1)), "min_replicas"),
    "no such accelerator": (values(variant(accelerator="h1000")), "accelerator"),
    "no such engine": (values(variant(engine="sglang")), "engine"),
    "no such pull policy": (values(image={"pullPolicy": "Sometimes"}), "pullPolicy"),
    "no such cache": (values(modelCache={"type": "tape"}), "modelCache"),
    "a port beyond all ports": (values(service={"grpcPort": 70000}), "grpcPort"),
    "a quantity of nothing": (values(worker={"sharedMemory": "much"}), "sharedMemory"),
    "an interval of nothing": (values(podMonitor={"interval": "often"}), "interval"),
    "an endpoint that is none": (values(otlp={"endpoint": "collector"}), "endpoint"),
    "a version that is none": (values(rayVersion="newest"), "rayVersion"),
    "least over most": (
        values(variant(min_replicas=3, max_replicas=2)),
        "config.models[0].variants[0].min_replicas: 3 is more than max_replicas 2",
    ),
    "more GPUs than a node": (
        values(variant(tensor_parallel_size=16)),
        "config.models[0].variants[0].tensor_parallel_size: 16 GPUs are more than a worker",
    ),
    "more GPUs than a share of a node": (
        values(variant(tensor_parallel_size=4), groups=[group(workers_per_node=4)]),
        "config.models[0].variants[0].tensor_parallel_size: 4 GPUs are more than a worker",
    ),
    "slices that work together": (
        values(variant(tensor_parallel_size=2), worker={"gpuResource": "nvidia.com/mig-1g.10gb"}),
        "config.models[0].variants[0].tensor_parallel_size: slices of a GPU",
    ),
    "shares that do not divide": (
        values(groups=[group(workers_per_node=3)]),
        "config.node_groups[0].workers_per_node: 3 workers cannot share the 8 accelerators",
    ),
    "a floor over the nodes": (
        values(workerGroups={"h100": {"minReplicas": 3}}),
        "workerGroups.h100.minReplicas: 3 is more than max_nodes",
    ),
    "settings of no group": (values(workerGroups={"l4": {}}), "workerGroups.l4: config.node_gr"),
    "a variant without nodes": (
        values(variant(accelerator="l4")),
        'config.models[0].variants[0].accelerator: no group of config.node_groups has "l4"',
    ),
    "two variants of a name": (
        values(variant(), variant()),
        'config.models[0].variants[1].name: "v" is used by two variants',
    ),
    "two groups of a name": (
        values(groups=[group(), group(accelerator="l4")]),
        'config.node_groups[1].name: "h100" names two groups',
    ),
    "two groups of an accelerator": (
        values(groups=[group(), group(name="other")]),
        'config.node_groups[1].accelerator: "h100-sxm" is in two groups',
    ),
    "an ingress for no host": (values(ingress={"enabled": True}), "ingress.host: must be given"),
    "a route from nowhere": (
        values(grpcRoute={"enabled": True}),
        "grpcRoute.parentRefs: must name a Gateway",
    ),
    "no models": ({"config": {"models": [], "node_groups": [group()]}}, "models"),
    "no variants": (
        {"config": {"models": [{"name": "m", "variants": []}], "node_groups": [group()]}},
        "variants",
    ),
    "names that no URL could have": (values(variant(name="a b")), "name"),
    "a quality beyond all": (values(variant(quality=1.5)), "quality"),
    "no time at all": (values(variant(start_s=0)), "start_s"),
}


def test_what_they_break_would_render(helm: Helm) -> None:
    assert not helm.template(values()).refusal


@pytest.mark.parametrize("case", BROKEN)
def test_broken_values_are_refused_with_their_key(helm: Helm, case: str) -> None:
    given, words = BROKEN[case]
    refusal = helm.template(given).refusal
    assert words in refusal, refusal
