"""A replica under many gateways, good and bad: order, exact counts, and nothing left behind."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from cluster.counting_meter import CountersMeter
from cluster.meters import NJ
from cluster.recorded_counter import Recorded, RecordedCounter
from scheduler.steps import AffineSteps
from serve import replica as replica_module
from serve.attribution import Ledger
from serve.engine import EngineRequest, EngineStep
from serve.engine_echo import EchoEngine
from serve.load import LoadMeter
from serve.replica import Replica, Telemetry

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from serve.frames import Frame, StreamFrame

GATEWAY = "g"
STEPS = AffineSteps(
    t0_s=1e-3, t1_s=0.0, e0_j=0.1, e1_j=0.01, prefill_s_per_token=1e-4, prefill_j_per_token=0.01
)


def request(prompt: list[int], max_tokens: int = 8) -> EngineRequest:
    return EngineRequest("r", prompt, max_tokens)


@asynccontextmanager
async def running(
    decode_step_s: float = 0.0, report_period_s: float = 0.05
) -> AsyncGenerator[Replica]:
    ledger = Ledger(STEPS, 10.0, "model", "cpu")
    telemetry = Telemetry(LoadMeter(time.monotonic()), ledger, time.monotonic)
    engine = EchoEngine(decode_step_s, 1e9, 64, 4096, telemetry.observe)
    await engine.start()
    replica = Replica("r1", engine, telemetry, report_period_s)
    try:
        yield replica
    finally:
        await replica.stop()


class Reader:
    """Reads the frames of one gateway into a list."""

    def __init__(self, replica: Replica, gateway: str = GATEWAY) -> None:
        self.frames: list[Frame] = []
        self.task = asyncio.create_task(self._read(replica, gateway))

    async def _read(self, replica: Replica, gateway: str) -> None:
        async with aclosing(replica.frames(gateway)) as frames:
            async for frame in frames:
                self.frames.append(frame)

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    def parts(self, stream: int) -> list[StreamFrame]:
        return [part for frame in self.frames for part in frame.streams if part.stream == stream]

    def token_ids(self, stream: int) -> list[int]:
        deltas = (part.delta for part in self.parts(stream))
        return [token for delta in deltas if delta is not None for token in delta.token_ids]


async def until_idle(replica: Replica) -> None:
    async with asyncio.timeout(2):
        while True:
            status = await replica.status()
            if not (status.unfinished_requests or status.open_streams):
                return
            await asyncio.sleep(0.005)


async def test_streams_arrive_whole_with_their_energy_last() -> None:
    async with running() as replica:
        reader = Reader(replica)
        calls = [replica.generate(request([i, 50 + i]), i, GATEWAY) for i in range(32)]
        assert await asyncio.gather(*calls) == [8] * 32
        await asyncio.sleep(0.05)
        for i in range(32):
            assert reader.token_ids(i) == [i, 50 + i] * 4
            energies = [part.energy for part in reader.parts(i)]
            assert energies[:-1] == [None] * (len(energies) - 1)
            assert energies[-1] is not None
            assert energies[-1].prefill_j > 0
            assert energies[-1].decode_j > 0
        await reader.close()


async def test_one_step_is_one_frame() -> None:
    async with running(decode_step_s=0.01) as replica:
        reader = Reader(replica)
        calls = [replica.generate(request([i], 40), i, GATEWAY) for i in range(32)]
        await asyncio.gather(*calls)
        await asyncio.sleep(0.01)
        # Once all have begun, they are decoded together; a busy machine begins some of them late.
        full = [frame for frame in reader.frames if len(frame.streams) == 32]
        assert len(full) >= 9
        await reader.close()


async def test_a_report_counts_exactly_what_was_accepted_up_to_its_frame() -> None:
    async with running(decode_step_s=0.02) as replica:
        reader = Reader(replica)
        calls = []
        for i in range(10):
            calls.append(asyncio.create_task(replica.generate(request([i], 100), i, GATEWAY)))
            await asyncio.sleep(0.003)
        accepted = 0
        for frame in reader.frames:
            accepted += len(frame.accepted)
            if frame.accepted:
                assert frame.report is not None
            if frame.report is not None:
                assert frame.report.running_requests + frame.report.waiting_requests == accepted
        assert accepted == 10
        for call in calls:
            call.cancel()
        await reader.close()


async def test_reports_come_while_nothing_happens() -> None:
    async with running(report_period_s=0.01) as replica:
        reader = Reader(replica)
        await asyncio.sleep(0.1)
        assert len([frame for frame in reader.frames if frame.report is not None]) >= 5
        await reader.close()


async def test_requests_may_come_before_their_gateway_reads() -> None:
    async with running() as replica:
        await replica.generate(request([1, 2, 3], 3), 1, GATEWAY)
        reader = Reader(replica)
        await asyncio.sleep(0.02)
        assert reader.token_ids(1) == [1, 2, 3]
        assert reader.frames[0].accepted == [1]
        await reader.close()


async def test_cancelling_a_call_aborts_it_and_leaves_nothing() -> None:
    async with running(decode_step_s=0.001) as replica:
        reader = Reader(replica)
        for i in range(200):
            call = asyncio.create_task(replica.generate(request([1], 1000), i, GATEWAY))
            await asyncio.sleep(0.001 * (i % 4))
            call.cancel()
        await until_idle(replica)
        report = (await replica.status()).report
        assert report.running_requests == report.waiting_requests == report.context_tokens == 0
        await reader.close()


async def test_a_bad_request_fails_its_own_stream_only() -> None:
    async with running() as replica:
        reader = Reader(replica)
        good = replica.generate(request([1]), 1, GATEWAY)
        bad = replica.generate(request([]), 2, GATEWAY)
        assert list(await asyncio.gather(good, bad)) == [8, 0]
        await asyncio.sleep(0.01)
        (part,) = reader.parts(2)
        assert part.error is not None
        assert part.error[0] == "EngineRejectedError"
        assert reader.token_ids(1) == [1] * 8
        await reader.close()


async def test_requests_of_a_gateway_that_stopped_reading_are_aborted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica_module, "GATEWAY_GRACE_S", 0.05)
    async with running(decode_step_s=0.001) as replica:
        reader, other = Reader(replica), Reader(replica, "other")
        lost = asyncio.create_task(replica.generate(request([1], 1000), 1, GATEWAY))
        kept = asyncio.create_task(replica.generate(request([2], 100), 1, "other"))
        await asyncio.sleep(0.01)
        await reader.close()
        await asyncio.wait([lost])
        assert lost.cancelled()
        assert await kept == 100
        assert (await replica.status()).gateways == ["other"]
        await other.close()
        await asyncio.sleep(0.1)
        assert (await replica.status()).gateways == []


async def test_a_gateway_that_reads_again_in_time_loses_nothing_that_is_pending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica_module, "GATEWAY_GRACE_S", 0.2)
    async with running(decode_step_s=0.001) as replica:
        reader = Reader(replica)
        call = asyncio.create_task(replica.generate(request([1, 2], 100), 1, GATEWAY))
        await asyncio.sleep(0.02)
        await reader.close()
        again = Reader(replica)
        assert await call == 100
        await asyncio.sleep(0.01)
        token_ids = [*reader.token_ids(1), *again.token_ids(1)]
        assert token_ids == [1, 2] * 50
        await again.close()


async def test_a_second_reader_takes_over() -> None:
    async with running(report_period_s=0.01) as replica:
        first, second = Reader(replica), Reader(replica)
        await asyncio.wait([first.task], timeout=1)
        assert first.task.done()
        await replica.generate(request([1]), 1, GATEWAY)
        await asyncio.sleep(0.01)
        assert second.token_ids(1) == [1] * 8
        await second.close()


async def test_a_gateway_that_never_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "GATEWAY_START_S", 0.05)
    async with running(decode_step_s=0.001) as replica:
        call = asyncio.create_task(replica.generate(request([1], 1000), 1, GATEWAY))
        await asyncio.wait([call])
        assert call.cancelled()
        assert (await replica.status()).gateways == []


async def test_what_a_cancelled_call_has_used_is_told_to_its_gateway() -> None:
    async with running(decode_step_s=0.001, report_period_s=0.01) as replica:
        reader = Reader(replica)
        call = asyncio.create_task(replica.generate(request([1, 2], 1000), 7, GATEWAY))
        await asyncio.sleep(0.05)
        call.cancel()
        await until_idle(replica)
        await asyncio.sleep(0.05)
        told = [dropped for frame in reader.frames for dropped in frame.dropped]
        assert [stream for stream, _ in told] == [7]
        assert told[0][1].energy_j > 0
        await reader.close()


async def test_a_report_says_how_energy_is_known() -> None:
    counter = RecordedCounter([Recorded(0.0, 0), Recorded(1.0, 50 * NJ), Recorded(2.0, None)])
    meter = CountersMeter("nvml", "gpu", [counter])
    meter.sample(0.0)
    now_s = [0.0]
    books = Telemetry(
        LoadMeter(0.0, counted=True),
        Ledger(STEPS, 10.0, "model", "gpu", meter),
        lambda: now_s[0],
    )
    books.ledger.admit("a", 10, 0.0)
    books.observe(EngineStep(0.5, 10, 1, 1, 1, 0, 0.0))
    now_s[0] = 1.0
    meter.sample(1.0)
    report = books.report()
    assert (report.energy_method, report.energy_boundary) == ("nvml", "gpu")
    assert (report.devices, report.meter_trouble) == (("recorded",), "")
    assert (report.energy_j, report.residual_j) == (50.0, 0.0)
    assert 0 < report.idle_j < 50.0
    assert report.totals.busy_j == pytest.approx(50.0 - report.idle_j)
    meter.sample(2.0)
    assert "recorded" in books.report().meter_trouble
