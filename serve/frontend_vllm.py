"""A model's text side: chat template, tokenizer, sampling defaults, OpenAI formats.

Its own module because it is all of vLLM that a gateway needs: vLLM's renderer and
OpenAI layer without an engine behind them, so that templates, tool calls and
log probabilities behave exactly as in vLLM itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm import AsyncEngineArgs, SamplingParams
from vllm.config import VllmConfig
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.openai.models.protocol import BaseModelPath
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMClientError
from vllm.renderers import renderer_from_config
from vllm.renderers.chat_utils import load_chat_template
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.input_processor import InputProcessor

from serve.errors import BadRequestError, PromptTooLongError
from serve.sampling_vllm import encode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from vllm.engine.protocol import EngineClient

CONTENT_FORMAT = "auto"


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How a model's text is made and read.

    Attributes:
        max_context_tokens: prompt and completion together.
        chat_template: path or text of a template that replaces the tokenizer's own.
        tool_call_parser: vLLM's name of the parser for the model's tool calls.
        reasoning_parser: vLLM's name of the parser for the model's reasoning.

    """

    max_context_tokens: int
    chat_template: str | None = None
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None


class VllmFrontend:
    """Renders prompts and sampling parameters of one model, and reads its outputs."""

    def __init__(self, model: str, checkpoint: Path | str, options: TextOptions) -> None:
        """Load the tokenizer and the configuration; no weights are read.

        Args:
            model: the name that clients use.
            checkpoint: directory or hub id.
            options: how the model's text is made and read.

        """
        self.model = model
        self.options = options
        self.config = _text_only_config(str(checkpoint), options)
        self.renderer = renderer_from_config(self.config)
        self.input_processor = InputProcessor(self.config, self.renderer)
        self.online = OnlineRenderer(
            model_config=self.config.model_config,
            renderer=self.renderer,
            request_logger=None,
            chat_template=load_chat_template(options.chat_template),
            chat_template_content_format=CONTENT_FORMAT,
            enable_auto_tools=options.tool_call_parser is not None,
            tool_parser=options.tool_call_parser,
            reasoning_parser=options.reasoning_parser,
        )
        self._defaults = self.config.model_config.get_diff_sampling_param()

    def warm_up(self) -> None:
        """Compile templates and touch the tokenizer, so that the first request is not slow."""
        self.online.warmup()

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of a plain prompt, special tokens added as the tokenizer does."""
        tokenizer = self.renderer.get_tokenizer()
        return list(await asyncio.to_thread(tokenizer.encode, text))

    async def render_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation, by the model's chat template.

        Raises:
            BadRequestError: a role or the order of roles that the template refuses.
            PromptTooLongError: the conversation does not fit the context.

        """
        try:
            request = ChatCompletionRequest(model=self.model, messages=list(messages))
            rendered = await self.online.render_chat(request)
        except (ValueError, TypeError, VLLMClientError) as error:
            raise _refusal(error) from error
        if isinstance(rendered, ErrorResponse):
            raise BadRequestError(rendered.error.message)
        _, (prompt,) = rendered
        return list(prompt["prompt_token_ids"])

    def encode_sampling(self, given: Mapping[str, Any], max_tokens: int) -> bytes:
        """Sampling parameters for the engine: what was given, else the model's defaults.

        Raises:
            BadRequestError: a value out of its range.

        """
        try:
            parameters = SamplingParams(
                **{**self._defaults, **given, "max_tokens": max_tokens},
                output_kind=RequestOutputKind.DELTA,
            )
        except (ValueError, TypeError, VLLMClientError) as error:
            raise BadRequestError(f"sampling: {error}") from error
        return encode(parameters)

    def openai(self, engine: EngineClient) -> tuple[OpenAIServingChat, OpenAIServingCompletion]:
        """VLLM's own OpenAI layer for this model, over the given engine."""
        models = OpenAIServingModels(
            engine, [BaseModelPath(name=self.model, model_path=self.config.model_config.model)]
        )
        chat = OpenAIServingChat(
            engine,
            models,
            response_role="assistant",
            online_renderer=self.online,
            request_logger=None,
            chat_template=load_chat_template(self.options.chat_template),
            chat_template_content_format=CONTENT_FORMAT,
            reasoning_parser=self.options.reasoning_parser or "",
            enable_auto_tools=self.options.tool_call_parser is not None,
            tool_parser=self.options.tool_call_parser,
            enable_prompt_tokens_details=True,
        )
        completion = OpenAIServingCompletion(
            engine,
            models,
            online_renderer=self.online,
            request_logger=None,
            enable_prompt_tokens_details=True,
        )
        return chat, completion


def _text_only_config(checkpoint: str, options: TextOptions) -> VllmConfig:
    arguments = AsyncEngineArgs(
        model=checkpoint,
        max_model_len=options.max_context_tokens,
        reasoning_parser=options.reasoning_parser or "",
    )
    model = arguments.create_model_config()
    # No kernels run here: a gateway's node need not be able to run the precision.
    model.quantization = None
    return VllmConfig(
        model_config=model,
        structured_outputs_config=arguments.create_structured_outputs_config(),
    )


def _refusal(error: Exception) -> BadRequestError:
    message = str(error)
    if "context length" in message or "maximum input length" in message:
        return PromptTooLongError(message)
    return BadRequestError(message)
