"""The gRPC face: what a message means, what is refused at once, and what goes back."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import grpc
import pytest

from protos.jouleserve.v1 import inference_pb2 as pb
from scheduler.requests import ReplicaId
from scheduler.routing import Candidate, Decision
from serve import errors, grpc_api
from serve.calls import Latency, Outcome, Wishes
from serve.engine import EngineDelta, EngineFinish
from serve.errors import BadRequestError, JouleserveError, PromptTooLargeError
from serve.frames import RequestEnergy
from serve.frontend_bytes import BytesFrontend
from tests.gateway_fakes import ENERGY, LARGE, SMALL

LIMIT_BYTES = 1024


class Context:
    """Implements `grpc_api.StatusContext`."""

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}

    def set_code(self, code: grpc.StatusCode) -> None:
        self.said["code"] = code

    def set_details(self, details: str) -> None:
        self.said["details"] = details

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None:
        self.said["metadata"] = trailing_metadata


EVERY_ERROR = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, JouleserveError)
]


# ── errors ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_every_error_has_a_status_a_message_and_a_name(kind: type[JouleserveError]) -> None:
    context = Context()
    grpc_api.set_error(context, kind("shorten it"))
    assert context.said == {
        "code": grpc.StatusCode[kind.grpc_status],
        "details": "shorten it",
        "metadata": [("jouleserve-error", kind.kind)],
    }
    assert context.said["code"] is not grpc.StatusCode.OK


@pytest.mark.parametrize("tenant", ["a b", "ü", "x" * 65, "a/b", "a\n"])
def test_a_tenant_that_is_no_name_is_refused(tenant: str) -> None:
    with pytest.raises(BadRequestError, match="64 letters"):
        grpc_api.wishes(pb.GenerateRequest(tenant=tenant))


def test_a_tenant_is_a_wish() -> None:
    assert grpc_api.wishes(pb.GenerateRequest(tenant="lab-7.x_Y")).tenant == "lab-7.x_Y"
    assert grpc_api.wishes(pb.GenerateRequest()).tenant == ""


# ── what is refused at once ─────────────────────────────────────────────────


def test_a_request_within_the_limits_passes() -> None:
    grpc_api.check(pb.GenerateRequest(model="m", request_id="r" * 128), LIMIT_BYTES)


def test_too_many_bytes_are_refused_whatever_field_holds_them() -> None:
    for field in ("prompt", "model", "service_class", "variant"):
        request = pb.GenerateRequest()
        setattr(request, field, "x" * LIMIT_BYTES)
        with pytest.raises(PromptTooLargeError, match="at most 1024: shorten the prompt"):
            grpc_api.check(request, LIMIT_BYTES)


def test_a_request_id_too_long_for_logs_is_refused() -> None:
    with pytest.raises(BadRequestError, match="129 characters; at most 128"):
        grpc_api.check(pb.GenerateRequest(request_id="r" * 129), LIMIT_BYTES)


@pytest.mark.parametrize("name", ["ttft_s", "tpot_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_times_that_nothing_can_take_are_refused(name: str, value: float) -> None:
    request = pb.GenerateRequest(objective=pb.Objective(**{name: value}))
    with pytest.raises(BadRequestError, match=rf"objective\.{name} is .*give seconds above 0"):
        grpc_api.wishes(request)


@pytest.mark.parametrize("value", [-0.1, 1.1, 2.0, math.nan])
def test_qualities_that_nothing_can_have_are_refused(value: float) -> None:
    request = pb.GenerateRequest(objective=pb.Objective(min_quality=value))
    with pytest.raises(BadRequestError, match="give 0 to 1"):
        grpc_api.wishes(request)


# ── what a message means ────────────────────────────────────────────────────


def test_absent_wishes_are_left_to_the_service_class() -> None:
    assert grpc_api.wishes(pb.GenerateRequest(model="m")) == Wishes()


def test_wishes_are_taken_as_given() -> None:
    request = pb.GenerateRequest(
        service_class="batch",
        variant="small",
        explain=True,
        objective=pb.Objective(ttft_s=0.5, tpot_s=0.05, min_quality=0.0),
    )
    assert grpc_api.wishes(request) == Wishes("batch", 0.5, 0.05, 0.0, "small", explain=True)


@pytest.mark.parametrize(
    ("given", "token_ids"),
    [
        ({"prompt": "hé"}, list("hé".encode())),
        ({"prompt_token_ids": pb.TokenIds(ids=[7, 8])}, [7, 8]),
        (
            {"chat": pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])},
            list(b"user: hi\n"),
        ),
    ],
)
async def test_each_input_is_rendered(given: dict[str, Any], token_ids: list[int]) -> None:
    request = pb.GenerateRequest(**given)
    assert await grpc_api.rendered(request, BytesFrontend()) == token_ids


@pytest.mark.parametrize(
    "given", [{}, {"prompt": ""}, {"chat": pb.Chat()}, {"prompt_token_ids": pb.TokenIds()}]
)
async def test_no_input_is_refused_with_the_ways_to_give_one(given: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError, match="give a prompt, chat messages or prompt_token_ids"):
        await grpc_api.rendered(pb.GenerateRequest(**given), BytesFrontend())


def test_zero_tokens_are_not_the_same_as_no_bound() -> None:
    assert grpc_api.max_tokens(pb.GenerateRequest()) is None
    bounded = pb.GenerateRequest(sampling=pb.Sampling(max_tokens=0))
    assert grpc_api.max_tokens(bounded) == 0


def test_absent_sampling_parameters_are_not_given() -> None:
    assert grpc_api.sampling(pb.GenerateRequest(sampling=pb.Sampling(max_tokens=5))) == {}


def test_sampling_parameters_go_by_vllms_names() -> None:
    sampling = pb.Sampling(
        temperature=0.0, top_k=3, seed=-1, stop=["a"], stop_token_ids=[4], ignore_eos=True
    )
    assert grpc_api.sampling(pb.GenerateRequest(sampling=sampling)) == {
        "temperature": 0.0,
        "top_k": 3,
        "seed": -1,
        "stop": ["a"],
        "stop_token_ids": [4],
        "ignore_eos": True,
    }


def test_every_sampling_parameter_of_the_wire_is_read() -> None:
    def value(name: str) -> Any:
        return {"stop": ["a"], "stop_token_ids": [1], "ignore_eos": True}.get(name, 1)

    names = [field.name for field in pb.Sampling.DESCRIPTOR.fields]
    sampling = pb.Sampling(**{name: value(name) for name in names})
    request = pb.GenerateRequest(sampling=sampling)
    assert set(grpc_api.sampling(request)) | {"max_tokens"} == set(names)
    assert grpc_api.max_tokens(request) == 1


def test_only_the_trace_context_is_taken_from_metadata() -> None:
    metadata = {"traceparent": "00-a-b-01", "tracestate": "x=1", "authorization": "secret"}
    assert grpc_api.trace_headers(metadata) == {"traceparent": "00-a-b-01", "tracestate": "x=1"}
    assert grpc_api.trace_headers({}) == {}


# ── what goes back ──────────────────────────────────────────────────────────


class Logprob(NamedTuple):
    logprob: float
    decoded_token: str | None


def test_a_delta_becomes_tokens() -> None:
    message = grpc_api.tokens(EngineDelta([5, 6], "ab"))
    assert message.tokens == pb.Tokens(text="ab", token_ids=[5, 6])


def test_log_probabilities_name_the_token_and_the_alternatives() -> None:
    position = {5: Logprob(-0.5, "a"), 6: Logprob(-1.5, None)}
    message = grpc_api.tokens(EngineDelta([5], "a", [position]))
    (entry,) = message.tokens.logprobs
    assert entry.logprob == -0.5
    assert {top.token_id: (top.text, top.logprob) for top in entry.top} == {
        5: ("a", -0.5),
        6: ("", -1.5),
    }


def outcome() -> Outcome:
    a, b = ReplicaId("a"), ReplicaId("b")
    candidates = (
        Candidate(a, LARGE, 1.5, {"decode_j": 1.5}),
        Candidate(b, SMALL, excluded="it drains"),
    )
    return Outcome(
        request_id="r",
        variant=LARGE,
        replica=a,
        decision=Decision(a, LARGE, "energy", "cheapest", (), candidates),
        reason="cheapest; max_tokens lowered",
        finish=EngineFinish("stop", None, 4, 1, 3, 77),
        energy=ENERGY,
        latency=Latency(0.25, 0.5, 1.25),
    )


def test_the_finish_says_who_why_and_what_it_cost() -> None:
    finish = grpc_api.finish(outcome(), explain=False).finish
    assert (finish.request_id, finish.finish_reason) == ("r", "stop")
    assert (finish.variant, finish.replica) == ("large", "a")
    assert finish.reason == "cheapest; max_tokens lowered"
    usage = finish.usage
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (4, 1, 3)
    assert usage.completion_crc32 == 77
    assert usage.latency == pb.Latency(ttft_s=0.25, tpot_s=0.5, e2e_s=1.25)
    assert usage.energy == pb.Energy(
        energy_j=3.0, prefill_j=1.0, decode_j=2.0, method="model", boundary="cpu"
    )
    assert not usage.energy.HasField("gco2e")
    assert not finish.HasField("decision")


def test_what_a_call_has_used_is_in_the_finish_and_in_trailing_metadata() -> None:
    energy = RequestEnergy(1.0, 2.5, "nvml", "gpu", 0.25, 70.0)
    done = replace(outcome(), energy=energy, gco2e=0.002)
    told = grpc_api.finish(done, explain=False).finish.usage.energy
    assert (told.energy_j, told.share, told.mean_power_w, told.gco2e) == (3.5, 0.25, 70.0, 0.002)
    context = Context()
    grpc_api.set_cost(context, done)
    assert dict(context.said["metadata"]) == {
        "jouleserve-energy-j": "3.500000",
        "jouleserve-energy-method": "nvml",
        "jouleserve-energy-boundary": "gpu",
        "jouleserve-energy-share": "0.250000",
        "jouleserve-mean-power-w": "70.000",
        "jouleserve-gco2e": "0.002000000",
    }
    grpc_api.set_cost(context, outcome())
    assert "jouleserve-gco2e" not in dict(context.said["metadata"])


def test_the_decision_is_there_when_it_was_asked_for() -> None:
    decision = grpc_api.finish(outcome(), explain=True).finish.decision
    assert (decision.policy, decision.variant, decision.replica) == ("energy", "large", "a")
    first, second = decision.candidates
    assert (first.replica, first.score, dict(first.terms)) == ("a", 1.5, {"decode_j": 1.5})
    assert second.excluded == "it drains"
