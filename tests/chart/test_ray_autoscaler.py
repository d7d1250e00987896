"""What Ray's own autoscaler makes of the chart's worker groups, while no node is there yet."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from cluster.accelerators import CATALOGUE
from serve.config import Config
from tests.chart.conftest import CHART

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chart.conftest import Helm

autoscaling_config = pytest.importorskip("ray.autoscaler._private.kuberay.autoscaling_config")


def node_types(helm: Helm, file: Path) -> dict[str, Any]:
    spec = helm.template(file).one("RayService")["spec"]["rayClusterConfig"]
    cluster = {"metadata": {"namespace": "n", "name": "c"}, "spec": spec}
    derived = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)  # noqa: SLF001 (there is no other door)
    found: dict[str, Any] = derived["available_node_types"]
    return found


@pytest.mark.parametrize(
    "file", sorted((CHART / "examples").glob("*.yaml")), ids=lambda file: file.stem
)
def test_a_worker_has_room_for_what_its_accelerators_can_hold(helm: Helm, file: Path) -> None:
    config = Config.model_validate(yaml.safe_load(file.read_text())["config"])
    types = node_types(helm, file)
    assert types["headgroup"]["resources"]["CPU"] == 0
    for group in config.node_groups:
        found = types[group.name]
        resources = found["resources"]
        assert found["max_workers"] == group.max_nodes * group.workers_per_node
        share = group.accelerators_per_node // group.workers_per_node
        if group.accelerator == "cpu":
            assert resources["CPU"] == share
            continue
        assert resources["GPU"] == share
        ray_type = CATALOGUE[group.accelerator].ray_type
        assert not ray_type or resources[f"accelerator_type:{ray_type}"] == 1
        for _, variant in config.variants():
            if variant.accelerator == group.accelerator:
                assert resources["CPU"] >= math.ceil(variant.cpus_per_replica * share)
