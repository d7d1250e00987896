"""Which replicas of which deployment are running, as Ray's routers in this process learn it.

Its own module because the router's class travels by value while this one object must
be the same for the router that publishes and the gateway that listens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

Listener = Callable[[str, Mapping[str, str]], None]


class Membership:
    """The newest set of running replicas of every deployment.

    Replicas are given as a mapping from replica to the node it runs on.
    """

    def __init__(self) -> None:
        self._replicas: dict[str, Mapping[str, str]] = {}
        self._listeners: list[Listener] = []

    def publish(self, deployment: str, replicas: Mapping[str, str]) -> None:
        """Replace the set of a deployment and tell every listener, in the caller's thread."""
        self._replicas[deployment] = dict(replicas)
        for listener in self._listeners:
            listener(deployment, self._replicas[deployment])

    def subscribe(self, listener: Listener) -> None:
        """Call the listener for all that is known, and for every change from now on."""
        self._listeners.append(listener)
        for deployment, replicas in self._replicas.items():
            listener(deployment, replicas)


MEMBERSHIP = Membership()
