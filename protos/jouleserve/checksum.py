"""A checksum over token ids, taken where an engine gives them and checked wherever they arrive.

Its own module because replicas, gateways and clients must compute the very same.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def extend(crc32: int, token_ids: Sequence[int]) -> int:
    """CRC-32 of what went before and these tokens, four little-endian bytes each.

    Args:
        crc32: of the tokens before; 0 if there are none.
        token_ids: that follow.

    """
    return zlib.crc32(struct.pack(f"<{len(token_ids)}I", *token_ids), crc32)
