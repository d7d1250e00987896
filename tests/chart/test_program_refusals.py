"""What the program refuses, the chart refuses, with the same keys: nobody finds out in a pod."""

from __future__ import annotations

import ast
import inspect
import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from serve import config, config_models, config_planner, section_file
from serve.config import Config
from serve.config_section import Fault
from tests.chart.conftest import CHART
from tests.chart.given import group, values, variant
from tests.unit import test_config as unit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chart.conftest import Helm

SECTIONS = (config, config_models, config_planner)
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
LABELS = {"kubernetes.io/os": ["linux"]}
CORES = group(name="cores", accelerator="cpu", accelerators_per_node=64, node_labels=LABELS)
GPUS = group(max_nodes=64)
# Cores for every GPU, and grace for every drain: what only the chart knows is never at fault here.
ROOM: dict[str, Any] = {
    "worker": {"resources": {"requests": {"cpu": 64}}},
    "terminationGracePeriodSeconds": 1000,
}


def tree(*variants: dict[str, Any], **changes: Any) -> dict[str, Any]:
    chosen = list(variants or [echo()])
    given = {"models": [{"name": "m", "variants": chosen}], "node_groups": [GPUS, CORES]}
    return {**given, "planner": {"nodes": "kubernetes"}, **changes}


def echo(name: str = "a", **changes: Any) -> dict[str, Any]:
    return {"name": name, "engine": "echo", "accelerator": "cpu", **changes}


def planner(**changes: Any) -> dict[str, Any]:
    return {"planner": {"nodes": "kubernetes", **changes}}


def refused_keys(value: dict[str, Any]) -> set[str]:
    """Spell the keys that the program refuses; none if it takes the value."""
    try:
        Config.model_validate(value)
    except ValidationError as error:
        return {mistake.key for mistake in section_file.mistakes(Config, error, {})}
    return set()


def says(refusal: str, key: str) -> bool:
    """Whether a refusal names a key, as templates or as schemas spell it."""
    pointer = "/config/" + re.sub(r"\[(\d+)\]", r"/\1", key).replace(".", "/")
    section, _, last = pointer.rpartition("/")
    return (
        any(f"config.{key}{end}" in refusal for end in (":", " "))
        or f"at '{pointer}'" in refusal
        or (f"at '{section}'" in refusal and f"'{last}'" in refusal)
    )


def check(helm: Helm, value: dict[str, Any]) -> tuple[set[str], str]:
    """Compare the two; give the keys that the program refuses, and what the chart says."""
    keys = refused_keys(value)
    refusal = helm.template({**ROOM, "config": value}).refusal
    for key in keys:
        assert says(refusal, key), f"{key} is not in: {refusal}"
    return keys, refusal


# One value for every fault that a section can find.
FAULTS: dict[str, dict[str, Any]] = {
    "policy": tree(scheduler={"policy": "astrology"}),
    "stale": tree(scheduler={"report_period_s": 5, "stale_after_s": 9}),
    "ports": tree(gateway={"grpc_port": 8000}),
    "all candidates": tree(echo(candidate=True, min_replicas=0, max_replicas=1)),
    "accepted": tree(echo(), **planner(adapt={"accepted": ["a"]})),
    "asleep": tree(echo(min_replicas=0, max_replicas=1), **planner(autoscaler="queue_based")),
    "pin of nothing": tree(echo(), **planner(pinned={"b": 1})),
    "pin beyond": tree(echo(), **planner(pinned={"a": 2})),
    "no groups": tree(echo(), node_groups=[]),
    "labels": tree(echo(), node_groups=[{**CORES, "node_labels": {}}]),
    "group names": tree(echo(), node_groups=[CORES, {**GPUS, "name": "cores"}]),
    "group accelerators": tree(echo(), node_groups=[CORES, {**CORES, "name": "other"}]),
    "model names": tree(echo())
    | {
        "models": [
            {"name": "m", "variants": [echo("a")]},
            {"name": "m", "variants": [echo("b")]},
        ]
    },
    "variant names": tree(echo(), echo()),
    "class": tree(echo(), service_classes={"fast": {"ttft_s": 1, "tpot_s": 1}}),
    "quality": tree(
        echo(quality=0.5),
        service_classes={"standard": {"ttft_s": 1, "tpot_s": 1, "min_quality": 0.9}},
    ),
    "too many GPUs": tree(variant(tensor_parallel_size=9)),
    "too many cores": tree(echo(cpus_per_replica=65)),
    "checkpoint of none": tree(variant(checkpoint={})),
    "checkpoint of two": tree(variant(checkpoint={"hub": "a/b", "package": "c"})),
    "revision of a package": tree(variant(checkpoint={"package": "c", "revision": "main"})),
    "accelerator": tree(echo(accelerator="abacus")),
    "asleep for ever": tree(echo(min_replicas=0)),
    "bounds": tree(echo(min_replicas=3, max_replicas=2)),
    "candidate awake": tree(echo(), echo("b", candidate=True)),
    "a profile in a file": tree(echo(profile_file="a.yaml")),
    "no checkpoint": tree({"name": "v", "accelerator": "h100-sxm"}),
    "unread": tree(variant(echo={"decode_step_s": 1})),
    "unread of echo": tree(echo(quantization="fp8")),
    "unread of llamacpp": tree(variant(engine="llamacpp", dtype="float16", kv_cache_gib=2)),
    "unread of tensorrt": tree(variant(engine="tensorrt", gpu_power_limit_w=300)),
    "ranks of a processor": tree(echo(tensor_parallel_size=2, pipeline_parallel_size=2)),
    "power of a processor": tree(variant(accelerator="cpu", kv_cache_gib=1, gpu_power_limit_w=9)),
    "cache of a processor": tree(variant(accelerator="cpu")),
    "uneven shares": tree(variant(), node_groups=[{**GPUS, "workers_per_node": 3}]),
    "accelerator of a group": tree(variant(), node_groups=[{**GPUS, "accelerator": "abacus"}]),
}


@pytest.mark.parametrize("case", FAULTS)
def test_every_fault_is_the_charts_too(helm: Helm, case: str) -> None:
    keys, _ = check(helm, FAULTS[case])
    assert keys


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[tuple[str, int]]]:
    """Note where in the program's sections faults are found."""
    found: set[tuple[str, int]] = set()

    def note(key: str, message: str) -> Fault:
        frame = inspect.currentframe()
        assert frame is not None
        assert frame.f_back is not None
        found.add((Path(frame.f_back.f_code.co_filename).name, frame.f_back.f_lineno))
        return Fault(key, message)

    with monkeypatch.context() as patched:
        for module in SECTIONS:
            patched.setattr(module, "Fault", note)
        yield found


def test_no_fault_of_the_program_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that comes to be needs a case above, and so a rule in the chart."""
    every = set()
    for module in SECTIONS:
        file = Path(inspect.getfile(module))
        calls = (n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call))
        every |= {
            (file.name, call.lineno)
            for call in calls
            if isinstance(call.func, ast.Name) and call.func.id == "Fault"
        }
    with recorded(monkeypatch) as found:
        for value in FAULTS.values():
            refused_keys(value)
    assert len(every) > 20
    assert found == every


@pytest.mark.parametrize("change", unit.IMPOSSIBLE, ids=str)
def test_impossible_values_of_a_variant_are_refused(helm: Helm, change: dict[str, Any]) -> None:
    if "kv_cache_gib" in change:
        pytest.skip("JSON, which helm reads values as, has no infinity: helm refuses the file")
    keys, _ = check(helm, tree(unit.echo(**change)))
    assert keys


@pytest.mark.parametrize(("change", "key"), unit.CONTRADICTIONS, ids=str)
def test_contradictions_of_a_variant_are_refused(
    helm: Helm, change: dict[str, Any], key: str
) -> None:
    keys, _ = check(helm, tree(unit.echo(**change)))
    assert any(key in each for each in keys)


@pytest.mark.parametrize(("groups", "nodes", "keys"), unit.GROUPS, ids=str)
def test_node_groups_are_refused_alike(
    helm: Helm, groups: list[dict[str, Any]], nodes: str, keys: tuple[str, ...]
) -> None:
    value = tree(echo(cpus_per_replica=2), node_groups=groups, planner={"nodes": nodes})
    refused, _ = check(helm, value)
    assert bool(refused) == bool(keys)


NAMES = st.sampled_from(["a", "b", "c", "d", "e", "f"])
GOOD = (
    echo(),
    variant(),
    variant(min_replicas=0, max_replicas=2, candidate=True),
    variant(accelerator="cpu", kv_cache_gib=1),
    variant(engine="llamacpp"),
    variant(engine="tensorrt", tensor_parallel_size=2),
)
# Of which one or two are changed in what is good.
CHANGES: dict[str, list[Any]] = {
    "engine": ["vllm", "llamacpp", "tensorrt", "echo"],
    "accelerator": ["cpu", "h100-sxm"],
    "checkpoint": [
        None,
        {"hub": "a/b"},
        {"package": "c"},
        {"hub": "a/b", "path": "/d"},
        {"path": ""},
        {"package": "c", "revision": ""},
    ],
    "min_replicas": [0, 1, 3],
    "max_replicas": [None, 1, 3],
    "candidate": [True, False],
    "quality": [0.25, 0.5, 1.0],
    "tensor_parallel_size": [1, 2, 8, 16],
    "pipeline_parallel_size": [1, 2],
    "cpus_per_replica": [0.5, 1, 64, 65],
    "kv_cache_gib": [None, 1, 0.5],
    "gpu_power_limit_w": [None, 300],
    "dtype": ["auto", "float16"],
    "quantization": [None, "fp8"],
    "engine_options": [{}, {"seed": 1}],
    "echo": [{}, {"decode_step_s": 0.01}, {"decode_step_s": 0.02}],
}


@st.composite
def variants(draw: st.DrawFn) -> dict[str, Any]:
    changed = draw(st.lists(st.sampled_from(sorted(CHANGES)), max_size=2))
    changes = {key: draw(st.sampled_from(CHANGES[key])) for key in changed}
    return {**draw(st.sampled_from(GOOD)), **changes, "name": draw(NAMES)}


CLASSES = st.dictionaries(
    st.sampled_from(["standard", "fast"]),
    st.fixed_dictionaries(
        {"ttft_s": st.just(1), "tpot_s": st.just(0.1)},
        optional={"min_quality": st.sampled_from([0, 0.5, 0.75])},
    ),
)
TREES = st.fixed_dictionaries(
    {
        "models": st.lists(
            st.fixed_dictionaries(
                {
                    "name": st.sampled_from(["m", "first", "second"]),
                    "variants": st.lists(variants(), min_size=1, max_size=2),
                },
                optional={"default_service_class": st.sampled_from(["standard", "fast"])},
            ),
            min_size=1,
            max_size=2,
        ),
        "node_groups": st.just([GPUS, CORES]),
        "planner": st.fixed_dictionaries(
            {"nodes": st.just("kubernetes")},
            optional={
                "autoscaler": st.sampled_from(["planner", "queue_based"]),
                "pinned": st.dictionaries(NAMES, st.integers(0, 3), max_size=1),
                "adapt": st.fixed_dictionaries({"accepted": st.lists(NAMES, max_size=1)}),
            },
        ),
    },
    optional={
        "service_classes": CLASSES,
        "gateway": st.fixed_dictionaries(
            {}, optional={"grpc_port": st.sampled_from([8000, 9001]), "replicas": st.just(2)}
        ),
        "scheduler": st.fixed_dictionaries(
            {},
            optional={
                "stale_after_s": st.sampled_from([0.9, 1, 3]),
                "report_period_s": st.sampled_from([0.5, 1.5]),
            },
        ),
    },
)


@settings(
    max_examples=60,
    deadline=None,
    # Each example is a process; smaller ones are not worth minutes.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(TREES)
def test_both_refuse_the_same_and_for_the_same_reasons(helm: Helm, value: dict[str, Any]) -> None:
    keys, refusal = check(helm, value)
    # Only the chart knows that ranks on one node have to fit where stages may be on several.
    if "tensor_parallel_size: 16 GPUs" not in refusal:
        assert bool(refusal) == bool(keys), refusal


@pytest.mark.parametrize("file", [CHART / "values.yaml", *EXAMPLES], ids=lambda file: file.stem)
def test_a_configuration_with_every_default_spelt_out_is_taken(helm: Helm, file: Path) -> None:
    """As `jouleserve config check --show` prints it, but for the host, which is of one machine."""
    given = yaml.safe_load(file.read_text())
    config = Config.model_validate(given["config"])
    spelt: dict[str, Any] = json.loads(config.model_dump_json())
    del spelt["gateway"]["host"]
    rendered = helm.template({**given, "config": spelt})
    assert not rendered.refusal
    told = yaml.safe_load(rendered.one("RayService")["spec"]["serveConfigV2"])
    args = told["applications"][0]["deployments"][1]["user_config"]
    assert Config.model_validate(args) == config


def test_values_that_hold_no_number_are_refused(helm: Helm) -> None:
    assert helm.template(values(variant(kv_cache_gib=float("inf")))).refusal
