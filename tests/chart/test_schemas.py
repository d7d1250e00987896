"""What the chart renders is what Kubernetes and KubeRay take, field by field."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.chart.conftest import CHART, Helm, helm_program
from tests.chart.given import group, values, variant

if TYPE_CHECKING:
    from collections.abc import Iterator

KUBERNETES = "1.37"
# KubeRay's own (its `helm-chart/kuberay-operator/crds`), which are too large to keep here.
DEFINITIONS = Path(os.environ.get("KUBERAY_CRDS", CHART.parents[2] / "shared" / "data" / "kuberay"))
# Of others: whoever brings these APIs brings the schemas, and they are not on the package index.
FOREIGN = {"PodMonitor", "PrometheusRule", "GRPCRoute", "HTTPRoute"}
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))

EVERYTHING: dict[str, Any] = values(
    variant(),
    variant(name="w", accelerator="l4"),
    groups=[group(), group(name="l4", accelerator="l4", accelerators_per_node=1)],
    config={"service_classes": {"standard": {"ttft_s": 5, "tpot_s": 0.2}}},
    commonLabels={"team": "serving"},
    prePull={"enabled": True},
    modelCache={"type": "persistentVolumeClaim", "storageClassName": "nfs", "preload": True},
    apiKeys={"enabled": True},
    hubToken={"name": "hub", "key": "token"},
    gcsFaultTolerance={
        "redisAddress": "redis:6379",
        "passwordSecret": {"name": "redis", "key": "password"},
    },
    ingress={
        "enabled": True,
        "className": "nginx",
        "host": "llm.example.org",
        "grpc": {"host": "grpc.example.org"},
        "tls": {"generate": True},
    },
    httpRoute={"enabled": True, "parentRefs": [{"name": "g"}], "hostnames": ["http.example.org"]},
    grpcRoute={"enabled": True, "parentRefs": [{"name": "g"}], "hostnames": ["grpc.example.org"]},
    networkPolicy={"enabled": True, "from": [{"podSelector": {"matchLabels": {"app": "web"}}}]},
    podMonitor={"enabled": True},
    alertRules={"enabled": True},
    dashboard={"enabled": True},
    otlp={
        "endpoint": "http://collector:4317",
        "protocol": "grpc",
        "sampling": 0.1,
        "headersSecret": {"name": "otlp", "key": "headers"},
    },
    worker={
        "runtimeClassName": "nvidia",
        "priorityClassName": "high",
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "startupProbe": {"exec": {"command": ["true"]}},
    },
    head={"nodeSelector": {"pool": "cpu"}, "livenessProbe": {"exec": {"command": ["true"]}}},
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(helm_program(), tmp_path_factory.mktemp("helm"))


def rendered(helm: Helm, given: Path | dict[str, Any]) -> tuple[dict[str, Any], ...]:
    made = helm.template(given)
    assert not made.refusal
    return made.objects


@cache
def definition(kind: str) -> jsonschema.Draft202012Validator:
    """Read KubeRay's schema of a kind, closed: a field that it does not know is refused."""
    file = DEFINITIONS / f"ray.io_{kind.lower()}s.yaml"
    if not file.is_file():
        pytest.skip(f"KUBERAY_CRDS names no folder with {file.name}")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    versions = yaml.load(file.read_text(), loader)["spec"]["versions"]
    (schema,) = (each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == "v1")
    # Every object has metadata; what may be in it, the API server knows by itself.
    schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": 1}
    close(schema)
    return jsonschema.Draft202012Validator(schema)


def close(schema: Any) -> None:
    if isinstance(schema, list):
        for each in schema:
            close(each)
    if not isinstance(schema, dict):
        return
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("anyOf", None)
        schema["type"] = ["integer", "string"]
    for each in schema.values():
        close(each)


def pods(object_: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cluster = object_["spec"]["rayClusterConfig"]
    for each in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "pod", **each["template"].get("metadata", {})},
            "spec": each["template"]["spec"],
        }


def check(object_: dict[str, Any]) -> None:
    if object_["apiVersion"].startswith("ray.io/"):
        definition(object_["kind"]).validate(object_)
        for pod in pods(object_):
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    elif object_["kind"] not in FOREIGN:
        kubernetes_validate.validate(object_, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    "given",
    [pytest.param(file, id=file.stem) for file in (CHART / "values.yaml", *EXAMPLES)]
    + [pytest.param(EVERYTHING, id="everything")],
)
def test_objects_pass_the_official_schemas(installed: Helm, given: Path | dict[str, Any]) -> None:
    for each in rendered(installed, given):
        check(each)


def test_everything_is_everything(installed: Helm) -> None:
    """No kind of object that a template makes goes unchecked."""
    kinds = {each["kind"] for each in rendered(installed, EVERYTHING)}
    templates = [*(CHART / "templates").rglob("*.yaml")]
    written = {
        line.split(":", 1)[1].strip()
        for file in templates
        for line in file.read_text().splitlines()
        if line.startswith("kind: ")
    }
    assert kinds >= {kind for kind in written if "{{" not in kind}


def test_the_schemas_refuse_what_they_do_not_know(installed: Helm) -> None:
    (service,) = (e for e in rendered(installed, EVERYTHING) if e["kind"] == "RayService")
    service["spec"]["rayClusterConfig"]["headGroupSpec"]["gpus"] = 1
    with pytest.raises(jsonschema.ValidationError, match="gpus"):
        check(service)
    budget = next(e for e in rendered(installed, EVERYTHING) if e["kind"] == "PodDisruptionBudget")
    budget["spec"]["minimum"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="minimum"):
        check(budget)


def test_between_two_patch_versions_only_the_version_differs(
    installed: Helm, tmp_path: Path
) -> None:
    newer = shutil.copytree(CHART, tmp_path / "jouleserve")
    description = yaml.safe_load((newer / "Chart.yaml").read_text())
    old, new = description["version"], description["version"] + "9"
    description |= {"version": new, "appVersion": new}
    (newer / "Chart.yaml").write_text(yaml.safe_dump(description))
    values_file = tmp_path / "values.yaml"
    # Whatever is drawn by chance is given instead.
    given = EVERYTHING | {
        "apiKeys": {"enabled": True, "existingSecret": "keys"},
        "ingress": EVERYTHING["ingress"] | {"tls": {"secretName": "tls"}},
    }
    values_file.write_text(yaml.safe_dump(given))
    texts = []
    for chart in (CHART, newer):
        apis = ("ray.io/v1", "monitoring.coreos.com/v1", "gateway.networking.k8s.io/v1")
        options = [option for api in apis for option in ("--api-versions", api)]
        done = installed.run("template", "demo", str(chart), "-f", str(values_file), *options)
        assert not done.returncode, done.stderr
        texts.append(done.stdout.splitlines())
    differing = [pair for pair in zip(*texts, strict=True) if pair[0] != pair[1]]
    assert differing
    for before, after in differing:
        assert before.replace(old, new) == after
