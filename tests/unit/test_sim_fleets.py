from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from loadtest.errors import DescriptionError
from loadtest.virtual.autoscalers import EverythingAwake, QueueBased, QueueSettings, StaticPeak
from loadtest.virtual.descriptions import fluid_rate
from loadtest.virtual.fleets import read_fleet
from scheduler.plans import Demand, Slot
from scheduler.steps import AffineSteps

FLEETS = Path(__file__).parents[2] / "examples" / "fleets"


@pytest.mark.parametrize("path", sorted(FLEETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_can_serve(path: Path) -> None:
    cluster = read_fleet(path)
    assert cluster.name == path.stem
    assert fluid_rate(cluster, 100, 50) > 0
    target = EverythingAwake(cluster).initial()
    for name, group in cluster.groups.items():
        held = sum(
            target.replicas[Slot(each.variant, each.group)] * each.accelerators
            for each in cluster.placements
            if each.group == name
        )
        assert held == group.accelerators_per_node * group.max_nodes


def test_sizes() -> None:
    sizes = {
        name: sum(
            group.max_nodes * group.accelerators_per_node
            for group in read_fleet(FLEETS / f"{name}.yaml").groups.values()
        )
        for name in ("8xh100", "64xh100", "1024xh100", "demo")
    }
    assert sizes == {"8xh100": 8, "64xh100": 64, "1024xh100": 1024, "demo": 2}


def test_weights_only_int4_reads_less_and_computes_as_bf16() -> None:
    variants = read_fleet(FLEETS / "mixed.yaml").variants
    bf16, int4 = (variants[name].steps for name in ("bf16-a100", "int4-a100"))  # type: ignore[index]
    assert isinstance(bf16, AffineSteps)
    assert isinstance(int4, AffineSteps)
    assert int4.t0_s < 0.6 * bf16.t0_s
    assert int4.t1_s == bf16.t1_s


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": None}, "model: "),
        ({"colour": "red"}, "colour: Extra inputs"),
        (
            {"placements": [{"variant": "x", "group": "h100", "start_s": 1, "start_j": 1}]},
            "no variant 'x'",
        ),
        (
            {"placements": [{"variant": "bf16-h100", "group": "y", "start_s": 1, "start_j": 1}]},
            "no node group 'y'",
        ),
        (
            {"variants": [{"name": "v", "kv_capacity_tokens": 9, "context_power_w": 1}]},
            "either steps, or shape",
        ),
    ],
)
def test_a_bad_description_is_refused(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    content = yaml.safe_load((FLEETS / "8xh100.yaml").read_text()) | change
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(DescriptionError, match=words):
        read_fleet(path)


def test_what_is_no_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("a: [")
    with pytest.raises(DescriptionError, match="is no YAML"):
        read_fleet(path)
    with pytest.raises(DescriptionError, match="No such file"):
        read_fleet(tmp_path / "none.yaml")


def test_a_static_peak_keeps_a_share_and_its_nodes() -> None:
    cluster = read_fleet(FLEETS / "64xh100.yaml")
    target = StaticPeak(cluster, 0.25).initial()
    assert sum(target.replicas.values()) == 16
    assert target.nodes == {"h100": 2}


def test_the_queue_target_is_within_objectives() -> None:
    cluster = read_fleet(FLEETS / "8xh100.yaml")
    objective = cluster.classes["chat"].objective
    demand = Demand(cluster.model, objective, 1.0, 1155, 211)
    fleet = QueueBased(cluster, (demand,), QueueSettings())
    assert sum(fleet.initial().replicas.values()) == 8
