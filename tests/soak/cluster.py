"""The cluster that is soaked: its nodes, and what it serves.

Its own module because tests and the soak want the same one.
"""

from __future__ import annotations

import yaml

from serve import config_file
from serve.default_config import load_default

WORKERS = 3
WORKER = {"num_cpus": 4, "num_gpus": 4, "resources": {"accelerator_type:H100": 1}}
CONFIG = """
models:
  - name: echo
    variants:
      - {{name: bf16, engine: echo, accelerator: h100-sxm, cpus_per_replica: 0.1, max_batch: 8,
          min_replicas: {least}, max_replicas: 8, start_s: 6,
          echo: {{decode_step_s: 0.02, prefill_tokens_per_s: 20000}}}}
      - {{name: fp8, engine: echo, accelerator: h100-sxm, cpus_per_replica: 0.1, max_batch: 8,
          min_replicas: {least}, max_replicas: 8, start_s: 6, quality: 0.95,
          echo: {{decode_step_s: 0.012, prefill_tokens_per_s: 30000}}}}
planner: {{period_s: 3, horizon_s: 60, asleep_after_s: 20, autoscaler: {autoscaler},
           queue_target: {queue_target}}}
gateway: {{ingress: head_node, replicas: 2}}
node_groups:
  - {{name: h100, accelerator: h100-sxm, accelerators_per_node: 4, max_nodes: 3,
      node_power_w: 500, boot_s: 1, boot_j: 1000}}
"""


# Two real engines, one on each node; a lost one goes on with the other.
VLLM_WORKERS = 2
VLLM_WORKER: dict[str, object] = {"num_cpus": 1}
VLLM_MODEL = "smollm2-135m-instruct"


def vllm_configuration() -> str:
    """Give the embedded configuration with two gateways, as YAML."""
    tree = config_file.dump(load_default())
    parsed = yaml.safe_load(tree)
    parsed["gateway"] |= {"ingress": "head_node", "replicas": 2}
    return yaml.safe_dump(parsed)


def configuration(autoscaler: str, queue_target: float = 4.0) -> str:
    """Give the configuration, as YAML.

    Args:
        autoscaler: planner or queue_based.
        queue_target: of queue_based, requests for each replica.

    """
    # Nobody but the planner wakes what sleeps.
    least = 0 if autoscaler == "planner" else 1
    return CONFIG.format(autoscaler=autoscaler, queue_target=queue_target, least=least)
