"""Who shows a key of the file is let in, and nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from serve.api_keys import RENEW_S, ApiKeys
from serve.errors import UnauthenticatedError

if TYPE_CHECKING:
    from pathlib import Path


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    made.write_text("# team a\nfirst\n\n  second  \n")
    return made


def test_without_a_file_everybody_is_let_in() -> None:
    ApiKeys(None).check(None)


@pytest.mark.parametrize("shown", ["Bearer first", "bearer second", "BEARER  second "])
def test_whoever_shows_a_key_is_let_in(file: Path, shown: str) -> None:
    ApiKeys(file).check(shown)


@pytest.mark.parametrize(
    "shown", [None, "", "first", "Bearer", "Bearer ", "Bearer # team a", "Bearer firs", "Basic x"]
)
def test_nobody_else_is(file: Path, shown: str | None) -> None:
    with pytest.raises(UnauthenticatedError, match="authorization: Bearer KEY") as refusal:
        ApiKeys(file).check(shown)
    assert "first" not in str(refusal.value)
    assert refusal.value.http_status == 401


def test_a_changed_file_is_read_again(file: Path) -> None:
    clock = Clock()
    keys = ApiKeys(file, clock)
    file.write_text("third\n")
    keys.check("Bearer first")
    clock.now_s += RENEW_S
    keys.check("Bearer third")
    with pytest.raises(UnauthenticatedError):
        keys.check("Bearer first")


@pytest.mark.parametrize("content", [None, b"", b"# nobody\n", b"\xff\xfe"])
def test_a_file_without_keys_is_refused_and_never_replaces_one_with_keys(
    file: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    keys = ApiKeys(file, clock)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    clock.now_s += RENEW_S
    keys.check("Bearer first")
    assert "still hold" in caplog.text
    assert "first" not in caplog.text
    with pytest.raises(ValueError, match=r"gateway\.api_keys_file"):
        ApiKeys(file)
