"""One HTTP/2 connection as gRPC uses it, from the client's side.

hyperframe and hpack (of Python's HTTP/2 project) read and write its frames and headers. What is
here is what they leave open: which frame belongs to which call, how much may be sent, where a
message ends. (Their third part, h2, knows this too, but drops the streams that a server which
closes a connection still serves, and these are to be counted.)

Its own module because it knows HTTP/2 and gRPC's use of it, and nothing of models.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import unquote_to_bytes

import grpc
from hpack import Decoder, HPACKError
from hyperframe.exceptions import HyperframeError
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

from loadtest.live.grpc_call import Call, Placer

if TYPE_CHECKING:
    from collections.abc import Mapping

# A proxy may hold back the streams of one connection beyond some number (HAProxy: 100).
MOST_STREAMS = 64
# A message that is longer is refused, as the API's client does.
MOST_MESSAGE_BYTES = 64 * 1024 * 1024

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD_BYTES = 9  # Of a frame.
_PREFIX_BYTES = 5  # Of a message: whether it is compressed, and its length.
# HTTP/2's own defaults, and what a peer may not exceed that has been told of no others.
_FRAME_BYTES = 16_384
_WINDOW_BYTES = 65_535
# No reply waits for leave to be sent: windows as large as they can be, renewed at half.
_OUR_WINDOW_BYTES = 2**31 - 1
_MOST_BLOCK_BYTES = 65_536  # Of headers.
_CANCEL, _REFUSED_STREAM, _ENHANCE_YOUR_CALM = 8, 7, 11
_OK_HTTP = 200
_INFORMATION = range(100, 200)

_STATUS = {code.value[0]: code for code in grpc.StatusCode}
# What a reply without a status of gRPC comes to, by the HTTP status that it has instead.
_OF_HTTP = {
    400: grpc.StatusCode.INTERNAL,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    429: grpc.StatusCode.UNAVAILABLE,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.UNAVAILABLE,
}
_OF_RESET = {
    _CANCEL: grpc.StatusCode.CANCELLED,
    _ENHANCE_YOUR_CALM: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class Owner(Placer, Protocol):
    """Has connections."""

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""


class Connection(asyncio.Protocol):
    """One connection; calls wait in it until the peer has told its settings."""

    def __init__(self, owner: Owner) -> None:
        """Expect a transport."""
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[Call, None] = {}
        self._calls: dict[int, Call] = {}
        self._settled = False
        self._leaving = False
        self._next_stream = 1
        self._most_streams = MOST_STREAMS
        self._frame_bytes = _FRAME_BYTES
        self._window_bytes = _WINDOW_BYTES
        self._stream_window_bytes = _WINDOW_BYTES
        self._unacknowledged_bytes = 0
        self._decoder = Decoder()
        self._block = b""
        self._block_ends_stream = False
        self._unread = b""
        self._now_s = 0.0

    # ── of its owner and its calls ──────────────────────────────────────────

    @property
    def streams(self) -> int:
        """How many calls it has."""
        return len(self._calls) + len(self._waiting)

    @property
    def has_room(self) -> bool:
        """Whether it takes another call."""
        return not self._leaving and self.streams < self._most_streams

    def begin(self, call: Call) -> None:
        """Send a call, at once or as soon as there is a connection."""
        call.placed(self)
        if not self._settled:
            self._waiting[call] = None
            return
        call.stream = self._next_stream
        call.window_bytes = self._stream_window_bytes
        self._next_stream += 2
        self._calls[call.stream] = call
        self._write(HeadersFrame(call.stream, call.head, flags=("END_HEADERS",)))
        self._pump(call)

    def reset(self, call: Call) -> None:
        """Tell the peer that nobody waits for the rest of a stream."""
        if call.stream in self._calls:
            self._write(RstStreamFrame(call.stream, _CANCEL))

    def forget(self, call: Call) -> None:
        """Have nothing more to do with a call."""
        self._waiting.pop(call, None)
        self._calls.pop(call.stream, None)
        if self._leaving and not self.streams:
            self.drop()

    def fail(self, reason: str) -> None:
        """End every call that it has, and itself."""
        self._leaving = True
        self._owner.closed(self)
        for call in (*self._waiting, *self._calls.values()):
            call.end(grpc.StatusCode.UNAVAILABLE, reason)
        self.drop()

    def drop(self) -> None:
        """Close it."""
        self._leaving = True
        if self._transport is not None:
            self._transport.abort()

    # ── of the transport ────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say what we are; the peer does the same."""
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(_PREFACE)
        settings = {
            SettingsFrame.ENABLE_PUSH: 0,
            SettingsFrame.INITIAL_WINDOW_SIZE: _OUR_WINDOW_BYTES,
        }
        self._write(SettingsFrame(settings=settings))
        self._write(WindowUpdateFrame(0, _OUR_WINDOW_BYTES - _WINDOW_BYTES))

    def data_received(self, data: bytes) -> None:
        """Take the frames that are complete."""
        self._now_s = time.monotonic()
        if self._unread:
            data = self._unread + data
        view, at = memoryview(data), 0
        try:
            while len(view) - at >= _HEAD_BYTES:
                begin = at + _HEAD_BYTES
                frame, length = Frame.parse_frame_header(view[at:begin])
                if length > _FRAME_BYTES:
                    self.fail("the server speaks no HTTP/2")
                    return
                if len(view) < begin + length:
                    break
                frame.parse_body(view[begin : begin + length])
                at = begin + length
                self._take(frame)
        except (HyperframeError, HPACKError, ValueError) as error:
            self.fail(f"no HTTP/2: {error}")
            return
        self._unread = data[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        """End what was in flight."""
        self._transport = None
        self.fail("the connection broke")

    def _write(self, frame: Frame) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame.serialize())

    # ── sending ─────────────────────────────────────────────────────────────

    def _pump(self, call: Call) -> None:
        """Send as much of a message as both windows allow."""
        while call.sent_bytes < len(call.message):
            room = min(self._window_bytes, call.window_bytes, self._frame_bytes)
            if room <= 0:
                return
            part = call.message[call.sent_bytes : call.sent_bytes + room]
            call.sent_bytes += len(part)
            call.window_bytes -= len(part)
            self._window_bytes -= len(part)
            last = call.sent_bytes == len(call.message)
            self._write(DataFrame(call.stream, part, flags=("END_STREAM",) if last else ()))

    def _pump_all(self) -> None:
        for call in tuple(self._calls.values()):
            self._pump(call)

    # ── receiving ───────────────────────────────────────────────────────────

    def _take(self, frame: Frame) -> None:
        match frame:
            case HeadersFrame() | ContinuationFrame():
                self._headers(frame)
            case DataFrame():
                self._acknowledge(frame.flow_controlled_length)
                if call := self._calls.get(frame.stream_id):
                    self._data(call, frame)
            case RstStreamFrame():
                if call := self._calls.get(frame.stream_id):
                    self._was_reset(call, frame.error_code)
            case WindowUpdateFrame():
                self._widen(frame.stream_id, frame.window_increment)
            case SettingsFrame() | PingFrame() | GoAwayFrame():
                self._manage(frame)

    def _manage(self, frame: SettingsFrame | PingFrame | GoAwayFrame) -> None:
        """Heed what is said of the connection, not of a stream."""
        if "ACK" in frame.flags:
            return
        match frame:
            case SettingsFrame():
                self._settle(frame.settings)
            case PingFrame():
                self._write(PingFrame(opaque_data=frame.opaque_data, flags=("ACK",)))
            case GoAwayFrame():
                self._go_away(frame.last_stream_id)

    def _settle(self, settings: Mapping[int, int]) -> None:
        """Take over what the peer says of itself; the first time, begin."""
        most = settings.get(SettingsFrame.MAX_CONCURRENT_STREAMS, self._most_streams)
        self._most_streams = max(1, min(most, MOST_STREAMS))
        self._frame_bytes = settings.get(SettingsFrame.MAX_FRAME_SIZE, self._frame_bytes)
        window_bytes = settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, self._stream_window_bytes)
        for call in self._calls.values():
            call.window_bytes += window_bytes - self._stream_window_bytes
        self._stream_window_bytes = window_bytes
        self._write(SettingsFrame(flags=("ACK",)))
        if self._settled:
            self._pump_all()
            return
        self._settled = True
        waiting, self._waiting = self._waiting, {}
        for call in waiting:
            if self.has_room:
                self.begin(call)
            else:
                self._owner.place(call)

    def _widen(self, stream: int, more_bytes: int) -> None:
        if not stream:
            self._window_bytes += more_bytes
            self._pump_all()
        elif call := self._calls.get(stream):
            call.window_bytes += more_bytes
            self._pump(call)

    def _acknowledge(self, received_bytes: int) -> None:
        """Let the peer send on; a stream's own window is larger than any reply."""
        self._unacknowledged_bytes += received_bytes
        if self._unacknowledged_bytes > _OUR_WINDOW_BYTES // 2:
            self._write(WindowUpdateFrame(0, self._unacknowledged_bytes))
            self._unacknowledged_bytes = 0

    def _data(self, call: Call, frame: DataFrame) -> None:
        """Hand on the messages that are complete."""
        if call.http_status == _OK_HTTP:
            call.partial += frame.data
            while (message := self._message(call)) is not None:
                call.heard(self._now_s, message)
        if "END_STREAM" in frame.flags:
            self._over(call, {})

    def _message(self, call: Call) -> bytes | None:
        """Take a message off what has come; None if none is complete."""
        unread = call.partial
        if len(unread) < _PREFIX_BYTES:
            return None
        end = _PREFIX_BYTES + int.from_bytes(unread[1:_PREFIX_BYTES])
        if unread[0] or end > MOST_MESSAGE_BYTES:
            what = "is compressed" if unread[0] else f"has {end} bytes"
            call.end(grpc.StatusCode.INTERNAL, f"a message that {what}", reset=True)
            return None
        if len(unread) < end:
            return None
        message = bytes(unread[_PREFIX_BYTES:end])
        del unread[:end]
        return message

    def _headers(self, frame: HeadersFrame | ContinuationFrame) -> None:
        """Read a block of headers when it is complete; those of all streams share a table."""
        self._block += frame.data
        if len(self._block) > _MOST_BLOCK_BYTES:
            raise ValueError("headers without an end")
        self._block_ends_stream |= "END_STREAM" in frame.flags
        if "END_HEADERS" not in frame.flags:
            return
        fields = dict(self._decoder.decode(self._block, raw=True))
        ends_stream = self._block_ends_stream
        self._block, self._block_ends_stream = b"", False
        call = self._calls.get(frame.stream_id)
        if call is None:
            return
        status = int(fields.get(b":status", b"0"))
        if status not in _INFORMATION:
            call.http_status = status or call.http_status
        if ends_stream:
            self._over(call, fields)

    # ── ends ────────────────────────────────────────────────────────────────

    def _over(self, call: Call, trailers: Mapping[bytes, bytes]) -> None:
        """End a call as its trailers say."""
        number, details = trailers.get(b"grpc-status"), trailers.get(b"grpc-message", b"")
        if number is not None:
            code = _STATUS.get(int(number), grpc.StatusCode.UNKNOWN)
            said = unquote_to_bytes(details).decode(errors="replace")
        elif call.http_status != _OK_HTTP:
            code = _OF_HTTP.get(call.http_status, grpc.StatusCode.UNKNOWN)
            said = f"HTTP {call.http_status}"
        else:
            code, said = grpc.StatusCode.UNKNOWN, "the stream ended without its status"
        call.end(code, said, reset=call.sent_bytes < len(call.message))

    def _was_reset(self, call: Call, error_code: int) -> None:
        if error_code == _REFUSED_STREAM:
            call.refused("the server refuses another stream")
        else:
            code = _OF_RESET.get(error_code, grpc.StatusCode.INTERNAL)
            call.end(code, f"the server reset the stream (HTTP/2 error {error_code})")

    def _go_away(self, last_stream: int) -> None:
        """Take no more calls; those that the peer has begun go on to their ends."""
        self._leaving = True
        for call in tuple(self._calls.values()):
            if call.stream > last_stream:
                call.refused("the server closes the connection")
        if not self.streams:
            self.drop()
