"""A mirror of one kind of object: listed once, then watched, in a thread of its own.

Its own module because it is all that waits for changes: readers take what is in memory, and
learn how old that may be.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cluster.kubernetes.errors import ApiForbiddenError
from cluster.nodes import NodesUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cluster.kubernetes.api import Change, Feed
    from cluster.kubernetes.settings import KubernetesSettings

logger = logging.getLogger("jouleserve.cluster")

T = TypeVar("T")

# A watch that ends sooner than this, without an error, counts as a failure.
_LEAST_WATCH_S = 0.5


def backoff(first_s: float, limit_s: float) -> Iterator[float]:
    """Give pauses between attempts: each twice the last up to a limit, less up to a half."""
    pause_s = first_s
    while True:
        yield pause_s * random.uniform(0.5, 1.0)
        pause_s = min(limit_s, pause_s * 2)


class Mirror(Generic[T]):
    """Keeps the objects of a feed in memory."""

    def __init__(
        self,
        name: str,
        feed: Feed,
        read: Callable[[Mapping[str, Any]], T],
        settings: KubernetesSettings,
    ) -> None:
        """Know nothing yet.

        Args:
            name: of the kind, for messages.
            feed: to be mirrored.
            read: makes a value of an object's JSON.
            settings: how long to wait.

        """
        self._name = name
        self._feed = feed
        self._read = read
        self._settings = settings
        self._objects: dict[str, T] = {}
        self._lock = threading.Lock()
        self._fresh_at_s = -float("inf")
        self._problem = ""
        self._answered = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"mirror-{name}", daemon=True)

    # ── for readers ─────────────────────────────────────────────────────────

    def start(self) -> None:
        """Begin to list and to watch."""
        self._thread.start()

    def wait(self, limit_s: float) -> None:
        """Wait for the first answer, whatever it is."""
        self._answered.wait(limit_s)

    def objects(self) -> tuple[T, ...]:
        """Give what is known.

        Raises:
            NodesUnknownError: it is nothing, or too old.

        """
        age_s = self.age_s()
        if age_s > self._settings.stale_after_s:
            seen = "never" if age_s == float("inf") else f"{age_s:.0f} s ago"
            why = self._problem or "the API server has not answered yet"
            raise NodesUnknownError(f"{self._name} were last seen {seen}: {why}")
        with self._lock:
            return tuple(self._objects.values())

    def age_s(self) -> float:
        """Give the time since the API server last said that this is all; infinite before."""
        return time.monotonic() - self._fresh_at_s

    def end(self) -> None:
        """Have the thread end; does not wait for it."""
        self._ending.set()
        self._feed.cancel()

    def join(self, limit_s: float) -> bool:
        """Wait for the thread to end, and say whether it has."""
        if self._thread.ident is not None:
            self._thread.join(limit_s)
        return not self._thread.is_alive()

    # ── the thread ──────────────────────────────────────────────────────────

    def _run(self) -> None:
        version, pauses = "", self._pauses()
        while not self._ending.is_set():
            began_s = time.monotonic()
            try:
                version = version or self._list()
                for change in self._feed.watch(version):
                    if self._ending.is_set():
                        return
                    version = self._apply(change, version)
            except ApiForbiddenError as error:
                # To list instead, again and again, would hide that a right is missing.
                self._note(str(error))
            except NodesUnknownError as error:
                # What happened meanwhile may be forgotten, and until it is known is not fresh.
                self._note(str(error))
                version = ""
            except Exception:
                logger.exception("the mirror of %s has stumbled", self._name)
                self._note("an object could not be read; see the log")
                version = ""
            else:
                # The server ends a watch at its time; only at once would be odd.
                if time.monotonic() - began_s >= _LEAST_WATCH_S:
                    pauses = self._pauses()
                    continue
            if time.monotonic() - began_s > self._settings.backoff_limit_s:
                pauses = self._pauses()
            self._ending.wait(next(pauses))

    def _pauses(self) -> Iterator[float]:
        return backoff(self._settings.backoff_s, self._settings.backoff_limit_s)

    def _list(self) -> str:
        page = self._feed.list()
        objects = {_key(item): self._read(item) for item in page.items}
        with self._lock:
            self._objects = objects
        self._freshen()
        return page.version

    def _apply(self, change: Change, version: str) -> str:
        """Take a change in, and give the version to go on from."""
        if change.kind in {"ADDED", "MODIFIED"}:
            value = self._read(change.item)
            with self._lock:
                self._objects[_key(change.item)] = value
        elif change.kind == "DELETED":
            with self._lock:
                self._objects.pop(_key(change.item), None)
        self._freshen()
        metadata = change.item.get("metadata") or {}
        return str(metadata.get("resourceVersion") or version)

    def _freshen(self) -> None:
        self._fresh_at_s = time.monotonic()
        if self._problem:
            logger.info("%s are seen again", self._name)
        self._problem = ""
        self._answered.set()

    def _note(self, problem: str) -> None:
        """Remember why nothing new is known; tell it once."""
        if self._ending.is_set():
            return
        if problem != self._problem:
            logger.warning("%s are not seen: %s", self._name, problem)
        self._problem = problem
        self._answered.set()


def _key(item: Mapping[str, Any]) -> str:
    return str((item.get("metadata") or {}).get("name", ""))
