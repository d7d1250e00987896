"""What a search has found, as people and machines read it: a plot, and a configuration.

Its own module because it is all of a search that knows matplotlib and YAML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from serve.config_models import CPU
from serve.variants.front import BASE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from serve.config_models import CheckpointConfig
    from serve.variants.front import Point

_MS = 1e3
_MEGABYTE = 1e6
# Ratio of energies from which on equal steps are equal ratios.
_WIDE = 3.0


def plot(file: Path, points: Sequence[Point], best: Sequence[Point], batch: int) -> None:
    """Draw quality over energy, the front in green, and memory as the size of a mark.

    The front has more sides than two; the line joins what is best in these two.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    axes.margins(0.1)
    ordered = sorted(points, key=lambda point: point.j_per_token)
    for number, each in enumerate(ordered, start=1):
        colour = "tab:green" if each in best else "tab:gray"
        axes.scatter(
            each.j_per_token * _MS,
            each.quality,
            s=each.weight_bytes / _MEGABYTE,
            edgecolors=colour,
            facecolors="none" if each.refusals else colour,
            alpha=0.6,
            label=f"{number}  {each.name}, {each.tpot_s * _MS:.0f} ms a token",
        )
        axes.annotate(
            str(number), (each.j_per_token * _MS, each.quality),
            ha="center", va="center", fontsize=8,
        )  # fmt: skip
    rising = _rising([each for each in ordered if not each.refusals])
    axes.plot([each.j_per_token * _MS for each in rising], [each.quality for each in rising],
              color="tab:green", linewidth=1, zorder=0)  # fmt: skip
    if ordered and ordered[-1].j_per_token > _WIDE * ordered[0].j_per_token:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel(f"energy, mJ per token at batch {batch} (by the power model)")
    axes.set_ylabel("quality: perplexity of the base in that of the variant")
    axes.set_title(
        "Green: no other is better in everything. Hollow: refused by its gate. Area: weights.",
        fontsize=10,
    )
    # Numbers, for marks lie closer together than names fit.
    figure.legend(
        loc="outside right upper", handlelength=0, handletextpad=0, markerscale=0, fontsize=9
    )
    figure.savefig(file, dpi=120)


def _rising(ordered: Sequence[Point]) -> list[Point]:
    """Give those that are better than all that take less energy."""
    best: list[Point] = []
    for each in ordered:
        if not best or each.quality > best[-1].quality:
            best.append(each)
    return best


def configuration(
    model: str, base: CheckpointConfig, accelerator: str, chosen: Sequence[Point]
) -> str:
    """Give the configuration that serves variants: the first is awake, others are candidates.

    Args:
        model: the name for clients.
        base: its checkpoint.
        accelerator: of all.
        chosen: the front; those that their gate refuses are left out.

    """
    fitting = [each for each in chosen if not each.refusals]
    variants = [_variant(each, base, accelerator, place) for place, each in enumerate(fitting)]
    content = {"models": [{"name": model, "variants": variants}]}
    text: str = yaml.safe_dump(content, sort_keys=False)
    return text


def _variant(point: Point, base: CheckpointConfig, accelerator: str, place: int) -> dict[str, Any]:
    variant: dict[str, Any] = {"name": point.name.replace("/", "-")}
    if point.name == BASE:
        variant["checkpoint"] = base.model_dump(exclude_none=True)
    else:
        variant["manifest"] = point.name
    variant["accelerator"] = accelerator
    if accelerator == CPU:
        variant["kv_cache_gib"] = 1
    variant |= {"min_replicas": int(place == 0), "max_replicas": 1}
    # The rest has to show, on the traffic that comes, that it saves.
    return variant if place == 0 else variant | {"candidate": True}
