"""Processors by what Linux says of them."""

from __future__ import annotations

import platform

import pytest

from cluster.processor import Processor, parsed, processor

OLD = "processor\t: 0\nmodel name\t: Old Chip\nflags\t\t: fpu sse avx2\n"


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (OLD, Processor("Old Chip", "AVX2", native_bf16=False, native_int8=False)),
        (
            "model name : New Chip\nflags : avx2 avx512f avx512_vnni avx512_bf16\n\n" + OLD,
            Processor("New Chip", "AVX-512 with bf16", native_bf16=True, native_int8=True),
        ),
        (
            "model name : X\nflags : avx2 avx512f",
            Processor("X", "AVX-512", native_bf16=False, native_int8=False),
        ),
        (
            "Features : fp asimd bf16",
            Processor(platform.machine(), "", native_bf16=True, native_int8=False),
        ),
        ("", Processor(platform.machine(), "", native_bf16=False, native_int8=False)),
        ("no colon here", Processor(platform.machine(), "", native_bf16=False, native_int8=False)),
    ],
)
def test_what_linux_says(cpuinfo: str, expected: Processor) -> None:
    assert parsed(cpuinfo) == expected


@pytest.mark.parametrize(
    ("flags", "imitates"),
    [("avx2", True), ("avx2 avx512f", False), ("avx512f avx512_bf16", False), ("asimd", True)],
)
def test_bf16_is_imitated_without_units_for_it(flags: str, *, imitates: bool) -> None:
    assert parsed(f"flags : {flags}").imitates_bf16 is imitates


def test_people_see_model_and_instructions() -> None:
    assert str(parsed(OLD)) == "Old Chip (AVX2)"
    assert str(parsed("")) == platform.machine()


def test_this_machine_has_a_processor() -> None:
    assert processor().model
