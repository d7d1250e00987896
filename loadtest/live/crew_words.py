"""What a crew and its workers say to one another.

Its own module because a worker is the main program of its process, and values that travel must
be of a module that both ends know by the same name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from loadtest.live.ledger import Pages
    from loadtest.live.sender import Limits, Share
    from loadtest.live.targets import TargetSettings
    from loadtest.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is to do.

    Attributes:
        scenario: to be sent.
        seed: of chance.
        salt: of prompts.
        target: that is asked.
        share: of the schedule.
        limits: of this sender.

    """

    scenario: Scenario
    seed: int
    salt: int
    target: TargetSettings
    share: Share
    limits: Limits


class Ready(NamedTuple):
    """The worker waits for its start."""


class Start(NamedTuple):
    """Begin at an instant of the monotonic clock, which all processes of a machine share."""

    at_s: float


class Stop(NamedTuple):
    """End now."""

    reason: str


class Done(NamedTuple):
    """The worker has ended.

    Attributes:
        number: of its share.
        pages: what came of its requests.
        trouble: why it did not go on to its end; empty if it did.
        cpu_s: that it has used from start to end.

    """

    number: int
    pages: Pages
    trouble: str
    cpu_s: float


class Refused(NamedTuple):
    """The worker cannot do what it was told."""

    reason: str
