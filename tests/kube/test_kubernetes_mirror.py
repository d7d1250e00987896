"""A mirror over a feed that is played: what an API server does too seldom to wait for it."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from cluster.kubernetes.api import Change, Page
from cluster.kubernetes.errors import ApiError, ApiForbiddenError, ApiGoneError
from cluster.kubernetes.mirror import Mirror, backoff
from cluster.nodes import NodesUnknownError
from tests.kube.control_plane import eventually
from tests.kube.kubernetes_json import settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

QUICK = settings(
    backoff_s=0.01, backoff_limit_s=0.02, stale_after_s=1.0, watch_s=0.5, request_timeout_s=0.2
)


def _item(name: str, version: str = "2") -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": version}}


def _name(item: Mapping[str, Any]) -> str:
    if item["metadata"]["name"] == "unreadable":
        raise TypeError
    return str(item["metadata"]["name"])


class Played:
    """Gives the lists and watches that it was told; then a watch on which nothing happens."""

    def __init__(self, lists: list[list[str]], watches: list[list[Change | Exception]]) -> None:
        self._lists, self._watches = deque(lists), deque(watches)
        self._ended = threading.Event()
        self.watched_from: list[str] = []

    def list(self) -> Page:
        names = self._lists.popleft() if len(self._lists) > 1 else self._lists[0]
        return Page([_item(name) for name in names], "1")

    def watch(self, version: str) -> Iterator[Change]:
        self.watched_from.append(version)
        if not self._watches:
            yield Change("OPENED", {})
            self._ended.wait()
            return
        for change in self._watches.popleft():
            if isinstance(change, Exception):
                raise change
            yield change

    def cancel(self) -> None:
        self._ended.set()


@pytest.fixture
def mirrors() -> Iterator[list[Mirror[str]]]:
    started: list[Mirror[str]] = []
    yield started
    for mirror in started:
        mirror.end()
        assert mirror.join(5.0)


def _start(mirrors: list[Mirror[str]], feed: Played) -> Mirror[str]:
    mirror = Mirror("things", feed, _name, QUICK)
    mirrors.append(mirror)
    mirror.start()
    mirror.wait(5.0)
    return mirror


def test_changes_are_taken_in(mirrors: list[Mirror[str]]) -> None:
    changes: list[Change | Exception] = [
        Change("ADDED", _item("b", "3")),
        Change("DELETED", _item("a", "4")),
        Change("BOOKMARK", {"metadata": {"resourceVersion": "9"}}),
    ]
    feed = Played([["a"]], [changes])
    mirror = _start(mirrors, feed)
    assert eventually(lambda: feed.watched_from == ["1", "9"])
    assert mirror.objects() == ("b",)


@pytest.mark.parametrize("error", [ApiGoneError("gone"), ApiError("500"), RuntimeError("bug")])
def test_whatever_ends_a_watch_it_begins_with_a_new_list(
    mirrors: list[Mirror[str]], error: Exception
) -> None:
    mirror = _start(mirrors, Played([["a"], ["b"]], [[error]]))
    assert eventually(lambda: mirror.objects() == ("b",))


def test_an_object_that_cannot_be_read_does_not_end_the_mirror(
    mirrors: list[Mirror[str]],
) -> None:
    mirror = _start(mirrors, Played([["a"], ["b"]], [[Change("ADDED", _item("unreadable"))]]))
    assert eventually(lambda: mirror.objects() == ("b",))


def test_a_right_that_is_missing_is_told_and_not_worked_around(
    mirrors: list[Mirror[str]],
) -> None:
    refusals: list[list[Change | Exception]] = [[ApiForbiddenError("403")] for _ in range(10**4)]
    mirror = _start(mirrors, Played([["a"]], refusals))

    def problem() -> str:
        try:
            mirror.objects()
        except NodesUnknownError as error:
            return str(error)
        return ""

    assert eventually(problem, 5.0)
    assert "403" in problem()
    assert "last seen 1 s ago" in problem()


def test_pauses_grow_up_to_their_limit() -> None:
    pauses = backoff(1.0, 8.0)
    for whole in (1.0, 2.0, 4.0, 8.0, 8.0, 8.0):
        assert whole / 2 <= next(pauses) <= whole
