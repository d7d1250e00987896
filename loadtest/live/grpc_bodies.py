"""Requests of the gRPC API as bytes, so that a sender copies bytes and builds no messages.

Concatenated protobuf messages are merged by their reader: what all requests of a kind have in
common is serialized once, and a request is that, its lengths, and its prompt.

Its own module because it knows the wire; what is asked is a matter of `loadtest.live.prompts`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from loadtest.live.prompts import Prompts
from loadtest.live.token_pools import varints, words
from protos.jouleserve.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.live.targets import TargetSettings
    from loadtest.scenario import Scenario
    from loadtest.schedule import Schedule, Session

_WIRE_BYTES = 2  # Wire type of a field with a length.
_TOKEN_IDS = bytes([pb.GenerateRequest.PROMPT_TOKEN_IDS_FIELD_NUMBER << 3 | _WIRE_BYTES])
_IDS = bytes([pb.TokenIds.IDS_FIELD_NUMBER << 3 | _WIRE_BYTES])


class GrpcBodies:
    """Makes requests."""

    def __init__(
        self, scenario: Scenario, schedule: Schedule, settings: TargetSettings, salt: int
    ) -> None:
        """Prepare what requests are made of.

        Args:
            scenario: whose requests these are.
            schedule: of it.
            settings: model, variant and form.
            salt: of the run.

        """
        self._scenario = scenario
        self._settings = settings
        self._ids = self._texts = None
        if settings.form == "tokens":
            self._ids = Prompts(scenario, schedule, varints(0), salt)
        else:
            self._texts = Prompts(scenario, schedule, words(0), salt)
        self._head = lru_cache(maxsize=65_536)(self._new_head)

    def body(self, session: Session, turn: int, answers: Sequence[bytes | str]) -> bytes:
        """Make one request.

        Args:
            session: to which it belongs.
            turn: which of its turns.
            answers: to the turns before.

        """
        head = self._head(session.kind, session.turns[turn].completion_tokens)
        if self._ids is not None:
            said = _woven(self._ids, session, turn, answers)
            ids = b"".join(each for each in said if isinstance(each, bytes))
            field = _IDS + varint(len(ids)) + ids
            return b"".join((head, _TOKEN_IDS, varint(len(field)), field))
        if self._texts is None:
            return head
        texts = [str(each) for each in _woven(self._texts, session, turn, answers)]
        if self._settings.form == "text":
            return head + pb.GenerateRequest(prompt="".join(texts)).SerializeToString()
        return head + pb.GenerateRequest(chat=_chat(texts)).SerializeToString()

    def _new_head(self, kind: int, completion_tokens: int) -> bytes:
        request = self._scenario.requests[kind]
        sampling = pb.Sampling(max_tokens=completion_tokens, ignore_eos=request.ignore_eos)
        return pb.GenerateRequest(
            model=self._settings.model,
            service_class=request.service_class,
            tenant=request.tenant,
            variant=self._settings.variant,
            sampling=sampling,
        ).SerializeToString()


def _woven(
    prompts: Prompts[bytes] | Prompts[str],
    session: Session,
    turn: int,
    answers: Sequence[bytes | str],
) -> list[bytes | str]:
    """Give the common prefix, then what was said in turn."""
    said: list[bytes | str] = [prompts.prefix(session.kind)]
    for number in range(turn + 1):
        said.append(prompts.prompt(session.kind, session.turns[number]))
        if number < turn:
            said.append(answers[number])
    return said


def _chat(texts: Sequence[str]) -> pb.Chat:
    messages = [pb.ChatMessage(role="system", content=texts[0])] if texts[0] else []
    for number, text in enumerate(texts[1:]):
        role = "assistant" if number % 2 else "user"
        messages.append(pb.ChatMessage(role=role, content=text))
    return pb.Chat(messages=messages)


def varint(value: int) -> bytes:
    """Encode a number as protobuf does."""
    encoded = bytearray()
    while value > 0x7F:  # noqa: PLR2004 (seven bits a byte)
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
