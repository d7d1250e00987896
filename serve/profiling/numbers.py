"""Lists of numbers as people write them in an option.

Its own module because both commands of this package read them alike.
"""

from __future__ import annotations

from serve.profiling.errors import ProfilingError


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Read numbers with commas between them, in ascending order; none from an empty text.

    Raises:
        ProfilingError: something else is there, or less than two different ones.

    """
    if not text:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts) or len(set(parts)) < 2:  # noqa: PLR2004
        raise ProfilingError(f"{option}: {text!r} is not two numbers or more, e.g. 1,2,4,8")
    return tuple(sorted({int(part) for part in parts}))
