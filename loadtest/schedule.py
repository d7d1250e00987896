"""What a scenario will send, and when: drawn before the run from the scenario and a seed alone.

Its own module because no reply may move it: a sender that waits for a slow server before it
sends again hides the very slowness that it is to measure. Whoever has the scenario and the seed
has the same schedule, in every process and on the virtual cluster too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from loadtest import arrivals
from loadtest.errors import LoadtestError
from loadtest.traces import read_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from loadtest.arrivals import Rate, Times
    from loadtest.scenario import Distribution, OpenLoop, Scenario, Shape, TraceReplay
    from loadtest.traces import Trace

    Ints = NDArray[np.int64]

# Sessions of a closed loop are drawn so many at a time, for nobody knows how many there will be.
CHUNK_SESSIONS = 256
# Beyond it a schedule would not fit a machine's memory.
MOST_SESSIONS = 20_000_000


class Turn(NamedTuple):
    """One request of a session.

    Attributes:
        prompt_tokens: that are new in it.
        completion_tokens: to be generated.
        think_s: between the answer before and this request; 0 for the first.
        key: tells its prompt from all others: a line of a text file, a row of a trace, or a
            number for a prompt that is made up. A trace that is replayed again counts on.

    """

    prompt_tokens: int
    completion_tokens: int
    think_s: float
    key: int


class Session(NamedTuple):
    """Requests that follow one another; most have one only.

    Attributes:
        number: among all of the run.
        kind: index into the scenario's requests.
        turns: in order.
        pause_s: that a user of a closed loop makes before it.

    """

    number: int
    kind: int
    turns: tuple[Turn, ...]
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SessionTable:
    """Many sessions, column by column.

    Attributes:
        first: number of the first session.
        kind: of each session.
        begin: row of each session's first turn, and the end of the last.
        prompt_tokens: of each turn.
        completion_tokens: the same.
        think_s: the same.
        key: the same.
        pause_s: of each session.

    """

    first: int
    kind: Ints
    begin: Ints
    prompt_tokens: Ints
    completion_tokens: Ints
    think_s: Times
    key: Ints
    pause_s: Times

    def __len__(self) -> int:
        return len(self.kind)

    def session(self, number: int) -> Session:
        """Give one session by its number."""
        row = number - self.first
        rows = slice(int(self.begin[row]), int(self.begin[row + 1]))
        turns = zip(
            self.prompt_tokens[rows].tolist(),
            self.completion_tokens[rows].tolist(),
            self.think_s[rows].tolist(),
            self.key[rows].tolist(),
            strict=True,
        )
        said = tuple(Turn(*turn) for turn in turns)
        return Session(number, int(self.kind[row]), said, float(self.pause_s[row]))


class Schedule:
    """A scenario's requests, by seed."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        """Read the traces that the scenario names, and draw when its sessions begin.

        Args:
            scenario: to be sent.
            seed: of chance.

        Raises:
            TraceError: a trace cannot be read, with its line.
            LoadtestError: there is nothing to send, or too much.

        """
        self._scenario = scenario
        self._seed = seed
        self.traces = _traces(scenario)
        self.text_lines = _texts(scenario)
        self.begin_s: Times = self._begins() if scenario.arrivals.closed is None else np.empty(0)
        """When each session of an open loop begins, in order; empty for a closed one."""
        self._tables: list[SessionTable] = []
        if scenario.arrivals.closed is None:
            if not self.begin_s.size:
                raise LoadtestError(
                    f"not one request falls into {scenario.total_s:g} s: raise the rate or duration"
                )
            self._tables.append(self._draw(0, self.begin_s.size))

    def session(self, number: int) -> Session:
        """Give one session; those of a closed loop never end."""
        if self._scenario.arrivals.closed is None:
            return self._tables[0].session(number)
        chunk = number // CHUNK_SESSIONS
        while len(self._tables) <= chunk:
            self._tables.append(self._draw(len(self._tables) * CHUNK_SESSIONS, CHUNK_SESSIONS))
        return self._tables[chunk].session(number)

    @property
    def table(self) -> SessionTable:
        """All sessions of an open loop."""
        return self._tables[0]

    # ── when ────────────────────────────────────────────────────────────────

    def _begins(self) -> Times:
        scenario, rng = self._scenario, np.random.default_rng([self._seed, 0])
        if scenario.arrivals.trace is not None:
            return self._replayed(scenario.arrivals.trace, rng)
        process = scenario.arrivals.open
        if process is None:
            return np.empty(0)
        rate = _rate(process, scenario.ramp_s, scenario.warmup_s + scenario.duration_s)
        highest = float(rate(np.linspace(0.0, scenario.total_s, 1001)).max())
        if highest * scenario.total_s > MOST_SESSIONS:
            raise LoadtestError(
                f"{highest:g}/s over {scenario.total_s:g} s is more than {MOST_SESSIONS} requests"
            )
        return arrivals.warped(rate, scenario.total_s, _unit_process(process, rng))

    def _replayed(self, replay: TraceReplay, rng: np.random.Generator) -> Times:
        """Instants of a trace, from its start again where it is too short; thinned in the ramp."""
        trace, total_s = self.traces[replay.file], self._scenario.total_s
        recorded = np.array([request.at_s for request in trace.requests])
        # The gap from the last request to the first of the next round is a mean one.
        round_s = trace.duration_s * (len(recorded) + 1) / len(recorded) or 1.0
        speed = replay.speed or 1.0
        if replay.rate_per_s is not None:
            speed = replay.rate_per_s * round_s / len(recorded)
        rounds = math.ceil(total_s * speed / round_s)
        if rounds * len(recorded) > MOST_SESSIONS:
            raise LoadtestError(f"{replay.file} at this pace is more than {MOST_SESSIONS} requests")
        at_s = (recorded + np.arange(rounds)[:, None] * round_s).ravel() / speed
        at_s = at_s[at_s < total_s]
        if self._scenario.ramp_s:
            self._kept = np.flatnonzero(rng.uniform(0.0, self._scenario.ramp_s, at_s.size) < at_s)
        else:
            self._kept = np.arange(at_s.size)
        begins: Times = at_s[self._kept]
        return begins

    # ── what ────────────────────────────────────────────────────────────────

    def _draw(self, first: int, count: int) -> SessionTable:
        scenario, rng = self._scenario, np.random.default_rng([self._seed, 1, first])
        shares = np.array([kind.share for kind in scenario.requests])
        kinds: Ints = rng.choice(len(shares), count, p=shares / shares.sum())
        turns = np.ones(count)
        for number, kind in enumerate(scenario.requests):
            rows = kinds == number
            turns[rows] = np.maximum(1.0, np.rint(drawn(kind.turns, int(rows.sum()), rng)))
        begin = np.concatenate([[0], np.cumsum(turns)]).astype(np.int64)
        total = int(begin[-1])
        origin = np.repeat(np.arange(count), turns.astype(np.int64))
        prompt, completion = np.zeros(total, np.int64), np.zeros(total, np.int64)
        think_s, key = np.zeros(total), np.zeros(total, np.int64)
        for number, kind in enumerate(scenario.requests):
            rows = np.flatnonzero(kinds[origin] == number)
            key[rows] = self._keys(number, rows, first)
            lengths = self._lengths(number, key[rows], rng)
            prompt[rows], completion[rows] = lengths
            think_s[rows] = drawn(kind.think_time_s, rows.size, rng)
        think_s[begin[:-1]] = 0.0
        closed = scenario.arrivals.closed
        pause_s = np.zeros(count) if closed is None else drawn(closed.think_time_s, count, rng)
        return SessionTable(first, kinds, begin, prompt, completion, think_s, key, pause_s)

    def _keys(self, kind: int, rows: Ints, first: int) -> Ints:
        """Number prompts: as a replayed trace has them, else one after the other."""
        if self._scenario.requests[kind].prompt is None:
            kept: Ints = self._kept[rows]
            return kept
        # Chunks of a closed loop have at most some turns each: their numbers stay apart.
        return rows + first * 1024

    def _lengths(self, kind: int, keys: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Give lengths of prompts and completions."""
        request = self._scenario.requests[kind]
        trace, completion = self.trace_of(kind), request.completion_tokens
        if trace is not None:
            recorded = [trace.requests[row] for row in (keys % len(trace.requests)).tolist()]
            prompts = np.array([each.prompt_tokens for each in recorded], np.int64)
            completions = np.array([each.completion_tokens for each in recorded], np.int64)
        elif request.prompt is not None and request.prompt.text_file is not None:
            lines = self.text_lines[request.prompt.text_file]
            words = np.array([len(line.split()) for line in lines], np.int64)
            prompts, completions = words[keys % len(lines)], np.empty(0, np.int64)
        else:
            tokens = None if request.prompt is None else request.prompt.tokens
            prompts, completions = _counts(tokens, keys.size, rng), np.empty(0, np.int64)
        if completion is not None:
            completions = _counts(completion, keys.size, rng)
        return prompts, completions

    def trace_of(self, kind: int) -> Trace | None:
        """Give the trace that the prompts of a kind are those of."""
        prompt = self._scenario.requests[kind].prompt
        replay = self._scenario.arrivals.trace
        if prompt is not None:
            return None if prompt.trace is None else self.traces[prompt.trace]
        return None if replay is None else self.traces[replay.file]


def drawn(distribution: Distribution, count: int, rng: np.random.Generator) -> Times:
    """Draw numbers."""
    if (normal := distribution.log_normal) is not None:
        # The mean of exp(N(μ, σ²)) is exp(μ + σ²/2).
        middle = math.log(normal.mean) - normal.spread**2 / 2
        return np.minimum(rng.lognormal(middle, normal.spread, count), normal.most)
    if (uniform := distribution.uniform) is not None:
        return rng.uniform(uniform.least, uniform.most, count)
    if (exponential := distribution.exponential) is not None:
        return np.minimum(rng.exponential(exponential.mean, count), exponential.most)
    return np.full(count, distribution.fixed, np.float64)


def _counts(distribution: Distribution | None, count: int, rng: np.random.Generator) -> Ints:
    if distribution is None:
        return np.ones(count, np.int64)
    counts: Ints = np.maximum(1, np.rint(drawn(distribution, count, rng))).astype(np.int64)
    return counts


def _unit_process(process: OpenLoop, rng: np.random.Generator) -> Callable[[float], Times]:
    match process.process:
        case "poisson":
            return partial(arrivals.poisson, 1.0, rng=rng)
        case "gamma":
            return lambda length: arrivals.gamma(1.0, process.burstiness, length, rng)
        case "constant":
            return partial(arrivals.constant, 1.0)


def _rate(process: OpenLoop, ramp_s: float, full_s: float) -> Rate:
    """Give the rate over the run: the ramp, then the shape."""
    shaped = _shaped(process.shape, process.rate_per_s, full_s)

    def rate(at_s: Times) -> Times:
        risen = np.minimum(1.0, at_s / ramp_s) if ramp_s else 1.0
        return shaped(np.maximum(0.0, at_s - ramp_s)) * risen

    return rate


def _shaped(shape: Shape | None, rate_per_s: float, full_s: float) -> Rate:
    if shape is None:
        return lambda at_s: np.full(at_s.shape, rate_per_s)
    if (ramp := shape.ramp) is not None:
        return arrivals.ramp(ramp.from_factor * rate_per_s, ramp.to_factor * rate_per_s, full_s)
    if shape.steps is not None:
        return arrivals.steps([(step.after_s, step.factor * rate_per_s) for step in shape.steps])
    if (day := shape.diurnal) is not None:
        return arrivals.diurnal(rate_per_s, day.swing, day.period_s)
    crowd = shape.flash_crowd
    if crowd is None:
        raise LoadtestError("a shape must be one of ramp, steps, diurnal, flash_crowd")
    ramp_s = min(crowd.ramp_s, crowd.length_s / 2)
    return arrivals.flash_crowd(rate_per_s, crowd.factor, crowd.after_s, crowd.length_s, ramp_s)


def _traces(scenario: Scenario) -> Mapping[Path, Trace]:
    named = [kind.prompt.trace for kind in scenario.requests if kind.prompt is not None]
    if scenario.arrivals.trace is not None:
        named.append(scenario.arrivals.trace.file)
    return {path: read_trace(path) for path in dict.fromkeys(named) if path is not None}


def _texts(scenario: Scenario) -> Mapping[Path, tuple[str, ...]]:
    named = [kind.prompt.text_file for kind in scenario.requests if kind.prompt is not None]
    return {path: _lines(path) for path in dict.fromkeys(named) if path is not None}


def _lines(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise LoadtestError(f"{path}: {error.strerror or 'cannot be read'}") from error
    except UnicodeDecodeError as error:
        raise LoadtestError(f"{path}: is not UTF-8 text") from error
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise LoadtestError(f"{path}: has no prompt; write one in each line")
    return lines
