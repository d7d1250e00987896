"""How many requests the load generator sends on time, and how right its latencies are.

A server whose latencies are known (`tests/known_server.py`) runs in a process of its own, on the
same machine; workers send a Poisson load of fixed rates to it. What counts: lateness, and how far
time to the first token and time per token are from what the server was told to take. The server
costs as much as the workers do: a machine of two cores has to carry both.

    python benchmarks/bench_loadtest.py [--protocol grpc openai] [--rates 500 1000 2000]
        [--tokens 4] [--seconds 10] [--workers 2] [--spread 0.5]

With --spread latencies differ from request to request, by log-normal distributions that the
server takes from a fixed list; its percentiles are told beside those that were measured.
"""

from __future__ import annotations

import argparse

import numpy as np

from loadtest.live.crew import Crew
from loadtest.live.crew_words import Order
from loadtest.live.ledger import merged
from loadtest.live.sender import Limits, Share
from loadtest.live.targets import Protocol, target_of
from loadtest.run import Ending, Requests
from loadtest.scenario import Scenario
from tests.known_server import MODEL, KnownServer, Script, known_server

TTFT_S = 0.05
TPOT_S = 0.02
WARMUP_S = 3.0
PERCENTILES = (50, 90, 95, 99, 99.9)


def _scenario(rate_per_s: float, tokens: int, seconds: float) -> Scenario:
    return Scenario.model_validate(
        {
            "arrivals": {"open": {"process": "poisson", "rate_per_s": rate_per_s}},
            "warmup_s": WARMUP_S,
            "duration_s": seconds,
            "requests": [{"prompt": {"tokens": 64}, "completion_tokens": tokens}],
        }
    )


def _steady(
    server: KnownServer, protocol: Protocol, scenario: Scenario, workers: int
) -> tuple[Requests, int, float]:
    """Send it; give what became due after the warm-up, how many did before, and CPU s of each."""
    address = server.grpc_address if protocol == "grpc" else server.http_url
    limits = Limits(max_in_flight=4096, deadline_s=30.0, drain_s=10.0, give_up_after_s=10.0)
    target = target_of(address, MODEL)
    orders = [
        Order(scenario, 0, 0, target, Share(each, workers), limits) for each in range(workers)
    ]
    with Crew(orders) as crew:
        crew.wait_ready()
        came = crew.run(scenario.total_s + 60.0, lambda _: None, lambda _: None)
    requests, _, _ = merged([done.pages for done in came.done])
    assert not came.trouble, came.trouble
    cpu_s = sum(done.cpu_s for done in came.done) / len(requests.ending)
    steady = requests.scheduled_at_s >= WARMUP_S
    return requests.select(steady), int(np.count_nonzero(~steady)), cpu_s


def _figures(steady: Requests, cpu_s: float, seconds: float) -> dict[str, float]:
    lost = int(np.count_nonzero(steady.ending != Ending.COMPLETED))
    sent = steady.select(~np.isnan(steady.sent_at_s))
    lateness_ms = sent.lateness_s * 1e3
    done_per_s = np.count_nonzero(steady.ending == Ending.COMPLETED) / seconds
    steady = steady.select(steady.ending == Ending.COMPLETED)
    from_sent_ms = (steady.first_token_at_s - steady.sent_at_s) * 1e3
    return {
        "done/s": done_per_s,
        "not done": lost,
        "late p50": float(np.percentile(lateness_ms, 50)),
        "late p99": float(np.percentile(lateness_ms, 99)),
        "late max": float(lateness_ms.max()),
        "TTFT p50": float(np.percentile(steady.ttft_s, 50)) * 1e3,
        "TTFT p99": float(np.percentile(steady.ttft_s, 99)) * 1e3,
        "sent→1st p50": float(np.percentile(from_sent_ms, 50)),
        "TPOT p50": float(np.nanpercentile(steady.tpot_s, 50)) * 1e3,
        "TPOT p99": float(np.nanpercentile(steady.tpot_s, 99)) * 1e3,
        "µs/request": cpu_s * 1e6,
    }


def _tell_percentiles(steady: Requests, before: int, script: Script) -> None:
    """Print what was measured beside what the server took for these requests, by its script."""
    done = steady.select(steady.ending == Ending.COMPLETED)
    numbers = range(before + 1, before + 1 + len(done.ending))
    ttft_s, tpot_s = zip(*(script.latencies_of(number) for number in numbers), strict=True)
    for name, measured_s, told_s in (("TTFT", done.ttft_s, ttft_s), ("TPOT", done.tpot_s, tpot_s)):
        for percentile in PERCENTILES:
            true_ms = float(np.percentile(told_s, percentile)) * 1e3
            found_ms = float(np.percentile(measured_s, percentile)) * 1e3
            off_ms = found_ms - true_ms
            print(
                f"    {name} p{percentile:<5g} told {true_ms:8.2f} ms  measured {found_ms:8.2f} ms"
                f"  {off_ms:+.2f} ms {off_ms / true_ms:+.1%}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--protocol", nargs="+", default=["openai", "grpc"])
    parser.add_argument("--rates", nargs="+", type=float, default=[500, 1000, 2000])
    parser.add_argument("--tokens", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--spread", type=float, default=0.0)
    given = parser.parse_args()
    print(f"TTFT {TTFT_S * 1e3:g} ms, TPOT {TPOT_S * 1e3:g} ms, {given.tokens} tokens a reply")
    script = Script(ttft_s=TTFT_S, tpot_s=TPOT_S, tokens=given.tokens, spread=given.spread)
    for protocol in given.protocol:
        for rate in given.rates:
            with known_server(script) as server:
                scenario = _scenario(rate, given.tokens, given.seconds)
                steady, before, cpu_s = _steady(server, protocol, scenario, given.workers)
            found = _figures(steady, cpu_s, given.seconds)
            told = "  ".join(f"{name} {value:.4g}" for name, value in found.items())
            print(f"{protocol:6} {rate:6g}/s  {told}", flush=True)
            if given.spread:
                _tell_percentiles(steady, before, script)


if __name__ == "__main__":
    main()
