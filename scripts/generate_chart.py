"""Write what the Helm chart takes from the program: schema of its values, what Ray is told, rules.

`--check` writes nothing and fails when a file is not what it would write.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cluster.accelerators import CATALOGUE
from scheduler.policies import POLICIES
from scripts import chart_readme
from scripts.grafana_panels import dashboards
from serve import checkpoints, deployment, engine_options, haproxy
from serve.config import Config, GatewayConfig, SchedulerConfig
from serve.config_models import UNREAD, ModelConfig, VariantConfig
from serve.config_planner import NodeGroupConfig, PlannerConfig

if TYPE_CHECKING:
    from serve.config_section import Section

CHART = Path(__file__).parents[1] / "helm" / "jouleserve"
OWN_SCHEMA = CHART / "files" / "own.schema.json"
KUBERNETES_SCHEMA = CHART / "files" / "kubernetes.schema.json"
SCHEMA = CHART / "values.schema.json"
RAY = CHART / "files" / "ray.yaml"
RULES = CHART / "files" / "rules.yaml"
README = CHART / "README.md"
DASHBOARDS = CHART / "files" / "dashboards"
# By NVIDIA's MIG User Guide, "Supported GPUs".
WITH_MIG = frozenset({"a100-80", "a30", "h100-pcie", "h100-sxm", "h200", "b200", "rtx-pro-6000"})
# In the images, everything is installed there.
PROGRAM = "/opt/jouleserve/bin/jouleserve-haproxy"


def main() -> int:
    """Write the files, or check them."""
    stale = [file for file, text in contents().items() if _read(file) != text]
    if "--check" in sys.argv[1:]:
        for file in stale:
            sys.stderr.write(f"{file} is not what scripts/generate_chart.py writes: run it\n")
        return int(bool(stale))
    for file, text in contents().items():
        file.write_text(text, encoding="utf-8")
    return 0


def contents() -> dict[Path, str]:
    """Give every file's text."""
    schema = values_schema()
    return {
        SCHEMA: json.dumps(schema, indent=2) + "\n",
        RAY: _generated(ray()),
        RULES: _generated(rules()),
        **{DASHBOARDS / name: text for name, text in dashboards().items()},
        README: chart_readme.with_table(_read(README), _read(CHART / "values.yaml"), schema),
    }


def values_schema() -> dict[str, Any]:
    """Give the chart's own schema, with that of the configuration in it."""
    own: dict[str, Any] = json.loads(OWN_SCHEMA.read_text(encoding="utf-8"))
    kubernetes = json.loads(KUBERNETES_SCHEMA.read_text(encoding="utf-8"))
    config = Config.model_json_schema(ref_template="#/$defs/{model}")
    definitions = config.pop("$defs")
    own["$defs"] = {**kubernetes, **own["$defs"], **definitions}
    own["properties"]["config"] = config
    for section, key, known in (
        (VariantConfig, "accelerator", CATALOGUE),
        (NodeGroupConfig, "accelerator", CATALOGUE),
        (SchedulerConfig, "policy", POLICIES),
    ):
        own["$defs"][section.__name__]["properties"][key] |= {"enum": sorted(known)}
    return own


def ray() -> dict[str, Any]:
    """Give what does not depend on the configuration."""
    environment = {**deployment.RAY_ENVIRONMENT, haproxy.BINARY_VARIABLE: PROGRAM}
    return {
        "environment": environment,
        "application": {
            "name": deployment.APPLICATION,
            "gateway": deployment.GATEWAY,
            "planner": deployment.PLANNER,
            "import_path": deployment.IMPORT_PATH,
            "policy": deployment.AUTOSCALING_POLICY,
            "servicers": list(deployment.SERVICERS),
            "planner_scaling": deployment.PLANNER_SCALING,
            "delays": deployment.DELAYS,
        },
        "accelerators": {
            name: {
                "products": list(each.kubernetes_products),
                "ray_type": each.ray_type,
                "mig": name in WITH_MIG,
            }
            for name, each in sorted(CATALOGUE.items())
        },
    }


def rules() -> dict[str, Any]:
    """Give what templates need to refuse what the program refuses."""
    sections: dict[str, type[Section]] = {
        "gateway": GatewayConfig,
        "scheduler": SchedulerConfig,
        "planner": PlannerConfig,
        "model": ModelConfig,
        "variant": VariantConfig,
        "node_group": NodeGroupConfig,
    }
    defaults = {name: _defaults(section) for name, section in sections.items()}
    variant = defaults["variant"]
    return {
        "defaults": defaults,
        "service_classes": _defaults(Config)["service_classes"],
        "unread": {name: {key: variant[key] for key in keys} for name, keys in UNREAD.items()},
        "engine_options": {
            "own_keys": engine_options.OWN_KEYS,
            "reserved": sorted(engine_options.RESERVED),
            "known": _known_engine_options(),
        },
        "hub_id": f"^({checkpoints.HUB_ID.pattern})$",
    }


def _defaults(section: type[Section]) -> dict[str, Any]:
    """Give the value of every key that need not be given, as JSON."""
    fields = {k: v for k, v in section.model_fields.items() if not v.is_required()}
    values = {k: v.get_default(call_default_factory=True) for k, v in fields.items()}
    given: dict[str, Any] = section.model_construct(**values).model_dump(
        mode="json", include=set(fields)
    )
    return given


def _known_engine_options() -> list[str]:
    """Give vLLM's; where it is not installed, those that were written before."""
    known = engine_options.known_options()
    if known is not None:
        return sorted(known)
    before: list[str] = yaml.safe_load(_read(RULES))["engine_options"]["known"]
    return before


def _generated(value: dict[str, Any]) -> str:
    plain = json.loads(json.dumps(value))  # Without YAML's references.
    return "# Written by scripts/generate_chart.py.\n" + yaml.safe_dump(plain, sort_keys=False)


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
