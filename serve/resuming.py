"""Whether a call may go on whose gateway or replica was lost, and what is said of that.

Its own module because both losses are one thing to whoever counts them, and because what
another gateway has done cannot be looked up anywhere: here a client is believed, or refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scheduler.requests import ReplicaId, VariantName
from scheduler.routing import Decision
from serve.errors import BadRequestError, ReplicaLostError

if TYPE_CHECKING:
    from collections.abc import Collection

    from serve.calls import Journey

# As many replicas as one node may have taken along.
MOST_MISSES = 16


@dataclass(frozen=True, slots=True)
class Resume:
    """What earlier calls of the same request have delivered.

    Attributes:
        token_ids: all of them, in order.
        variant: that wrote them; empty if the client does not know.
        attempts: calls of the request that were lost after they had given tokens.

    """

    token_ids: tuple[int, ...]
    variant: str = ""
    attempts: int = 1

    def decision(self) -> Decision | None:
        """The one that an earlier gateway made, as far as it is known."""
        if not self.variant:
            return None
        reason = "a gateway that was lost had chosen it"
        return Decision(ReplicaId(""), VariantName(self.variant), policy="", reason=reason)


def check(resume: Resume, max_tokens: int, variants: Collection[str], max_resumes: int) -> None:
    """Refuse what cannot be gone on with.

    Args:
        resume: as the client gave it.
        max_tokens: of the whole completion, as admitted.
        variants: of the model.
        max_resumes: how often a call may be gone on with.

    Raises:
        BadRequestError: the tokens or the variant cannot be those of this request.
        ReplicaLostError: it was gone on with too often.

    """
    given = len(resume.token_ids)
    if not given:
        raise BadRequestError(
            "resume has no token_ids: give those that were delivered, or leave resume out"
            " to begin anew"
        )
    if given > max_tokens:
        raise BadRequestError(
            f"resume has {given} token_ids, and the completion may have {max_tokens}: give the"
            " max_tokens of the whole completion, and only what was delivered of it"
        )
    if given == max_tokens:
        raise BadRequestError(
            f"resume has all the {max_tokens} token_ids that the completion may have: it is"
            " complete, and there is nothing to go on with"
        )
    if resume.variant and resume.variant not in variants:
        known = ", ".join(sorted(variants))
        raise BadRequestError(
            f"resume.variant {resume.variant!r} is none of the model's: give the one that wrote"
            f" the tokens, or leave it empty; known: {known}"
        )
    if resume.attempts > max_resumes:
        raise ReplicaLostError(
            f"{_casualties(resume.attempts, 0)} lost under this request, and"
            f" gateway.max_resumes is {max_resumes}. {_advice(given)}"
        )


def allow_another(journey: Journey, error: ReplicaLostError, max_resumes: int) -> None:
    """Let a call be tried again, a bounded number of times.

    Those that were gone already when it came do not count as losses: a node takes many replicas
    along in a moment, and gateways learn of one after the other.

    Raises:
        ReplicaLostError: the given one, which was one too many.

    """
    if journey.losses <= max_resumes and journey.misses <= MOST_MISSES:
        return
    if not journey.tokens:
        raise error
    lost = _casualties(journey.gateways_lost, journey.replicas_lost)
    raise ReplicaLostError(
        f"{error}; {lost} lost under this request. {_advice(journey.tokens)}"
    ) from error


def history(journey: Journey) -> str:
    """Say what a call has gone through; empty if nothing happened to it."""
    if not journey.resumes:
        return ""
    lost = _casualties(journey.gateways_lost, journey.resumes - journey.gateways_lost)
    return f"{lost} lost under it; {journey.replayed_tokens} tokens were computed again"


def _casualties(gateways: int, replicas: int) -> str:
    """Say who was lost, as the beginning of a sentence: "2 gateways and a replica were"."""
    counts = ((gateways, "gateway"), (replicas, "replica"))
    named = [f"a {noun}" if n == 1 else f"{n} {noun}s" for n, noun in counts if n]
    return f"{' and '.join(named)} {'was' if gateways + replicas == 1 else 'were'}"


def _advice(tokens: int) -> str:
    """Say what to do with the tokens of a call that is given up."""
    return f"The {tokens} tokens before are right: to go on, send them with the prompt"
