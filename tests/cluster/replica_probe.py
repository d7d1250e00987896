"""Ask the replicas of a running cluster what they themselves hold; one question a line.

    replicas   every process of the application: deployment, replica, pid
    status     every engine replica: unfinished_requests, open_streams, running, waiting, gateways

Its own process because Ray reads its settings when it is imported, and ends whoever is
connected when the cluster goes; that must not be the process that runs the tests.
"""

from __future__ import annotations

import json
import logging
import pickle
import sys
import uuid
from typing import Any

import ray
from ray.exceptions import RayError
from ray.serve._private.common import RequestMetadata
from ray.serve.context import _get_global_client

from serve.deployment import APPLICATION, GATEWAY, PLANNER

ANSWER_S = 10.0


def main(ray_address: str) -> None:
    """Answer every line of standard input with a line of JSON."""
    ray.init(
        address=ray_address, namespace="serve", log_to_driver=False, logging_level=logging.ERROR
    )
    for question in sys.stdin:
        answer = statuses() if question.strip() == "status" else replicas()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def replicas() -> list[dict[str, Any]]:
    """List the processes of the application."""
    client = _get_global_client()
    deployments = client.get_serve_details()["applications"][APPLICATION]["deployments"]
    return [
        {
            "deployment": name,
            "replica": replica["replica_id"],
            "pid": replica["pid"],
            "node": replica["node_id"],
            "actor": replica["actor_name"],
        }
        for name, deployment in deployments.items()
        for replica in deployment["replicas"]
        if replica["state"] == "RUNNING"
    ]


def statuses() -> list[dict[str, Any]]:
    """Ask every engine replica that answers; one that has just died does not."""
    engines = [each for each in replicas() if each["deployment"] not in {GATEWAY, PLANNER}]
    asked = [_ask(each["actor"]) for each in engines]
    return [answer for answer in map(_answer, asked) if answer is not None]


def _ask(actor: str) -> ray.ObjectRef | None:
    """Call `Replica.status`: the actor itself, for a handle would go to any replica."""
    call = RequestMetadata(
        request_id="probe", internal_request_id=uuid.uuid4().hex, call_method="status"
    )
    try:
        handle = ray.get_actor(actor, namespace="serve")
    except ValueError:
        return None
    return handle.handle_request.remote(pickle.dumps(call))


def _answer(reference: ray.ObjectRef | None) -> dict[str, Any] | None:
    if reference is None:
        return None
    try:
        status = ray.get(reference, timeout=ANSWER_S)
    except RayError:
        return None
    return {
        "replica": status.replica,
        "unfinished_requests": status.unfinished_requests,
        "open_streams": status.open_streams,
        "running_requests": status.report.running_requests,
        "waiting_requests": status.report.waiting_requests,
        "gateways": status.gateways,
    }


if __name__ == "__main__":
    main(sys.argv[1])
