"""A real Kubernetes control plane for the tests, and what they may do to it.

Its own module because starting it, taking its API server away and writing to it as an operator
would are the same for every test.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib import error, request

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATIENCE_S = 30.0
POLL_S = 0.05
UP_S = 240.0
CALL_S = 10.0
MOST_STARTS = 5
LAST_WORDS = 4000


class RefusedError(Exception):
    """The API server says no; the message is its own."""


def eventually(check: Callable[[], object], within_s: float = PATIENCE_S) -> Any:
    """Ask again and again until the answer is true; give the last answer."""
    deadline_s = time.monotonic() + within_s
    while True:
        answer = check()
        if answer or time.monotonic() > deadline_s:
            return answer
        time.sleep(POLL_S)


class ControlPlane:
    """What `kube-testbed up` has started; `folder` is where it keeps certificates and pids."""

    def __init__(self, tool: Path, given: Path, folder: Path) -> None:
        """Take it over.

        Args:
            tool: that starts and stops it.
            given: its kubeconfig, of an administrator.
            folder: for kubeconfigs of the tests' own.

        """
        self._tool = tool
        self._run = given.parent
        self._folder = folder
        admin = yaml.safe_load(given.read_text())
        self.server: str = admin["clusters"][0]["cluster"]["server"]
        self._token: str = admin["users"][0]["user"]["token"]
        self._authority = self._run / "pki" / "apiserver.crt"
        self._verify = ssl.create_default_context(cafile=str(self._authority))
        self.kubeconfig = self.kubeconfig_of("admin", self._token)

    def kubeconfig_of(self, name: str, token: str, server: str = "") -> str:
        """Write a kubeconfig that trusts the API server's certificate."""
        cluster = {"server": server or self.server, "certificate-authority": str(self._authority)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "t", "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "t", "context": {"cluster": "t", "user": name}}],
            "current-context": "t",
        }
        path = self._folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        return str(path)

    def down(self) -> None:
        """Stop everything."""
        subprocess.run([self._tool, "down"], check=True, timeout=UP_S)

    # ── as an operator ──────────────────────────────────────────────────────

    def get(self, path: str) -> Any:
        """Read an object."""
        return self._call("GET", path)

    def create(self, path: str, body: Mapping[str, object]) -> Any:
        """Make an object."""
        return self._call("POST", path, body)

    def merge(self, path: str, body: Mapping[str, object]) -> Any:
        """Change parts of an object; lists are replaced."""
        return self._call("PATCH", path, body, "application/merge-patch+json")

    def delete(self, path: str) -> None:
        """Take an object away at once."""
        self._call("DELETE", path, {"gracePeriodSeconds": 0})

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        content: str = "application/json",
    ) -> Any:
        call = request.Request(
            self.server + path,
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self._token}", "Content-Type": content},
            method=method,
        )
        try:
            with request.urlopen(call, timeout=CALL_S, context=self._verify) as answer:
                return json.load(answer)
        except error.HTTPError as refused:
            raise RefusedError(json.load(refused)["message"]) from None

    # ── as fate ─────────────────────────────────────────────────────────────

    def kill_api_server(self) -> Callable[[], None]:
        """End the API server at once, and give what starts it again as it was."""
        pid = self._pid()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: not _lives(pid)), "the API server does not end"

        def start() -> subprocess.Popen[bytes]:
            with (self._run / "log" / "apiserver.log").open("ab") as log:
                process = subprocess.Popen(
                    command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )  # fmt: skip
            (self._run / "pid" / "apiserver").write_text(f"{process.pid}\n")
            return process

        def restart() -> None:
            # It ends itself when one of its hooks takes too long to start; who runs one for real
            # starts it again.
            starts = [start()]

            def is_back() -> bool:
                if starts[-1].poll() is not None and len(starts) < MOST_STARTS:
                    starts.append(start())
                return self._answers()

            assert eventually(is_back, UP_S), self._last_words()

        return restart

    def freeze_api_server(self) -> Callable[[], None]:
        """Have the API server take connections and say nothing; give what lets it go on."""
        pid = self._pid()
        os.kill(pid, signal.SIGSTOP)
        return lambda: os.kill(pid, signal.SIGCONT)

    def _last_words(self) -> str:
        log = (self._run / "log" / "apiserver.log").read_text(errors="replace")
        return "the API server does not come back:\n" + log[-LAST_WORDS:]

    def _pid(self) -> int:
        return int((self._run / "pid" / "apiserver").read_text())

    def _answers(self) -> bool:
        try:
            self.get("/api/v1/nodes")
            # What definitions add comes up by itself, later.
            self.get("/apis/ray.io/v1/rayclusters")
        except (OSError, RefusedError):
            return False
        return True


class Fate:
    """Takes the API server away and brings it back."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._undo: Callable[[], None] | None = None

    def kill(self) -> None:
        self._undo = self._plane.kill_api_server()

    def freeze(self) -> None:
        self._undo = self._plane.freeze_api_server()

    def restore(self) -> None:
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
