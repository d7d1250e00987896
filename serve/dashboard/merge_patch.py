"""The difference of two JSON documents as a JSON Merge Patch (RFC 7396).

Its own module because it knows nothing of what the documents mean; the page applies the patch
with the algorithm that the RFC gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serve.dashboard.snapshot import Json


def difference(before: Mapping[str, Json], after: Mapping[str, Json]) -> dict[str, Json]:
    """Give the patch that makes one object of another.

    Args:
        before: without nulls, for a patch removes with them.
        after: the same.

    Returns:
        What has changed or is new, with a null for what has gone; empty if they are equal.

    """
    patch: dict[str, Json] = {name: None for name in before if name not in after}
    for name, value in after.items():
        was = before.get(name)
        if isinstance(value, Mapping) and isinstance(was, Mapping):
            if changed := difference(was, value):
                patch[name] = changed
        elif was != value or type(was) is not type(value):
            patch[name] = value
    return patch
