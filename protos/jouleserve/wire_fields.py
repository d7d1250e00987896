"""Values filled from messages whose fields have the same names.

Its own module because all that is read from the wire is read so.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from google.protobuf.message import Message

T = TypeVar("T")


def read(kind: type[T], message: Message, **nested: Any) -> T:  # noqa: ANN401 (each field has its own type)
    """Fill a value with the message's fields of the same names; `nested` are already read."""
    names = (field.name for field in fields(kind))  # type: ignore[arg-type]
    return kind(
        **{name: nested[name] if name in nested else getattr(message, name) for name in names}
    )
