"""The demonstration: bring real models up, ask them, say who answered, why and for how much.

Its own module because its prompts and its summary concern nobody else; everything it
does, it does as a client would.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from protos.jouleserve.client import Client, Completion, JouleserveClientError
from serve import cli_tables, session
from serve.live_view import open_view, print_endpoints

if TYPE_CHECKING:
    from rich.console import Console

    from protos.jouleserve.client import GenerateOptions
    from serve.config import Config

_TIMEOUT_S = 120.0
_MS = 1e3


@dataclass(frozen=True, slots=True)
class Question:
    """One request of the demonstration.

    Attributes:
        prompt: said as the user.
        service_class: None is the model's default.
        min_quality: None leaves it to the service class.
        max_tokens: most tokens of the answer.

    """

    prompt: str
    service_class: str | None = None
    min_quality: float | None = None
    max_tokens: int = 48

    @property
    def wishes(self) -> str:
        """What it asks for, in a few words."""
        quality = f", quality ≥ {self.min_quality:g}" if self.min_quality is not None else ""
        return f"{self.service_class or 'default class'}{quality}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a question: a completion, or an error."""

    question: Question
    completion: Completion | None
    error: str = ""


ONE_BY_ONE = (
    Question("What is the capital of France?", "interactive"),
    Question("Explain in one sentence why the sky is blue.", "standard", min_quality=1.0),
    Question("Name three uses of waste heat from a data centre.", "batch", max_tokens=64),
)
TOGETHER = (
    Question("Write a haiku about electricity.", "interactive"),
    Question("What is 7 times 8?", "standard", min_quality=1.0),
    Question("Give one tip for saving energy at home.", "batch"),
)


def run(config: Config, console: Console) -> bool:
    """Do the whole demonstration.

    Returns:
        whether every question was answered.

    Raises:
        CheckpointError, ClusterError: the cluster did not come up.

    """
    began = time.monotonic()
    with session.terminable():
        with open_view(console) as view:
            record = session.bring_up(config, view)
        try:
            print_endpoints(console, record)
            answers = _ask_all(config, record.grpc_address, console)
        finally:
            console.print("\nstopping", highlight=False)
            session.bring_down(record)
    _print_summary(console, answers)
    console.print(f"everything took {time.monotonic() - began:.0f} s", highlight=False)
    return all(answer.completion is not None for answer in answers)


def _ask_all(config: Config, address: str, console: Console) -> list[Answer]:
    model = config.models[0].name
    with Client(address, timeout_s=_TIMEOUT_S) as client:
        answers = [_ask_aloud(client, config, question, console) for question in ONE_BY_ONE]
        console.rule(f"{len(TOGETHER)} requests at once")
        with ThreadPoolExecutor(len(TOGETHER)) as pool:
            waiting = [pool.submit(_ask, client, model, q, config) for q in TOGETHER]
            for each in waiting:
                answers.append(answer := each.result())
                _print_question(console, answer.question)
                _print_answer(console, answer, with_text=True)
    return answers


def _ask_aloud(client: Client, config: Config, question: Question, console: Console) -> Answer:
    """Ask one question and print its tokens as they come."""
    _print_question(console, question)
    try:
        with client.generate(config.models[0].name, **_options(question, config)) as stream:
            for tokens in stream:
                console.print(tokens.text, end="", markup=False, highlight=False, soft_wrap=True)
            answer = Answer(question, stream.complete())
    except JouleserveClientError as error:
        answer = Answer(question, None, str(error))
    console.print()
    _print_answer(console, answer, with_text=False)
    return answer


def _ask(client: Client, model: str, question: Question, config: Config) -> Answer:
    try:
        return Answer(question, client.complete(model, **_options(question, config)))
    except JouleserveClientError as error:
        return Answer(question, None, str(error))


def _options(question: Question, config: Config) -> GenerateOptions:
    """Give the options of a question; a class that is not configured becomes the default."""
    known = question.service_class in config.service_classes
    return {
        "chat": [{"role": "user", "content": question.prompt}],
        "service_class": question.service_class if known else None,
        "min_quality": question.min_quality,
        "max_tokens": question.max_tokens,
        "temperature": 0.0,
    }


def _print_question(console: Console, question: Question) -> None:
    console.print(f"\n[bold]> {question.prompt}[/bold]  ({question.wishes})", highlight=False)


def _print_answer(console: Console, answer: Answer, *, with_text: bool) -> None:
    if answer.completion is None:
        console.print(f"failed: {answer.error}", style="red", markup=False, highlight=False)
        return
    if with_text:
        console.print(answer.completion.text, markup=False, highlight=False, soft_wrap=True)
    cli_tables.print_finish(console, answer.completion.finish)


def _print_summary(console: Console, answers: list[Answer]) -> None:
    table = Table("prompt", "asked for", "variant", "replica", box=None, pad_edge=False)
    for heading in ("TTFT ms", "TPOT ms", "tokens", "J", "J/token"):
        table.add_column(heading, justify="right")
    for answer in answers:
        table.add_row(*_summary(answer))
    console.rule("summary")
    console.print(table)
    methods = {a.completion.finish.usage.energy.method for a in answers if a.completion}
    console.print(f"joules by method: {', '.join(sorted(methods)) or 'none'}", highlight=False)


def _summary(answer: Answer) -> tuple[str, ...]:
    question = answer.question
    if answer.completion is None:
        return (question.prompt, question.wishes, "failed")
    finish = answer.completion.finish
    usage = finish.usage
    energy_j, tokens = usage.energy.energy_j, usage.completion_tokens
    return (
        question.prompt,
        question.wishes,
        finish.variant,
        finish.replica,
        f"{usage.latency.ttft_s * _MS:.0f}",
        f"{usage.latency.tpot_s * _MS:.1f}",
        f"{usage.prompt_tokens} + {tokens}",
        f"{energy_j:.2f}",
        f"{energy_j / tokens:.3f}" if tokens else "–",
    )
