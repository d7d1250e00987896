"""Which settings of the engine cost a checkpoint the least: one knob after the other, measured.

Its own module because it is pure: what a setting costs is asked of whoever can measure it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# Two runs of the same settings differ by some percent: a change has to gain more.
LEAST_GAIN = 0.03

Settings = dict[str, Any]
"""Arguments of the engine, by its own names; what is not there is as the engine has it."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What was measured with some settings.

    Attributes:
        settings: of the engine.
        s_per_token: time of the whole load by token that was generated.
        ttft_s: median.
        tpot_s: median.

    """

    settings: Mapping[str, Any]
    s_per_token: float
    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True)
class Tuned:
    """The best settings, and all that were tried on the way, in order."""

    best: Trial
    trials: tuple[Trial, ...]


def knobs(*, on_cpu: bool, fast: bool) -> Mapping[str, Sequence[Any]]:
    """Give what may be turned, by argument: values to try beside the engine's own.

    Args:
        on_cpu: no GPU is used: graphs and kernels are not compiled for it here.
        fast: leave out what takes minutes to compile.

    """
    known: dict[str, Sequence[Any]] = {
        "max_num_batched_tokens": (512, 4096),
        "kv_cache_dtype": ("fp8",),
        "speculative_config": (
            {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3},
        ),
        "enable_prefix_caching": (False,),
    }
    if not on_cpu and not fast:
        # Fused kernels and CUDA graphs are on at level 3; less of them starts sooner.
        known["optimization_level"] = (1, 3)
    if on_cpu and not fast:
        known["enforce_eager"] = (False,)
    return known


def tuned(
    turned: Mapping[str, Sequence[Any]], measure: Callable[[Settings], Trial | None]
) -> Tuned | None:
    """Turn one knob after the other, and keep what gains.

    Args:
        turned: what may be, by argument.
        measure: some settings; None where the engine does not take them.

    Returns:
        None if not even the engine's own settings can be measured.

    """
    best = measure({})
    if best is None:
        return None
    trials = [best]
    for name, values in turned.items():
        for value in values:
            trial = measure({**best.settings, name: value})
            if trial is None:
                continue
            trials.append(trial)
            if trial.s_per_token < best.s_per_token * (1.0 - LEAST_GAIN):
                best = trial
    return Tuned(best, tuple(trials))
