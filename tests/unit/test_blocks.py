"""Block hashes are the same everywhere and for ever: gateways compare them."""

from __future__ import annotations

import subprocess
import sys

from scheduler.blocks import block_hashes


def test_hashes_are_the_same_in_another_process() -> None:
    program = "from scheduler.blocks import block_hashes; print(block_hashes(range(40), 16))"
    for seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert told.strip() == str(block_hashes(range(40), 16))


def test_many_prompts_have_many_hashes() -> None:
    hashes = {h for first in range(5000) for h in block_hashes([first, *range(31)], 16)}
    assert len(hashes) == 10_000


def test_what_does_not_fill_a_block_is_left_out() -> None:
    assert block_hashes([1] * 15) == ()
    assert block_hashes([1] * 16) == block_hashes([1] * 31)
