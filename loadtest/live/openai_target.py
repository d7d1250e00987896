"""A server of OpenAI's HTTP API under load: Jouleserve's own, vLLM's, or any other.

Its own module because it knows what OpenAI's events mean. Until the first token each is parsed;
after it only those that say more than a token.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from loadtest.live.exchanges import Failure, Served
from loadtest.live.http_streams import Connections, endpoint
from loadtest.run import Ending

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtest.live.exchanges import Reply
    from loadtest.live.targets import TargetSettings

_OK = 200
_SHED = {429, 503}
_HOPELESS = {401, 403, 404}
_DONE = b"[DONE]"
_GOES_ON = b'"finish_reason":null'
_GOES_ON_SPACED = b'"finish_reason": null'
_LONGEST_REASON = 160


class _Cancel:
    """Implements `exchanges.Call`."""

    __slots__ = ("cancel",)

    def __init__(self, cancel: Callable[[], None]) -> None:
        self.cancel = cancel


class OpenaiTarget:
    """Implements `exchanges.Target`."""

    def __init__(self, settings: TargetSettings) -> None:
        self._chat = settings.form == "chat"
        path = "chat/completions" if self._chat else "completions"
        headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
        self._connections = Connections(endpoint(f"{settings.address}/{path}", headers))

    def send(self, body: bytes, kind: int, deadline_s: float, reply: Reply) -> _Cancel:
        """Send a request now; see `exchanges.Target`."""
        return _Cancel(self._connections.send(body, deadline_s, _Events(reply)))

    def answer(self, reply: Reply) -> bytes | str:
        """Give the reply's text."""
        return "".join(_text(json.loads(raw)) for raw in reply.raw or ())

    async def close(self) -> None:
        """Close all connections."""
        await self._connections.close()


class _Events:
    """Implements `http_streams.Listener` for one reply."""

    __slots__ = ("_complete", "_fault", "_last", "_reply", "_usage")

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._usage: dict[str, Any] = {}
        self._last: dict[str, Any] = {}
        self._fault = ""
        self._complete = False

    def sent(self, now_s: float) -> None:
        self._reply.sent_at_s = now_s

    def event(self, now_s: float, data: bytes) -> None:
        if data == _DONE:
            self._complete = True
        elif self._reply.messages and (_GOES_ON in data or _GOES_ON_SPACED in data):
            self._reply.tokens(now_s, data)
        else:
            self._told(now_s, data)

    def done(self, now_s: float, status: int, body: bytes) -> None:
        reply = self._reply
        if status != _OK:
            reply.end(now_s, _refused(status, body))
        elif self._fault:
            reply.end(now_s, Failure(Ending.FAILED, self._fault))
        elif not self._complete:
            reply.end(now_s, Failure(Ending.FAILED, "the stream ended without [DONE]"))
        else:
            ended_at_s = reply.last_at_s if reply.messages else now_s
            reply.end(ended_at_s, None, self._served())

    def lost(self, now_s: float, reason: str) -> None:
        late = reason.startswith("DEADLINE")
        self._reply.end(now_s, Failure(Ending.FAILED, reason, gone=not late))

    def _told(self, now_s: float, data: bytes) -> None:
        """Read an event that may be more than a token."""
        try:
            told = json.loads(data)
        except ValueError:
            self._fault = "an event that is no JSON"
            return
        if not isinstance(told, dict):
            return
        if told.get("error"):
            self._fault = f"error in the stream: {_message(told)}"
        if told.get("usage"):
            self._usage = told["usage"]
        if told.get("jouleserve"):
            self._last = told["jouleserve"]
        if _text(told):
            self._reply.tokens(now_s, data)

    def _served(self) -> Served:
        usage, own = self._usage, self._last
        details = usage.get("prompt_tokens_details") or {}
        energy = own.get("energy") or {}
        latency = own.get("latency") or {}
        return Served(
            prompt_tokens=int(usage.get("prompt_tokens", -1)),
            cached_tokens=int(details.get("cached_tokens", -1)),
            completion_tokens=int(usage.get("completion_tokens", self._reply.messages)),
            variant=str(own.get("variant", "")),
            energy_j=_number(energy.get("energy_j")),
            gco2e=_number(energy.get("gco2e")),
            energy_method=str(energy.get("method", "")),
            ttft_s=_number(latency.get("ttft_s")),
            e2e_s=_number(latency.get("e2e_s")),
        )


def _text(told: dict[str, Any]) -> str:
    """Give the text of an event, thoughts and tool calls included."""
    text = ""
    for choice in told.get("choices") or ():
        delta = choice.get("delta") or {}
        said = delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")
        if not said and delta.get("tool_calls"):
            said = json.dumps(delta["tool_calls"])
        text += said or choice.get("text") or ""
    return text


def _refused(status: int, body: bytes) -> Failure:
    try:
        reason = _message(json.loads(body))
    except ValueError:
        reason = body.decode(errors="replace").strip()[:_LONGEST_REASON]
    ending = Ending.SHED if status in _SHED else Ending.FAILED
    return Failure(ending, f"HTTP {status}: {reason}", hopeless=status in _HOPELESS)


def _message(told: object) -> str:
    fault = told.get("error", told) if isinstance(told, dict) else told
    said = fault.get("message", fault) if isinstance(fault, dict) else fault
    return str(said)[:_LONGEST_REASON]


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
