"""The text side of every model that a gateway serves, loaded from the configuration.

Its own module so that vLLM is imported only where a model has a checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from serve.checkpoints import materialize
from serve.frontend_bytes import BytesFrontend

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from serve.config import Config
    from serve.config_models import ModelConfig
    from serve.openai_vllm import OpenAIRoutes
    from serve.routed_engine_vllm import Dispatch


class Frontend(Protocol):
    """Turns text into token ids, and wishes into sampling parameters."""

    def warm_up(self) -> None:
        """Prepare, so that the first request is not slow."""

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of a plain prompt."""

    async def render_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation."""

    def encode_sampling(self, given: Mapping[str, Any], max_tokens: int) -> bytes:
        """Sampling parameters for the engine."""


def load_frontends(config: Config) -> dict[str, Frontend]:
    """The text side of each model, by name; blocks while tokenizers load."""
    return {model.name: _load(model) for model in config.models}


def _load(model: ModelConfig) -> Frontend:
    checkpoint = next((v.checkpoint for v in model.variants if v.checkpoint is not None), None)
    if checkpoint is None:
        return BytesFrontend()
    from serve.frontend_vllm import TextOptions, VllmFrontend

    frontend = VllmFrontend(
        model.name,
        materialize(checkpoint.source),
        TextOptions(
            max_context_tokens=max(variant.max_context_tokens for variant in model.variants),
            chat_template=model.chat_template,
            tool_call_parser=model.tool_call_parser,
            reasoning_parser=model.reasoning_parser,
        ),
    )
    frontend.warm_up()
    return frontend


def openai_routes(
    frontends: Mapping[str, Frontend], dispatch: Dispatch, max_request_bytes: int
) -> OpenAIRoutes | None:
    """OpenAI's HTTP endpoints for the models that have a checkpoint; None if none has."""
    if all(isinstance(frontend, BytesFrontend) for frontend in frontends.values()):
        return None
    from serve.frontend_vllm import VllmFrontend
    from serve.openai_vllm import OpenAIRoutes

    speaking = {name: each for name, each in frontends.items() if isinstance(each, VllmFrontend)}
    return OpenAIRoutes(speaking, dispatch, max_request_bytes)
