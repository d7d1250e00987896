"""Values that render, for tests to change."""

from __future__ import annotations

from typing import Any


def variant(**changes: Any) -> dict[str, Any]:
    given = {"name": "v", "checkpoint": {"hub": "a/b"}, "accelerator": "h100-sxm"}
    return {**given, **changes}


def group(**changes: Any) -> dict[str, Any]:
    given = {"name": "h100", "accelerator": "h100-sxm", "accelerators_per_node": 8, "max_nodes": 2}
    return {**given, **changes}


def values(
    *variants: dict[str, Any],
    groups: list[dict[str, Any]] | None = None,
    config: dict[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Give the chart's values: one model of these variants; `config` and `changes` go on top."""
    models = [{"name": "m", "variants": list(variants or [variant()])}]
    node_groups = [group()] if groups is None else groups
    given = {"models": models, "node_groups": node_groups, "planner": {"nodes": "kubernetes"}}
    return {"config": {**given, **(config or {})}, **changes}
