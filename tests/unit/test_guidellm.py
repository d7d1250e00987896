"""GuideLLM, where there is one, sends over gRPC what its data says and counts what comes back.

GUIDELLM_PYTHON names the Python of an environment with `guidellm` and `grpcio`.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.client_fakes import Servicer, fail, finish, serving, tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from protos.jouleserve.v1 import inference_pb2 as pb

PYTHON = os.environ.get("GUIDELLM_PYTHON", "")
ROOT = Path(__file__).parents[2]
FIRST_S = 0.1
GAP_S = 0.01
PATIENCE_S = 240

pytestmark = [
    pytest.mark.timeout(PATIENCE_S + 30),
    pytest.mark.skipif(not PYTHON, reason="GUIDELLM_PYTHON names no environment with GuideLLM"),
]


def paced(request: pb.GenerateRequest, _: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
    """Two tokens at once, then one by one, as many as were asked for."""
    asked = request.sampling.max_tokens
    time.sleep(FIRST_S)
    yield tokens(1, 2)
    for each in range(3, asked + 1):
        time.sleep(GAP_S)
        yield tokens(each)
    yield finish(asked)


def benchmark(servicer: Servicer, tmp_path: Path, more: str = "") -> dict[str, Any]:
    """Run GuideLLM with two rows of data; give what it says of its one benchmark."""
    rows = [
        {"prompt": "one two three", "output_tokens_count": 5},
        {"prompt": "four five", "output_tokens_count": 8},
    ]
    data, report = tmp_path / "data.jsonl", tmp_path / "report.json"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(servicer) as address:
        subprocess.run(
            [
                *(PYTHON, "-m", "loadtest.adapters.guidellm", "run", "--disable-console"),
                *("--backend", f"kind=jouleserve_grpc,target={address}{more}"),
                *("--profile", "kind=synchronous", "--data", f"kind=json_file,path={data}"),
                *("--output", f"kind=json,path={report}"),
            ],
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
            timeout=PATIENCE_S,
        )
    (said,) = json.loads(report.read_text())["benchmarks"]
    assert isinstance(said, dict)
    return said


def test_it_counts_the_tokens_times_and_joules_of_every_reply(tmp_path: Path) -> None:
    servicer = Servicer()
    servicer.script = paced
    said = benchmark(servicer, tmp_path, ",tenant=team-a,variant=int8,request_format=prompt")

    assert [request.prompt for request in servicer.requests] == ["one two three", "four five"]
    assert [request.sampling.max_tokens for request in servicer.requests] == [5, 8]
    assert all(request.sampling.ignore_eos for request in servicer.requests)
    assert {(each.tenant, each.variant, each.model) for each in servicer.requests} == {
        ("team-a", "int8", "smollm2")
    }

    replies = said["requests"]["successful"]
    assert said["metrics"]["request_totals"]["successful"] == len(replies) == 2
    assert [reply["output_tokens"] for reply in replies] == [5, 8]
    assert [reply["prompt_tokens"] for reply in replies] == [7, 7]
    assert [reply["response_metrics"]["energy_j"] for reply in replies] == [3, 3]
    for reply in replies:
        assert reply["time_to_first_token_ms"] >= FIRST_S * 1e3
        # The first message held two tokens: there is one gap less than tokens after the first.
        gaps = reply["output_tokens"] - 2
        assert reply["inter_token_latency_ms"] >= gaps * GAP_S * 1e3 / (gaps + 1)


def test_it_sends_conversations_as_such(tmp_path: Path) -> None:
    servicer = Servicer()
    servicer.script = paced
    benchmark(servicer, tmp_path)
    sent = [
        [(message.role, message.content) for message in request.chat.messages]
        for request in servicer.requests
    ]
    assert sent == [[("user", "one two three")], [("user", "four five")]]


REFUSED = """
import asyncio, sys
from guidellm.schemas import GenerationRequest, RequestInfo, UsageMetrics
from loadtest.adapters.guidellm_backend import JouleserveGrpcArgs, JouleserveGrpcBackend

async def main():
    back_end = JouleserveGrpcBackend(JouleserveGrpcArgs(target=sys.argv[1]))
    await back_end.process_startup()
    await back_end.validate()
    request = GenerationRequest(
        columns={"text_column": ["one"]}, output_metrics=UsageMetrics(text_tokens=5)
    )
    info = RequestInfo(request_id=request.request_id)
    try:
        async for _ in back_end.resolve(request, info):
            pass
    except Exception as error:
        print(type(error).__name__, error)
    await back_end.process_shutdown()

asyncio.run(main())
"""


def test_what_the_gateway_refuses_is_raised_for_guidellm_to_count() -> None:
    servicer = Servicer()
    servicer.script = fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "all replicas are full")
    with serving(servicer) as address:
        done = subprocess.run(
            [PYTHON, "-c", REFUSED, address],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=PATIENCE_S,
        )
    assert done.stdout.split()[0] == "OverloadedError"
    assert "all replicas are full" in done.stdout
    assert len(servicer.requests) == 1
