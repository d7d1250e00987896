"""The load generator's gRPC calls: against gRPC's own server, and against a peer with a script."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc import aio
from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given
from hypothesis import strategies as st

from loadtest.live.grpc_streams import ROOTS, Connections, endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

METHOD = "/test.Service/Call"
LIMIT_S = 10.0
OK = grpc.StatusCode.OK


@dataclass
class Heard:
    """Implements `Listener`."""

    messages: list[bytes] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)
    sent_at_s: list[float] = field(default_factory=list)
    end: asyncio.Future[tuple[grpc.StatusCode, str]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def sent(self, now_s: float) -> None:
        self.sent_at_s.append(now_s)

    def message(self, now_s: float, message: bytes) -> None:
        self.at_s.append(now_s)
        self.messages.append(message)

    def done(self, now_s: float, code: grpc.StatusCode, details: str) -> None:
        self.at_s.append(now_s)
        self.end.set_result((code, details))

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        async with asyncio.timeout(LIMIT_S):
            return await self.end


@asynccontextmanager
async def connections(address: str, **metadata: str) -> AsyncIterator[Connections]:
    made = Connections(endpoint(address, METHOD, metadata, tls=False))
    try:
        yield made
    finally:
        await made.close()


# ─── gRPC's own server ───────────────────────────────────────────────────────


@asynccontextmanager
async def server(
    answer: Callable[[bytes, Any], AsyncIterator[bytes]],
    credentials: grpc.ServerCredentials | None = None,
    **options: int,
) -> AsyncIterator[str]:
    """Serve one method, without serializers."""
    made = aio.server(options=[(f"grpc.{name}", value) for name, value in options.items()])
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(answer)
    made.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Service", {"Call": handler}),)
    )
    place = "127.0.0.1:0"
    if credentials is None:
        port = made.add_insecure_port(place)
    else:
        port = made.add_secure_port(place, credentials)
    await made.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await made.stop(None)


async def echo(request: bytes, _: Any) -> AsyncIterator[bytes]:
    yield b""
    yield request
    yield b"end"


@pytest.mark.parametrize("size", [0, 1, 16_384, 65_535, 1_000_000])
async def test_messages_of_every_size_go_to_and_fro(size: int) -> None:
    body = bytes(each % 251 for each in range(size))
    async with server(echo) as address, connections(address) as made:
        heard = Heard()
        made.send(body, LIMIT_S, heard)
        assert await heard.ended() == (OK, "")
    assert heard.messages == [b"", body, b"end"]
    assert [*heard.sent_at_s, *heard.at_s] == sorted([*heard.sent_at_s, *heard.at_s])
    assert len(heard.sent_at_s) == 1


async def test_many_calls_at_a_time_do_not_mix() -> None:
    bodies = [f"{number} ".encode() * (1 + 977 * number % 40_000) for number in range(200)]
    async with server(echo) as address, connections(address) as made:
        heard = [Heard() for _ in bodies]
        for body, each in zip(bodies, heard, strict=True):
            made.send(body, LIMIT_S, each)
        assert {await each.ended() for each in heard} == {(OK, "")}
    assert [each.messages[1] for each in heard] == bodies


@pytest.mark.parametrize("most", [1, 3])
async def test_a_server_that_takes_few_streams_gets_no_more_at_a_time(most: int) -> None:
    running: set[str] = set()
    peers: set[str] = set()

    async def slow(_: bytes, context: Any) -> AsyncIterator[bytes]:
        peers.add(context.peer())
        running.add(str(id(context)))
        await asyncio.sleep(0.05)
        running.discard(str(id(context)))
        yield b"done"

    async with (
        server(slow, max_concurrent_streams=most) as address,
        connections(address) as made,
    ):
        heard = [Heard() for _ in range(10)]
        for each in heard:
            made.send(b"", LIMIT_S, each)
        assert {await each.ended() for each in heard} == {(OK, "")}
    assert len(peers) >= 10 / most


async def test_metadata_and_the_deadline_are_told() -> None:
    told: dict[str, Any] = {}

    async def tell(_: bytes, context: Any) -> AsyncIterator[bytes]:
        told.update(context.invocation_metadata())
        told["left_s"] = context.time_remaining()
        yield b"done"

    async with server(tell) as address, connections(address, authorization="Bearer k") as made:
        heard = Heard()
        made.send(b"", LIMIT_S, heard)
        assert await heard.ended() == (OK, "")
    assert told["authorization"] == "Bearer k"
    assert LIMIT_S / 2 < told["left_s"] <= LIMIT_S


async def test_an_error_is_told_with_its_words() -> None:
    async def refuse(_: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room – 100 %\nat all")

    async with server(refuse) as address, connections(address) as made:
        heard = Heard()
        made.send(b"", LIMIT_S, heard)
        code, details = await heard.ended()
    assert (code, details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "no room – 100 %\nat all")
    assert heard.messages == [b"first"]


async def test_a_method_that_is_not_there_is_told() -> None:
    async with server(echo) as address:
        made = Connections(endpoint(address, "/test.Service/Other", {}, tls=False))
        heard = Heard()
        made.send(b"", LIMIT_S, heard)
        assert (await heard.ended())[0] is grpc.StatusCode.UNIMPLEMENTED
        await made.close()


async def test_a_deadline_ends_a_call_at_both_ends() -> None:
    gone = asyncio.Event()

    async def hang(_: bytes, __: Any) -> AsyncIterator[bytes]:
        yield b"first"
        try:
            await asyncio.sleep(LIMIT_S)
        finally:
            gone.set()

    async with server(hang) as address, connections(address) as made:
        heard = Heard()
        made.send(b"", 0.2, heard)
        assert (await heard.ended())[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        async with asyncio.timeout(LIMIT_S):
            await gone.wait()
    assert heard.messages == [b"first"]


async def test_a_cancelled_call_hears_nothing_and_the_server_is_told() -> None:
    begun, gone = asyncio.Event(), asyncio.Event()

    async def hang(_: bytes, __: Any) -> AsyncIterator[bytes]:
        begun.set()
        try:
            await asyncio.sleep(LIMIT_S)
        finally:
            gone.set()
        yield b"late"

    async with server(hang) as address, connections(address) as made:
        heard, other = Heard(), Heard()
        call = made.send(b"", LIMIT_S, heard)
        async with asyncio.timeout(LIMIT_S):
            await begun.wait()
            call.cancel()
            call.cancel()
            await gone.wait()
        made.send(b"", 0.2, other)
        await other.ended()
    assert not heard.messages
    assert not heard.end.done()


async def test_a_server_that_is_not_there_is_told() -> None:
    async with connections("127.0.0.1:1") as made:
        heard = Heard()
        made.send(b"", LIMIT_S, heard)
        code, details = await heard.ended()
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "no connection" in details


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, grpc.ServerCredentials]:
    """Make a certificate for this machine that nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file = tmp_path / "certificate.pem"
    file.write_bytes(pem)
    return file, grpc.ssl_server_credentials([(private, pem)])


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_server_with_tls_has_to_be_trusted(
    certificate: tuple[Path, grpc.ServerCredentials],
    monkeypatch: pytest.MonkeyPatch,
    *,
    trusted: bool,
) -> None:
    file, credentials = certificate
    if trusted:
        monkeypatch.setenv(ROOTS, str(file))
    async with server(echo, credentials) as address:
        made = Connections(endpoint(address, METHOD, {}, tls=True))
        heard = Heard()
        made.send(b"hello", LIMIT_S, heard)
        code, details = await heard.ended()
        await made.close()
    if trusted:
        assert (code, heard.messages) == (OK, [b"", b"hello", b"end"])
    else:
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "certificate" in details.lower()


# ─── a peer with a script ────────────────────────────────────────────────────


class Peer:
    """The server's side of one connection, frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.decoder = Decoder()
        self.encoder = Encoder()

    async def begin(self, **settings: int) -> None:
        """Take the preface; give settings."""
        assert (await self._reader.readexactly(24)).startswith(b"PRI * HTTP/2.0")
        told = {getattr(SettingsFrame, name.upper()): value for name, value in settings.items()}
        self.write(SettingsFrame(settings=told))

    def write(self, *frames: Frame) -> None:
        self.write_bytes(b"".join(frame.serialize() for frame in frames))

    def write_bytes(self, data: bytes) -> None:
        self._writer.write(data)

    async def frame(self, kind: type[Frame]) -> Any:
        """Read until there is one of a kind."""
        while True:
            frame, length = Frame.parse_frame_header(memoryview(await self._reader.readexactly(9)))
            frame.parse_body(memoryview(await self._reader.readexactly(length)))
            if isinstance(frame, kind) and "ACK" not in frame.flags:
                return frame

    async def pong(self) -> bytes:
        """Read until a ping is answered."""
        while True:
            frame, length = Frame.parse_frame_header(memoryview(await self._reader.readexactly(9)))
            frame.parse_body(memoryview(await self._reader.readexactly(length)))
            if isinstance(frame, PingFrame) and "ACK" in frame.flags:
                return frame.opaque_data

    def head(self, stream: int) -> None:
        fields = [(":status", "200"), ("content-type", "application/grpc")]
        self.write(HeadersFrame(stream, self.encoder.encode(fields), flags=("END_HEADERS",)))

    def tail(self, stream: int) -> None:
        """Give the trailers, in two frames."""
        block = self.encoder.encode([("grpc-status", "0")])
        self.write(
            HeadersFrame(stream, block[:1], flags=("END_STREAM",)),
            ContinuationFrame(stream, block[1:], flags=("END_HEADERS",)),
        )

    def answer(self, stream: int, *messages: bytes) -> None:
        self.head(stream)
        self.write(*(DataFrame(stream, prefixed(message)) for message in messages))
        self.tail(stream)

    def close(self) -> None:
        self._writer.close()


def prefixed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4) + message


@asynccontextmanager
async def scripted(*scripts: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[str]:
    """Serve connections, the first by the first script, and so on; more are refused."""
    left, running = list(scripts), []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not left:
            writer.close()
            return
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await left.pop(0)(Peer(reader, writer))

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.append(asyncio.create_task(serve(reader, writer)))

    made = await asyncio.start_server(begin, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{made.sockets[0].getsockname()[1]}"
    finally:
        made.close()
        for task in running:
            task.cancel()
        ends = await asyncio.gather(*running, return_exceptions=True)
        assert not [end for end in ends if isinstance(end, AssertionError)]


async def asked(
    scripts: Sequence[Callable[[Peer], Awaitable[None]]], calls: int = 1, body: bytes = b""
) -> list[tuple[grpc.StatusCode, str, list[bytes]]]:
    """Call a scripted peer, and give what came of it."""
    async with scripted(*scripts) as address, connections(address) as made:
        heard = [Heard() for _ in range(calls)]
        for each in heard:
            made.send(body, 5.0, each)
        return [(*await each.ended(), each.messages) for each in heard]


@given(
    messages=st.lists(st.binary(max_size=40), max_size=6),
    cuts=st.lists(st.integers(0, 200), max_size=8),
    padding=st.integers(0, 3),
)
def test_messages_are_the_same_however_they_are_cut_into_frames(
    messages: list[bytes], cuts: list[int], padding: int
) -> None:
    whole = b"".join(map(prefixed, messages))
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    parts = [whole[a:b] for a, b in itertools.pairwise(edges)]

    async def cut_up(peer: Peer) -> None:
        await peer.begin()
        stream = (await peer.frame(HeadersFrame)).stream_id
        peer.head(stream)
        for part in parts:
            frame = DataFrame(stream, part, flags=("PADDED",) if padding else ())
            frame.pad_length = padding
            peer.write(frame)
        peer.tail(stream)
        await peer.frame(GoAwayFrame)

    assert asyncio.run(asked([cut_up])) == [(OK, "", messages)]


async def test_windows_are_kept_and_a_message_goes_on_as_they_open() -> None:
    body = bytes(100_000)
    taken: list[int] = []

    async def narrow(peer: Peer) -> None:
        await peer.begin(initial_window_size=1000)
        got = 0
        while True:
            frame = await peer.frame(DataFrame)
            taken.append(len(frame.data))
            got += len(frame.data)
            if "END_STREAM" in frame.flags:
                break
            if got == sum(taken[:1]):  # Then the window of all streams, too, changes.
                peer.write(SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 3000}))
                await peer.frame(DataFrame)
                got += 2000
            peer.write(WindowUpdateFrame(0, 20_000), WindowUpdateFrame(frame.stream_id, 20_000))
        peer.answer(frame.stream_id, str(got).encode())
        await peer.frame(GoAwayFrame)

    ((code, _, messages),) = await asked([narrow], body=body)
    assert code is OK
    assert messages == [str(len(body) + 5).encode()]
    assert taken[0] == 1000
    assert max(taken) <= 16_384


async def test_what_a_closing_server_has_begun_ends_there_and_the_rest_goes_elsewhere() -> None:
    async def closing(peer: Peer) -> None:
        await peer.begin()
        first = (await peer.frame(HeadersFrame)).stream_id
        await peer.frame(HeadersFrame)
        peer.write(GoAwayFrame(last_stream_id=first))
        peer.answer(first, b"old")

    async def other(peer: Peer) -> None:
        await peer.begin()
        peer.answer((await peer.frame(HeadersFrame)).stream_id, b"new")
        await peer.frame(GoAwayFrame)

    assert await asked([closing, other], calls=2) == [(OK, "", [b"old"]), (OK, "", [b"new"])]


async def test_a_refused_stream_is_tried_once_more() -> None:
    async def refusing(peer: Peer) -> None:
        await peer.begin()
        for _ in range(2):
            stream = (await peer.frame(HeadersFrame)).stream_id
            peer.write(RstStreamFrame(stream, 7))
        await peer.frame(GoAwayFrame)

    ((code, details, _),) = await asked([refusing])
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "refuses" in details


@pytest.mark.parametrize(
    ("error_code", "code"),
    [
        (8, grpc.StatusCode.CANCELLED),
        (11, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (2, grpc.StatusCode.INTERNAL),
    ],
)
async def test_a_reset_stream_is_told(error_code: int, code: grpc.StatusCode) -> None:
    async def resetting(peer: Peer) -> None:
        await peer.begin()
        peer.write(RstStreamFrame((await peer.frame(HeadersFrame)).stream_id, error_code))
        await peer.frame(GoAwayFrame)

    ((found, details, _),) = await asked([resetting])
    assert found is code
    assert str(error_code) in details


async def test_a_connection_that_breaks_ends_its_calls() -> None:
    async def breaking(peer: Peer) -> None:
        await peer.begin()
        await peer.frame(HeadersFrame)
        peer.close()

    ended = await asked([breaking], calls=3)
    assert {(code, details) for code, details, _ in ended} == {
        (grpc.StatusCode.UNAVAILABLE, "the connection broke")
    }


async def test_after_a_connection_that_broke_there_is_another() -> None:
    async def once(peer: Peer) -> None:
        await peer.begin()
        peer.answer((await peer.frame(HeadersFrame)).stream_id, b"here")
        peer.close()

    async with scripted(once, once) as address, connections(address) as made:
        for _ in range(2):
            heard = Heard()
            made.send(b"", LIMIT_S, heard)
            assert await heard.ended() == (OK, "")
            await asyncio.sleep(0.05)


async def test_a_ping_is_answered() -> None:
    async def pinging(peer: Peer) -> None:
        await peer.begin()
        stream = (await peer.frame(HeadersFrame)).stream_id
        peer.write(PingFrame(opaque_data=b"12345678"))
        peer.answer(stream, await peer.pong())
        await peer.frame(GoAwayFrame)

    assert await asked([pinging]) == [(OK, "", [b"12345678"])]


async def test_a_server_of_another_protocol_is_told() -> None:
    async def http_1(peer: Peer) -> None:
        peer.write_bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.frame(GoAwayFrame)

    ((code, details, _),) = await asked([http_1])
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "speaks no HTTP/2" in details


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("503", grpc.StatusCode.UNAVAILABLE),
        ("401", grpc.StatusCode.UNAUTHENTICATED),
        ("418", grpc.StatusCode.UNKNOWN),
    ],
)
async def test_a_proxy_s_own_answer_is_told(status: str, code: grpc.StatusCode) -> None:
    async def proxy(peer: Peer) -> None:
        await peer.begin()
        stream = (await peer.frame(HeadersFrame)).stream_id
        block = peer.encoder.encode([(":status", status)])
        peer.write(
            HeadersFrame(stream, block, flags=("END_HEADERS",)),
            DataFrame(stream, b"<html>no server</html>", flags=("END_STREAM",)),
        )
        await peer.frame(GoAwayFrame)

    assert await asked([proxy]) == [(code, f"HTTP {status}", [])]


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"\1\0\0\0\1x", "compressed"), (b"\0\xff\xff\xff\xff", "4294967300 bytes")],
)
async def test_a_message_that_cannot_be_taken_is_told(data: bytes, reason: str) -> None:
    async def odd(peer: Peer) -> None:
        await peer.begin()
        stream = (await peer.frame(HeadersFrame)).stream_id
        peer.head(stream)
        peer.write(DataFrame(stream, data))
        await peer.frame(RstStreamFrame)

    ((code, details, messages),) = await asked([odd])
    assert code is grpc.StatusCode.INTERNAL
    assert reason in details
    assert not messages


async def test_headers_without_an_end_end_the_connection() -> None:
    async def endless(peer: Peer) -> None:
        await peer.begin()
        stream = (await peer.frame(HeadersFrame)).stream_id
        peer.write(HeadersFrame(stream, bytes(16_000)))
        while True:
            peer.write(ContinuationFrame(stream, bytes(16_000)))
            await asyncio.sleep(0)

    ((code, details, _),) = await asked([endless])
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "without an end" in details


async def test_a_silent_server_meets_the_deadline() -> None:
    async def silent(peer: Peer) -> None:
        await peer.frame(GoAwayFrame)

    async with scripted(silent) as address, connections(address) as made:
        heard = Heard()
        made.send(b"", 0.2, heard)
        assert (await heard.ended())[0] is grpc.StatusCode.DEADLINE_EXCEEDED
