"""Which further arguments vLLM's engine knows, learnt without importing vLLM.

Its own module because a configuration is checked within milliseconds and on machines
without a GPU, while importing vLLM takes seconds and starts to look for devices.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
from functools import cache
from pathlib import Path

OWN_KEYS = {
    "model": "checkpoint",
    "revision": "checkpoint.revision",
    "dtype": "dtype",
    "quantization": "quantization",
    "kv_cache_dtype": "kv_cache_dtype",
    "kv_cache_memory_bytes": "kv_cache_gib",
    "tensor_parallel_size": "tensor_parallel_size",
    "pipeline_parallel_size": "pipeline_parallel_size",
    "max_model_len": "max_context_tokens",
    "max_num_seqs": "max_batch",
}
"""Engine arguments that have a key of their own, which validation and scheduling read."""

RESERVED = frozenset({"scheduler_cls", "worker_extension_cls"})
"""Engine arguments through which streams of a lost replica go on."""


def find_fault(option: str) -> str | None:
    """Say why an engine argument cannot be given, or None when it can."""
    if option in OWN_KEYS:
        return f"use the variant's own key {OWN_KEYS[option]!r}"
    if option in RESERVED:
        return "it is set already: streams of a lost replica go on by it"
    known = known_options()
    if known is None or option in known:
        return None
    close = difflib.get_close_matches(option, sorted(known), n=3)
    suggestion = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"vLLM's AsyncEngineArgs has no such field{suggestion}"


@cache
def known_options() -> frozenset[str] | None:
    """List the fields of vLLM's AsyncEngineArgs; None where vLLM is not installed."""
    package = importlib.util.find_spec("vllm")
    if package is None or package.origin is None:
        return None
    source = Path(package.origin).parent / "engine" / "arg_utils.py"
    if not source.is_file():
        return None
    classes = [
        node for node in ast.parse(source.read_bytes()).body if isinstance(node, ast.ClassDef)
    ]
    fields = {
        item.target.id
        for node in classes
        if node.name in {"EngineArgs", "AsyncEngineArgs"}
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    return frozenset(fields) or None
