"""Several Ray nodes on this machine, in a process of their own; one command a line.

    add        one node more; answers its number
    remove N   the node of that number vanishes with all that runs on it

The first line of its output is the Ray address. The nodes end with its standard input.
Its own process because Ray reads its settings when it is imported.
"""

from __future__ import annotations

import json
import sys

from ray.cluster_utils import Cluster

_STORE_BYTES = 100 << 20


def main(settings: str) -> None:
    """Start a head and workers, then obey.

    Args:
        settings: JSON with `workers`, and `worker`, the keyword arguments of each.

    """
    given = json.loads(settings)
    common = {"object_store_memory": _STORE_BYTES, "dashboard_agent_listen_port": 0}
    head = {"num_cpus": 0, "num_gpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**common, **head})
    workers = [cluster.add_node(**common, **given["worker"]) for _ in range(given["workers"])]
    _say(cluster.address)
    for line in sys.stdin:
        command, _, number = line.strip().partition(" ")
        if command == "add":
            workers.append(cluster.add_node(**common, **given["worker"]))
            _say(str(len(workers) - 1))
        elif command == "remove":
            cluster.remove_node(workers[int(number)], allow_graceful=False)
            _say("removed")
    cluster.shutdown()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
