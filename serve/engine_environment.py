"""The environment variables that the processes of an engine need before vLLM is imported.

Its own module because they are set where the deployment is described, in a process that
must not import vLLM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serve.config_models import VariantConfig


def environment(variant: VariantConfig) -> dict[str, str]:
    """Give the variables for every process of a variant's replicas; none for the echo engine."""
    if variant.engine != "vllm":
        return {}
    variables = {
        # Warnings only: an engine of its own logs a line for every statistic.
        "VLLM_LOGGING_LEVEL": "WARNING",
        # Nobody is told of what is served here.
        "VLLM_NO_USAGE_STATS": "1",
        # The engine's processes are executed anew, never forked from a process with threads;
        # `serve.lifeline` relies on it.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        # The tokenizer serves single requests; its threads would take the engine's cores.
        "TOKENIZERS_PARALLELISM": "false",
    }
    if variant.accelerator == "cpu":
        variables |= {
            "OMP_NUM_THREADS": str(max(1, int(variant.cpus_per_replica))),
            # Ray decides how many cores a replica has, not which; two engines that bind their
            # threads would bind them to the same ones.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
    return variables
