"""What a server says before the first request: that it is there, what it serves, what it promises.

Its own module because a wrong address, key or model is told before load is made, in words that
say what to change.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import aiohttp
import grpc

from loadtest.errors import LoadtestError
from protos.jouleserve.client import Client, JouleserveClientError, UnavailableError
from scheduler.requests import Objective

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadtest.live.targets import Dialect, TargetSettings
    from protos.jouleserve import client

TIMEOUT_S = 10.0
_OK = 200
_REFUSED = {401, 403}
# Whose OpenAI servers also take `ignore_eos`.
_LIKE_VLLM = {"vllm", "sglang"}


@dataclass(frozen=True, slots=True)
class Greeting:
    """A server's answer.

    Attributes:
        target: as asked for, with what was found out about it.
        default_class: of requests that name none; empty where nobody says.
        classes: that a request may name; empty where nobody says.
        objectives: by service class; empty where nobody says.
        trouble: why it cannot be asked; empty if it can.

    """

    target: TargetSettings
    default_class: str = ""
    classes: tuple[str, ...] = ()
    objectives: Mapping[str, Objective] = field(default_factory=dict)
    trouble: str = ""


def greet(target: TargetSettings) -> Greeting:
    """Ask a server what it serves.

    Raises:
        LoadtestError: it does not serve the model that is to be asked.

    """
    if target.protocol == "grpc":
        return _greet_grpc(target)
    greeting = asyncio.run(_greet_openai(target))
    if target.status_address and not greeting.trouble:
        told = _greet_grpc(replace(target, address=target.status_address, tls=False))
        return replace(
            greeting,
            default_class=told.default_class,
            classes=told.classes,
            objectives=told.objectives,
            trouble=told.trouble and f"--status: {told.trouble}",
        )
    return greeting


def client_of(target: TargetSettings, address: str) -> Client:
    """Make a client of the gRPC API at an address."""
    credentials = grpc.ssl_channel_credentials() if target.tls else None
    return Client(
        address, timeout_s=TIMEOUT_S, credentials=credentials, api_key=target.api_key or None
    )


def _greet_grpc(target: TargetSettings) -> Greeting:
    try:
        with client_of(target, target.address) as client:
            models = {model.name: model for model in client.models()}
    except UnavailableError as error:
        return Greeting(target, trouble=f"nothing answers at {target.address}: {error}")
    except JouleserveClientError as error:
        return Greeting(target, trouble=f"{target.address}: {error}")
    name = _chosen(target.model, list(models))
    model = models[name]
    known = {each.name: _objective(each.objective) for each in model.service_classes}
    promised = {each: objective for each, objective in known.items() if objective is not None}
    asked = replace(target, model=name)
    return Greeting(asked, model.default_service_class, tuple(known), promised)


async def _greet_openai(target: TargetSettings) -> Greeting:
    headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    url = f"{target.address}/models"
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.get(url) as response,
        ):
            status, answer = response.status, await response.json(content_type=None)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        return Greeting(target, trouble=f"nothing answers at {target.address}: {reason}")
    except ValueError:
        return Greeting(target, trouble=f"{url} is no list of models; is it an OpenAI server?")
    if status in _REFUSED:
        return Greeting(target, trouble=f"{url}: HTTP {status}: show another key (--api-key-file)")
    listed = answer.get("data") if isinstance(answer, dict) else None
    if status != _OK or not isinstance(listed, list):
        return Greeting(target, trouble=f"{url}: HTTP {status}; is it an OpenAI server?")
    owners = {str(each.get("id")): str(each.get("owned_by")) for each in listed}
    name = _chosen(target.model, list(owners))
    return Greeting(replace(target, model=name, dialect=_dialect(owners[name])))


def _chosen(asked: str, served: list[str]) -> str:
    if asked in served:
        return asked
    if not asked and len(served) == 1:
        return served[0]
    known = ", ".join(served) or "none"
    wanted = f"the server has no model {asked!r}" if asked else "say which model: --model"
    raise LoadtestError(f"{wanted}; it serves {known}")


def _dialect(owner: str) -> Dialect:
    if owner == "jouleserve":
        return "jouleserve"
    return "vllm" if owner in _LIKE_VLLM else "plain"


def _objective(told: client.Objective) -> Objective | None:
    if told.ttft_s is None and told.tpot_s is None:
        return None
    return Objective(
        math.inf if told.ttft_s is None else told.ttft_s,
        math.inf if told.tpot_s is None else told.tpot_s,
        told.min_quality or 0.0,
    )
