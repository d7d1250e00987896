"""Load against a server of known latencies, in processes of their own, over real sockets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from loadtest.errors import LoadtestError
from loadtest.live.run import LiveOptions, run_live
from loadtest.live.targets import target_of
from loadtest.run import Ending
from loadtest.run_file import load_run
from loadtest.scenario import Scenario
from protos.jouleserve.client import Client
from tests.known_server import Script, known_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadtest.run import Run
    from tests.known_server import KnownServer

pytestmark = pytest.mark.timeout(240)

PROJECT = Path(__file__).parents[2]
TTFT_S, TPOT_S = 0.2, 0.05
TOKENS = 4
OPTIONS = LiveOptions(seed=3, workers=1, deadline_s=60.0, drain_s=60.0, give_up_after_s=1.0)
PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "openai"])


def scenario_of(arrivals: dict[str, Any], duration_s: float = 2.0, **kind: Any) -> Scenario:
    plain = {"prompt": {"tokens": 30}, "completion_tokens": TOKENS}
    return Scenario.model_validate(
        {
            "name": "known",
            "arrivals": arrivals,
            "duration_s": duration_s,
            "requests": [plain | kind],
        }
    )


def constant(rate_per_s: float) -> dict[str, Any]:
    return {"open": {"process": "constant", "rate_per_s": rate_per_s}}


def address(server: KnownServer, protocol: str) -> str:
    return server.grpc_address if protocol == "grpc" else server.http_url


@pytest.fixture(scope="module")
def server() -> Iterator[KnownServer]:
    with known_server(Script(ttft_s=TTFT_S, tpot_s=TPOT_S)) as server:
        yield server


@pytest.fixture(scope="module", params=["grpc", "openai"])
def plain_run(request: pytest.FixtureRequest, server: KnownServer) -> Run:
    target = target_of(address(server, request.param), "")
    return run_live(scenario_of(constant(25)), target, replace(OPTIONS, workers=2))


def test_every_request_is_accounted_for(plain_run: Run) -> None:
    requests = plain_run.requests
    assert not plain_run.partial
    assert plain_run.model == "known"
    assert len(requests.ending) == 50
    assert (requests.ending == Ending.COMPLETED).all()
    assert (requests.completion_tokens == TOKENS).all()
    assert (requests.sent_at_s >= requests.scheduled_at_s - 1e-3).all()
    assert (np.diff(requests.scheduled_at_s) >= 0).all()


def test_latencies_are_never_less_than_the_server_takes_and_mostly_not_much_more(
    plain_run: Run,
) -> None:
    requests = plain_run.requests
    slack_s = 1e-4
    assert (requests.ttft_s >= TTFT_S - slack_s).all()
    assert (requests.e2e_latency_s >= TTFT_S + (TOKENS - 1) * TPOT_S - slack_s).all()
    # What is late here comes as one with what is early: means do not lie.
    spread_s = requests.ended_at_s - requests.first_token_at_s
    assert (requests.tpot_s == pytest.approx(spread_s / (TOKENS - 1))) is True
    gaps = HdrHistogram.decode(plain_run.itl[plain_run.classes[0].name])
    assert gaps.get_total_count() == len(requests.ending) * (TOKENS - 1)


def test_a_jouleserve_target_tells_of_itself_beside_its_replies(plain_run: Run) -> None:
    if not plain_run.target.endswith("(grpc, tokens)"):
        assert not plain_run.samples
        assert [each.name for each in plain_run.classes] == ["default"]
        return
    assert plain_run.energy_method == "model"
    assert [each.name for each in plain_run.classes] == ["standard"]
    objective = plain_run.classes[0].objective
    assert objective is not None
    assert objective.ttft_s == 2.0
    energy_j = [sample.energy_j for sample in plain_run.samples]
    assert len(energy_j) >= 2
    assert energy_j == sorted(energy_j)
    assert plain_run.variants == ("only",)
    assert (plain_run.requests.energy_j == TOKENS).all()
    assert (plain_run.requests.prompt_tokens == 30).all()
    assert plain_run.requests.server_ttft_s == pytest.approx(TTFT_S)


@PROTOCOLS
def test_a_server_that_stalls_shows_its_true_tail(protocol: str) -> None:
    """Whoever waits for the stall to end before it sends again would not see it."""
    script = Script(ttft_s=0.01, tpot_s=0.001, stall_at_s=0.5, stall_s=2.0)
    with known_server(script) as server:
        target = target_of(address(server, protocol), "")
        run = run_live(scenario_of(constant(50), duration_s=3.0), target, OPTIONS)
    requests = run.requests
    assert len(requests.ending) == 150
    assert (requests.ending == Ending.COMPLETED).all()
    # The server counts from the arrival of its first request: after that was sent, and
    # before it was answered.
    earliest_s = requests.sent_at_s.min()
    latest_s = requests.first_token_at_s[requests.sent_at_s.argmin()]
    stalled = (requests.sent_at_s > latest_s + 0.5) & (requests.sent_at_s < earliest_s + 2.0)
    assert stalled.sum() >= 20
    assert (requests.first_token_at_s[stalled] >= earliest_s + 2.5 - 1e-3).all()
    assert requests.ttft_s.max() >= 1.0


@PROTOCOLS
def test_a_closed_loop_never_exceeds_its_users(server: KnownServer, protocol: str) -> None:
    closed = {"closed": {"users": 4}}
    run = run_live(scenario_of(closed), target_of(address(server, protocol), ""), OPTIONS)
    requests = run.requests
    assert run.closed_loop
    assert len(requests.ending) >= 8
    begun = [(at_s, 1) for at_s in requests.sent_at_s]
    ended = [(at_s, -1) for at_s in requests.ended_at_s]
    assert max(np.cumsum([step for _, step in sorted(begun + ended)])) <= 4


@PROTOCOLS
def test_turns_of_a_session_carry_what_was_answered(server: KnownServer, protocol: str) -> None:
    scenario = scenario_of(constant(5), turns=3)
    run = run_live(scenario, target_of(address(server, protocol), ""), OPTIONS)
    requests = run.requests
    assert (requests.ending == Ending.COMPLETED).all()
    first = requests.select(requests.session == 0)
    assert first.turn.tolist() == [0, 1, 2]
    assert (first.scheduled_at_s[1:] >= first.ended_at_s[:-1]).all()
    if protocol == "grpc":
        assert first.prompt_tokens.tolist() == [30, 60 + TOKENS, 90 + 2 * TOKENS]


@PROTOCOLS
def test_refusals_and_broken_replies_are_told_apart(protocol: str) -> None:
    script = Script(ttft_s=0.01, tpot_s=0.001, shed_every=5, truncate_every=7)
    with known_server(script) as server:
        target = target_of(address(server, protocol), "")
        run = run_live(scenario_of(constant(35)), target, OPTIONS)
    endings = run.requests.ending
    # Every fifth of 70, and of the others every seventh.
    assert (endings == Ending.SHED).sum() == 14
    assert (endings == Ending.FAILED).sum() == 8
    assert (endings == Ending.COMPLETED).sum() == 48
    assert not run.partial
    shed = {run.errors[each] for each in run.requests.error[endings == Ending.SHED]}
    assert len(shed) == 1
    assert "no room" in shed.pop()


@PROTOCOLS
def test_a_server_that_dies_leaves_a_partial_run(protocol: str) -> None:
    with known_server(Script(ttft_s=0.01, tpot_s=0.001, die_at_s=1.0)) as server:
        target = target_of(address(server, protocol), "")
        run = run_live(scenario_of(constant(50), duration_s=100.0), target, OPTIONS)
    endings = run.requests.ending
    assert "gone since" in run.partial
    assert len(endings) == 5000
    assert (endings == Ending.COMPLETED).sum() >= 10
    assert (endings == Ending.FAILED).sum() >= 3
    assert (endings == Ending.UNSENT).sum() > 1000
    assert run.ended_at_s < 100


@PROTOCOLS
def test_a_wrong_key_is_told_before_anything_is_sent(protocol: str) -> None:
    with known_server(Script(key="right")) as server:
        place = address(server, protocol)
        wrong = run_live(scenario_of(constant(5)), target_of(place, "", api_key="bad"), OPTIONS)
        right = run_live(scenario_of(constant(5)), target_of(place, "", api_key="right"), OPTIONS)
    assert wrong.partial
    assert "bad" not in wrong.partial
    assert (wrong.requests.ending == Ending.UNSENT).all()
    assert (right.requests.ending == Ending.COMPLETED).all()
    assert "right" not in repr(right)


@pytest.mark.parametrize("place", ["127.0.0.1:9", "http://127.0.0.1:9"])
def test_a_target_that_is_not_there_is_told(place: str) -> None:
    run = run_live(scenario_of(constant(5)), target_of(place, "m"), OPTIONS)
    assert "nothing answers at" in run.partial
    assert (run.requests.ending == Ending.UNSENT).all()


def test_a_model_or_class_that_is_not_served_is_refused_with_those_that_are(
    server: KnownServer,
) -> None:
    with pytest.raises(LoadtestError, match="no model 'other'; it serves known"):
        run_live(scenario_of(constant(5)), target_of(server.grpc_address, "other"), OPTIONS)
    with pytest.raises(LoadtestError, match="no service class 'gold'; it has interactive"):
        run_live(
            scenario_of(constant(5), service_class="gold"),
            target_of(server.grpc_address, ""),
            OPTIONS,
        )


def test_ctrl_c_keeps_what_there_is(server: KnownServer, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtest.commands.loadtest", "run", "mixed-tenants"]
    options = ["--target", server.grpc_address, "--rate", "40", "--out", str(tmp_path / "kept")]
    process = subprocess.Popen(
        [*command, *options, "--duration", "600", "--workers", "2"],
        cwd=PROJECT,
        env={**os.environ, "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _wait_for_load(server)
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 1, told
    assert "interrupted" in told
    run = load_run(tmp_path / "kept" / "run.json.gz")
    assert run.partial == "interrupted"
    assert (run.requests.ending == Ending.COMPLETED).sum() >= 1
    assert (run.requests.ending == Ending.UNSENT).sum() > 1000


def _wait_for_load(server: KnownServer) -> None:
    """Wait until the server has completed a request of the run."""
    with Client(server.grpc_address, timeout_s=60.0) as client:
        before = client.status().counters.completed
        deadline_s = time.monotonic() + 120.0
        while client.status().counters.completed <= before:
            assert time.monotonic() < deadline_s, "no load came"
            time.sleep(0.1)
