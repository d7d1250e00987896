"""Requests of OpenAI's HTTP API as bytes.

Its own module because it knows which fields which server takes; what is asked is a matter of
`loadtest.live.prompts`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from loadtest.live.prompts import Prompts
from loadtest.live.token_pools import decimals, words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.live.targets import TargetSettings
    from loadtest.scenario import Scenario
    from loadtest.schedule import Schedule, Session


class OpenaiBodies:
    """Makes requests."""

    def __init__(
        self, scenario: Scenario, schedule: Schedule, settings: TargetSettings, salt: int
    ) -> None:
        """Prepare what requests are made of.

        Args:
            scenario: whose requests these are.
            schedule: of it.
            settings: model, form and what the server takes beside OpenAI's own fields.
            salt: of the run.

        """
        self._scenario = scenario
        self._settings = settings
        pool = decimals(0) if settings.form == "tokens" else words(0)
        self._prompts = Prompts(scenario, schedule, pool, salt)

    def body(self, session: Session, turn: int, answers: Sequence[bytes | str]) -> bytes:
        """Make one request.

        Args:
            session: to which it belongs.
            turn: which of its turns.
            answers: to the turns before.

        """
        fields = json.dumps(self._fields(session.kind, session.turns[turn].completion_tokens))
        said = [self._prompts.prefix(session.kind)]
        for number in range(turn + 1):
            said.append(self._prompts.prompt(session.kind, session.turns[number]))
            if number < turn:
                said.append(str(answers[number]))
        match self._settings.form:
            case "tokens":
                content = f'"prompt": [{"".join(said)[:-1]}]'
            case "text":
                content = f'"prompt": {json.dumps("".join(said))}'
            case _:
                content = f'"messages": {json.dumps(_messages(said))}'
        return f"{fields[:-1]}, {content}}}".encode()

    def _fields(self, kind: int, completion_tokens: int) -> dict[str, Any]:
        request, settings = self._scenario.requests[kind], self._settings
        fields: dict[str, Any] = {
            "model": settings.model,
            "max_tokens": completion_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if settings.dialect in {"jouleserve", "vllm"} and request.ignore_eos:
            fields["ignore_eos"] = True
        if settings.dialect == "jouleserve":
            own = {
                "service_class": request.service_class,
                "tenant": request.tenant,
                "variant": settings.variant,
            }
            fields |= {name: value for name, value in own.items() if value}
        return fields | dict(settings.extra)


def _messages(said: Sequence[str]) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": said[0]}] if said[0] else []
    for number, text in enumerate(said[1:]):
        messages.append({"role": "assistant" if number % 2 else "user", "content": text})
    return messages
