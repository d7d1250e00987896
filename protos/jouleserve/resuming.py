"""Whether a request whose gateway was lost is called again, when, and with which words.

Its own module because it is the decision that both clients share: values in, a value out; they
only wait and call.
"""

from __future__ import annotations

from dataclasses import dataclass

from protos.jouleserve.errors import IncompleteStreamError, JouleserveClientError, UnavailableError
from protos.jouleserve.v1 import inference_pb2 as pb

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long, and how often, a client goes on with a request.

    Attributes:
        resumes: most calls after the first.
        deadline_s: of all calls together, on a monotonic clock; None is none.

    """

    resumes: int
    deadline_s: float | None

    @classmethod
    def within(cls, timeout_s: float | None, resumes: int, now_s: float) -> Bounds:
        """Bound a request that begins now."""
        return cls(resumes, None if timeout_s is None else now_s + timeout_s)

    def left_s(self, now_s: float) -> float | None:
        """Give the time that is left; None is all of it."""
        return None if self.deadline_s is None else max(0.0, self.deadline_s - now_s)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request has come whose call has failed.

    Attributes:
        fault: of that call.
        token_ids: that were delivered.
        variant: that wrote the newest of them; empty if the server has not said.
        finished: the end of the reply has arrived.
        lost_calls: of this request, before this one.
        lost_begun: of these, and this one if it is, those that had given tokens.

    """

    fault: JouleserveClientError
    token_ids: tuple[int, ...] = ()
    variant: str = ""
    finished: bool = False
    lost_calls: int = 0
    lost_begun: int = 0


@dataclass(frozen=True, slots=True)
class NextCall:
    """How a request goes on.

    Attributes:
        request: to be sent.
        pause_s: to wait before.

    """

    request: pb.GenerateRequest
    pause_s: float


def checked(resumes: int) -> int:
    """Return how often a request may be called again.

    Raises:
        ValueError: a number below 0.

    """
    if resumes < 0:
        raise ValueError(f"resumes must be 0 or more, not {resumes}")
    return resumes


def gateway_lost(fault: JouleserveClientError, *, finished: bool) -> bool:
    """Whether a call has failed because its gateway, or the way to it, is gone.

    A gateway that lives names its faults, and a request that it refuses is not at its best
    elsewhere. Nor does a reply that has its finish, and yet does not add up, get better.
    """
    match fault:
        case UnavailableError():
            return not fault.kind
        case IncompleteStreamError():
            return not finished
        case _:
            return False


def next_call(
    request: pb.GenerateRequest,
    progress: Progress,
    bounds: Bounds,
    now_s: float,
    draw: float,
) -> NextCall | None:
    """Say how a request goes on after a call has failed; None if it does not.

    Args:
        request: the first one.
        progress: of all calls so far.
        bounds: of the request.
        now_s: on the clock of the bounds.
        draw: random, from 0 to 1: clients of one gateway should not all come back at once.

    """
    if not gateway_lost(progress.fault, finished=progress.finished):
        return None
    if progress.lost_calls >= bounds.resumes:
        return None
    if progress.token_ids and not progress.variant:
        return None  # A server of a version that cannot resume.
    pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**progress.lost_calls) * (1 + draw) / 2
    left_s = bounds.left_s(now_s)
    if left_s is not None and pause_s >= left_s:
        return None
    again = pb.GenerateRequest()
    again.CopyFrom(request)
    if progress.token_ids:
        again.resume.token_ids.extend(progress.token_ids)
        again.resume.variant = progress.variant
        again.resume.attempts = progress.lost_begun
    return NextCall(again, pause_s)
