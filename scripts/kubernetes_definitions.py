"""Write what the chart's schema takes from Kubernetes: the parts of a pod that values hand on.

    python scripts/kubernetes_definitions.py [--check]

Its own script because it needs kubernetes-validate, which has the official schemas, and the chart
is generated without it: what it writes is read by scripts/generate_chart.py.
"""

from __future__ import annotations

import json
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGET = Path(__file__).parents[1] / "helm" / "jouleserve" / "files" / "kubernetes.schema.json"
VERSION = "1.37.0"
# What values hand on as it is.
WANTED = (
    "io.k8s.api.core.v1.Affinity",
    "io.k8s.api.core.v1.Container",
    "io.k8s.api.core.v1.EnvVar",
    "io.k8s.api.core.v1.PodSecurityContext",
    "io.k8s.api.core.v1.Probe",
    "io.k8s.api.core.v1.SecurityContext",
    "io.k8s.api.core.v1.Toleration",
    "io.k8s.api.core.v1.TopologySpreadConstraint",
    "io.k8s.api.core.v1.Volume",
    "io.k8s.api.core.v1.VolumeMount",
    "io.k8s.api.networking.v1.NetworkPolicyPeer",
)
_KEPT = "#/$defs/"


def main() -> int:
    """Write the file, or compare it."""
    text = json.dumps(definitions(), indent=2, sort_keys=True) + "\n"
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{TARGET} is not what scripts/kubernetes_definitions.py writes: run it\n")
    return 1


def definitions() -> dict[str, Any]:
    """Give what is wanted and all that it refers to, by the last part of its name."""
    official = _official()
    found: dict[str, Any] = {}
    names = list(WANTED)
    while names:
        name = names.pop()
        if short(name) not in found:
            found[short(name)] = _plain(official[name])
            names += _references(official[name])
    return found


def short(name: str) -> str:
    """Give the last part of a definition's name."""
    return name.rpartition(".")[2]


def _official() -> dict[str, Any]:
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema"
    file = folder / f"v{VERSION}-local-strict" / "_definitions.json"
    official: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["$defs"]
    return official


def _plain(schema: Any) -> Any:  # noqa: ANN401 - any part of a JSON schema
    """Leave out prose and what is Kubernetes' own, and refer within one file."""
    match schema:
        case {"$ref": str(target)}:
            return {"$ref": _KEPT + short(target)}
        case dict():
            kept = {key: value for key, value in schema.items() if not key.startswith("x-")}
            if isinstance(kept.get("description"), str):
                del kept["description"]
            return {key: _plain(value) for key, value in kept.items()}
        case list():
            return [_plain(each) for each in schema]
        case _:
            return schema


def _references(schema: Any) -> Iterator[str]:  # noqa: ANN401 - any part of a JSON schema
    match schema:
        case {"$ref": str(target)}:
            yield target.rpartition("/")[2]
        case dict():
            for value in schema.values():
                yield from _references(value)
        case list():
            for value in schema:
                yield from _references(value)


if __name__ == "__main__":
    sys.exit(main())
