"""A part of the configuration tree: frozen, closed, and every contradiction told at once.

Its own module because every section is one, in whichever module it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, model_validator

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Fault(NamedTuple):
    """Two settings that cannot both hold.

    Attributes:
        key: the one to change, relative to the section that was checked.
        message: what is wrong and what to change.

    """

    key: str
    message: str


class FaultsError(ValueError):
    """A section whose settings contradict each other; carries every fault."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{fault.key}: {fault.message}" for fault in self.faults))


class Section(BaseModel):
    """A part of the tree: frozen, no unknown keys, every contradiction reported at once."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    def find_faults(self) -> Iterator[Fault]:
        """Yield what is wrong although every single value is possible."""
        return iter(())

    @model_validator(mode="after")
    def _refuse_faults(self) -> Self:
        if faults := tuple(self.find_faults()):
            raise FaultsError(faults)
        return self
