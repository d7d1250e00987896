"""The command; see the package."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protos.jouleserve.errors import JouleserveClientError
from scripts.compare_simulator.analysis import analyse
from scripts.compare_simulator.recordings import from_json, to_json
from scripts.compare_simulator.runs import ComparisonError
from scripts.compare_simulator.serving import measure
from serve.section_file import ConfigFileError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Sequence as Many

DEFAULT_CONFIG = Path(__file__).parents[2] / "serve" / "default.yaml"


def show(result: Mapping[str, Any]) -> None:
    """Print the table."""
    fitted = result["calibration"]
    for name, steps in fitted["steps"].items():
        print(
            f"{name}: step {1e3 * steps['t0_s']:.2f} ms + {1e3 * steps['t1_s']:.3f} ms/sequence"
            f" + {1e6 * steps['context_s_per_token']:.3f} µs/token of context,"
            f" prefill {1e3 * steps['prefill_s_per_token']:.3f} ms/token"
        )
    print(
        f"network {1e3 * fitted['network_s']:.1f} ms one way; the fit's median error per request:"
        f" TTFT {fitted['ttft_error']:.1%}, TPOT {fitted['tpot_error']:.1%}"
    )
    print(f"served by {result['served_by']}, simulated {result['simulated_served_by']}")
    print(f"{'':14}{'measured':>10}{'simulated':>11}{'error':>9}{'target':>8}{'pinned':>10}")
    for name, most in result["targets"].items():
        print(
            f"{name:14}{result['measured'][name]:10.4f}{result['simulated'][name]:11.4f}"
            f"{result['errors'][name]:+9.1%}{most:8.0%}{result['errors_pinned'][name]:+10.1%}"
            f"  {'met' if result['met'][name] else 'MISSED'}"
        )


def arguments(given: Many[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        "python -m scripts.compare_simulator", description="The virtual cluster against a real one."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--address", help="host and port of a gateway's gRPC")
    source.add_argument("--from-json", type=Path, help="analyse these measurements again")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="what `up` was given")
    parser.add_argument("--calibration-seed", type=int, default=1)
    parser.add_argument("--test-seed", type=int, default=2)
    parser.add_argument("--rate", type=float, default=2.0, help="requests/s")
    parser.add_argument("--test-rate", type=float, help="of the test trace, if another")
    parser.add_argument("--duration", type=float, default=90.0, help="seconds of each trace")
    parser.add_argument("--max-batched-tokens", type=int, help="of an engine step")
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser.parse_args(given)


def main(given: Many[str] | None = None) -> None:
    """Measure or read, analyse, print and write."""
    options = arguments(given)
    try:
        if options.from_json is None:
            setup, calibration_run, test_run = asyncio.run(measure(options))
            about = {
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
                "command": shlex.join(sys.argv),
            }
        else:
            content = json.loads(options.from_json.read_text(encoding="utf-8"))
            setup, calibration_run, test_run = from_json(content)
            about = {name: content.get(name) for name in ("date", "machine", "command")}
        recorded = {**about, **to_json(setup, calibration_run, test_run)}
        _write(options.out, recorded)  # Whatever the analysis says, measurements are kept.
        result = analyse(setup, calibration_run, test_run)
    except (ComparisonError, JouleserveClientError, ConfigFileError) as error:
        sys.exit(f"error: {error}")
    show(result)
    _write(options.out, {**recorded, "result": result})


def _write(path: Path | None, content: Mapping[str, Any]) -> None:
    if path is not None:
        # JSON has no infinity; Python reads its own spelling back.
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
