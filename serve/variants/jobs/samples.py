"""The calibration text, cut into stretches of equal length.

Its own module because every step that learns from it cuts it alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from serve.variants.job import Asked, JobError, passages

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


def stream(asked: Asked, tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Give the tokens of all passages of a text, one after the other."""
    ids: list[int] = []
    for passage in passages(asked["texts"][text]):
        ids += tokenizer(passage + "\n\n", add_special_tokens=False)["input_ids"]
    return ids


def windows(asked: Asked, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Cut samples (rows of token ids) from all of the text; they overlap where it is short."""
    count, length = asked["calibration"]["samples"], asked["calibration"]["tokens"]
    ids = stream(asked, tokenizer, "calibration")
    if len(ids) < length:
        raise JobError(
            f"the calibration text has {len(ids)} tokens, less than one sample of {length}"
        )
    step = max(1, (len(ids) - length) // max(1, count - 1))
    starts = range(0, len(ids) - length + 1, step)[:count]
    return torch.tensor([ids[at : at + length] for at in starts])
