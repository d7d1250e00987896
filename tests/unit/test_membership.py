"""Membership: whoever subscribes, early or late, knows the newest replicas of everything."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from serve.membership import Membership

if TYPE_CHECKING:
    from collections.abc import Mapping


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, str]]] = []
        self.threads: set[int] = set()

    def __call__(self, deployment: str, replicas: Mapping[str, str]) -> None:
        self.heard.append((deployment, dict(replicas)))
        self.threads.add(threading.get_ident())


def test_a_listener_hears_every_change() -> None:
    membership, listener = Membership(), Listener()
    membership.subscribe(listener)
    membership.publish("large", {"a": "node1"})
    membership.publish("large", {"a": "node1", "b": "node2"})
    membership.publish("large", {})
    assert listener.heard == [
        ("large", {"a": "node1"}),
        ("large", {"a": "node1", "b": "node2"}),
        ("large", {}),
    ]


def test_a_late_listener_hears_the_newest_set_of_each_deployment() -> None:
    membership, listener = Membership(), Listener()
    membership.publish("large", {"a": "node1"})
    membership.publish("small", {"c": "node1"})
    membership.publish("large", {"b": "node1"})
    membership.subscribe(listener)
    assert dict(listener.heard) == {"large": {"b": "node1"}, "small": {"c": "node1"}}
    assert len(listener.heard) == 2


def test_what_was_published_does_not_change_with_the_publishers_own_mapping() -> None:
    membership, listener = Membership(), Listener()
    replicas = {"a": "node1"}
    membership.publish("large", replicas)
    replicas.clear()
    membership.subscribe(listener)
    assert listener.heard == [("large", {"a": "node1"})]


def test_listeners_are_called_in_the_publishers_thread() -> None:
    membership, listener = Membership(), Listener()
    membership.subscribe(listener)
    thread = threading.Thread(target=membership.publish, args=("large", {"a": "node1"}))
    thread.start()
    thread.join()
    assert listener.threads == {thread.ident}
