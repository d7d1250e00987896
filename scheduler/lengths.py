"""How many tokens a completion will have, learnt from those before.

Its own module because routing, leases and the planner all need this one estimate, and a
better estimator should replace it without their notice.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scheduler.requests import ModelName

# Observations that outweigh the prior half and half, and after which the mean forgets.
PRIOR_WEIGHT = 8.0
MEMORY = 256.0
# Pairs of model and service class that are kept; the least recently used goes first.
MAX_KEYS = 1024


@dataclass(slots=True)
class _Mean:
    value: float
    weight: float


class CompletionLengths:
    """A running mean of completion lengths for each model and service class.

    It starts at a prior, weighs the first observations equally and then forgets
    exponentially, so that it follows a change of traffic within some hundred requests.
    """

    def __init__(self, prior_tokens: float) -> None:
        """Know nothing yet.

        Args:
            prior_tokens: assumed before anything was observed.

        """
        self._prior_tokens = prior_tokens
        self._means: OrderedDict[tuple[ModelName, str], _Mean] = OrderedDict()

    def expected(self, model: ModelName, service_class: str, max_tokens: int) -> float:
        """Expect this many tokens: at least 1, at most `max_tokens`."""
        mean = self._means.get((model, service_class))
        tokens = self._prior_tokens if mean is None else mean.value
        return min(float(max_tokens), max(1.0, tokens))

    def observe(self, model: ModelName, service_class: str, completion_tokens: int) -> None:
        """Learn from a completion that ended by itself or at its max_tokens.

        One that was cancelled says nothing of how long it would have been.
        """
        key = (model, service_class)
        mean = self._means.get(key)
        if mean is None:
            mean = self._means[key] = _Mean(self._prior_tokens, PRIOR_WEIGHT)
            if len(self._means) > MAX_KEYS:
                self._means.popitem(last=False)
        self._means.move_to_end(key)
        mean.weight = min(mean.weight + 1.0, MEMORY)
        mean.value += (completion_tokens - mean.value) / mean.weight
