"""The default cluster of `jouleserve up`, with real replicas, once for a module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from cluster.processor import processor
from serve import ports
from tests.cluster.otlp_collector import OtlpCollector

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m-instruct"
QUESTION = "What is the capital of France?"

# Plain vLLM on the checkpoint of a variant: nothing of this project runs in there but the
# lookup of the checkpoint, so that it can be the measure of everything else.
DIRECT = """
import json, sys
from serve.checkpoints import materialize
from serve.default_config import load_default
from vllm import LLM, SamplingParams
variant, = [v for _, v in load_default().variants() if v.name == sys.argv[1]]
engine = LLM(materialize(variant.checkpoint.source), dtype=sys.argv[2], enforce_eager=True,
             max_model_len=variant.max_context_tokens, max_num_seqs=variant.max_batch)
prompts = json.load(sys.stdin)
greedy = SamplingParams(temperature=0.0, max_tokens=48)
replies = [engine.generate([{"prompt_token_ids": ids}], greedy)[0].outputs[0] for ids in prompts]
print("REPLIES " + json.dumps([list(reply.token_ids) for reply in replies]))
"""


class Cluster(NamedTuple):
    """A running cluster, and where it logs."""

    grpc_address: str
    http_url: str
    logs: Path


@pytest.fixture(scope="session")
def collector() -> Iterator[OtlpCollector]:
    """Give a collector of spans that the cluster sends to."""
    with OtlpCollector() as collector:
        yield collector


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, collector: OtlpCollector
) -> Iterator[Cluster]:
    found = ports.reserve()
    grpc_port, http_port = found.gateways_grpc.first, found.gateways_http.first
    state = tmp_path_factory.mktemp("state")
    environment = {
        **os.environ,
        "XDG_STATE_HOME": str(state),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    command = [sys.executable, "-m", "serve.cli"]
    options = ["--detach", f"--grpc-port={grpc_port}", f"--http-port={http_port}"]
    subprocess.run([*command, "up", *options], check=True, cwd=ROOT, env=environment, timeout=600)
    try:
        record = json.loads((state / "jouleserve" / "cluster.json").read_text())
        logs = Path(record["directory"], "session_latest", "logs")
        yield Cluster(f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{http_port}", logs)
    finally:
        subprocess.run([*command, "down"], check=True, cwd=ROOT, env=environment, timeout=60)


def directly(variant: str, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy completions of plain vLLM, in a process of its own."""
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "PYTHONPATH": str(ROOT),
    }
    dtype = "float32" if processor().imitates_bf16 else "bfloat16"
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DIRECT), variant, dtype],
        input=json.dumps(prompts),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment,
        timeout=300,
    )
    line = next(each for each in finished.stdout.splitlines() if each.startswith("REPLIES "))
    replies: list[list[int]] = json.loads(line.removeprefix("REPLIES "))
    return replies
