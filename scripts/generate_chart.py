"""Write what the Helm chart takes from the program: schema of its values, and what Ray is told.

`--check` writes nothing and fails when a file is not what it would write.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from cluster.accelerators import CATALOGUE
from scripts.grafana_dashboard import dashboard
from serve import deployment, haproxy
from serve.config import Config

CHART = Path(__file__).parents[1] / "helm" / "jouleserve"
OWN_SCHEMA = CHART / "files" / "own.schema.json"
SCHEMA = CHART / "values.schema.json"
RAY = CHART / "files" / "ray.yaml"
DASHBOARD = CHART / "files" / "dashboard.json"
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
    return {
        SCHEMA: json.dumps(values_schema(), indent=2) + "\n",
        RAY: "# Written by scripts/generate_chart.py.\n" + yaml.safe_dump(ray(), sort_keys=False),
        DASHBOARD: dashboard(),
    }


def values_schema() -> dict[str, Any]:
    """Give the chart's own schema, with that of the configuration in it."""
    own: dict[str, Any] = json.loads(OWN_SCHEMA.read_text(encoding="utf-8"))
    config = Config.model_json_schema(ref_template="#/$defs/{model}")
    definitions = config.pop("$defs")
    own["$defs"] = {**own.get("$defs", {}), **definitions}
    own["properties"]["config"] = config
    accelerators = {"type": "string", "enum": sorted(CATALOGUE)}
    for name in ("VariantConfig", "NodeGroupConfig"):
        own["$defs"][name]["properties"]["accelerator"] |= accelerators
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
            name: {"products": list(each.kubernetes_products), "ray_type": each.ray_type}
            for name, each in sorted(CATALOGUE.items())
        },
    }


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
