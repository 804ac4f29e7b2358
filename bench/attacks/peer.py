"""One HTTP/2 connection, frame by frame, that can do what a well-behaved client cannot."""

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

SCORE = "/scopewatch.v1.MonitorService/Score"
BATCH_SCORE = "/scopewatch.v1.MonitorService/BatchScore"
CHECK = "/grpc.health.v1.Health/Check"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_LARGEST_WINDOW = (1 << 31) - 1
_FIRST_WINDOW = 65_535


def connected(address: str, timeout_s: float = 5.0) -> socket.socket:
    """A TCP connection to `host:port`."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout_s)


def grpc_message(body: bytes, *, compressed: bool = False) -> bytes:
    """A message as gRPC frames it: whether it is compressed, its length, the bytes."""
    return struct.pack(">BI", compressed, len(body)) + body


@dataclass(slots=True)
class Call:
    """What the server has said about one stream so far."""

    headers: dict[str, str] = field(default_factory=dict)
    """Headers and trailers together, such as `grpc-status`."""
    received_bytes: int = 0
    window: int = _FIRST_WINDOW
    reset: int | None = None
    """The code of the RST_STREAM frame, if there was one."""
    ended: bool = False

    @property
    def outcome(self) -> str:
        """`grpc-status 8`, `http 415`, `reset 7` or `nothing`."""
        for name, said in (("grpc-status", "grpc-status"), (":status", "http")):
            if self.ended and name in self.headers:
                return f"{said} {self.headers[name]}"
        return "nothing" if self.reset is None else f"reset {self.reset}"


class Peer:
    """A connection to a gRPC server; nothing is sent or read but when a method says so."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.calls: dict[int, Call] = {}
        self.goaway: tuple[int, bytes] | None = None
        """Error code and debug data of the server's GOAWAY."""
        self.closed = False
        """Whether the server has closed the connection."""
        self.pings_answered = 0
        self._socket = connected(address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._encoder, self._decoder = Encoder(), Decoder()
        self._next_stream = 1
        self._unread = b""
        self._header_block = b""
        self._window, self._initial_window, self.max_frame = _FIRST_WINDOW, _FIRST_WINDOW, 16_384
        self.write(_PREFACE + SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: _LARGEST_WINDOW}).serialize())
        self.send(WindowUpdateFrame(0, _LARGEST_WINDOW - _FIRST_WINDOW))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def write(self, wire: bytes) -> None:
        """Sends bytes as they are; a server that has hung up or does not read for 5 seconds sets `closed`."""
        if self.closed:
            return
        try:
            self._socket.settimeout(5)
            self._socket.sendall(wire)
        except OSError:
            self.closed = True

    def send(self, *frames: Frame) -> None:
        """Sends frames, none of them checked."""
        self.write(b"".join(frame.serialize() for frame in frames))

    def headers(self, method: str, extra: Sequence[tuple[str, str]] = ()) -> bytes:
        """The header block of a gRPC call."""
        usual = [(":method", "POST"), (":scheme", "http"), (":path", method), (":authority", self.address)]
        return bytes(self._encoder.encode([*usual, ("te", "trailers"), ("content-type", "application/grpc"), *extra]))

    def new_stream(self) -> int:
        """The number of the next stream, which the server's answers are kept for."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self.calls[stream] = Call(window=self._initial_window)
        return stream

    def open_call(self, method: str, extra: Sequence[tuple[str, str]] = ()) -> int:
        """Begins a call of a method; the number of its stream."""
        stream = self.new_stream()
        self.send(HeadersFrame(stream, self.headers(method, extra), flags=["END_HEADERS"]))
        return stream

    def send_data(self, stream: int, body: bytes, *, end: bool = True, timeout_s: float = 10.0) -> int:
        """Sends a body as fast as the server's windows allow; how many bytes of it went out."""
        call, sent, deadline_s = self.calls[stream], 0, time.monotonic() + timeout_s
        while sent < len(body) and not self.closed and not call.ended and time.monotonic() < deadline_s:
            size = min(len(body) - sent, self.max_frame, self._window, call.window)
            if size <= 0:
                self.read_until(lambda: min(self._window, call.window) > 0 or call.ended, 0.1)
                continue
            sent += size
            self._window, call.window = self._window - size, call.window - size
            last = ["END_STREAM"] if end and sent == len(body) else []
            self.send(DataFrame(stream, body[sent - size : sent], flags=last))
        return sent

    def read_until(self, enough: Callable[[], bool], timeout_s: float) -> bool:
        """Takes in what the server sends until there is enough, the connection is closed or the time is over.

        Returns:
            Whether there was enough.
        """
        deadline_s = time.monotonic() + timeout_s
        while not enough():
            left_s = deadline_s - time.monotonic()
            if self.closed or left_s <= 0:
                return False
            self._socket.settimeout(left_s)
            with contextlib.suppress(TimeoutError):
                self._take_in(self._read())
        return True

    def read_answers(self, timeout_s: float) -> None:
        """Takes in what the server sends until every call has its answer."""
        self.read_until(lambda: all(call.ended for call in self.calls.values()), timeout_s)

    def outcomes(self) -> dict[str, int]:
        """How many calls ended how."""
        found: dict[str, int] = {}
        for call in self.calls.values():
            found[call.outcome] = found.get(call.outcome, 0) + 1
        return found

    def _read(self) -> bytes:
        try:
            piece = self._socket.recv(1 << 18)
        except ConnectionError:
            piece = b""
        self.closed = not piece
        return piece

    def _take_in(self, piece: bytes) -> None:
        self._unread += piece
        while len(self._unread) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(self._unread[:9]))
            if len(self._unread) < 9 + length:
                return
            frame.parse_body(memoryview(self._unread[9 : 9 + length]))
            self._unread = self._unread[9 + length :]
            self._take_frame(frame)

    def _take_frame(self, frame: Frame) -> None:
        call = self.calls.get(frame.stream_id, Call())
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self._take_settings(frame.settings)
        elif isinstance(frame, PingFrame):
            self.pings_answered += "ACK" in frame.flags
            if "ACK" not in frame.flags:
                self.send(PingFrame(0, frame.opaque_data, flags=["ACK"]))
        elif isinstance(frame, WindowUpdateFrame):
            if frame.stream_id:
                call.window += frame.window_increment
            else:
                self._window += frame.window_increment
        elif isinstance(frame, GoAwayFrame):
            self.goaway = (frame.error_code, frame.additional_data)
        elif isinstance(frame, RstStreamFrame):
            call.reset, call.ended = frame.error_code, True
        elif hasattr(frame, "data"):
            self._take_answer(frame, call)

    def _take_settings(self, settings: dict[int, int]) -> None:
        self.max_frame = settings.get(SettingsFrame.MAX_FRAME_SIZE, self.max_frame)
        larger = settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, self._initial_window) - self._initial_window
        self._initial_window += larger
        for call in self.calls.values():
            call.window += larger
        self.send(SettingsFrame(0, flags=["ACK"]))

    def _take_answer(self, frame: Frame, call: Call) -> None:
        if isinstance(frame, DataFrame):
            call.received_bytes += len(frame.data)
        else:
            self._header_block += frame.data
            if "END_HEADERS" in frame.flags:
                call.headers.update(self._decoder.decode(self._header_block))
                self._header_block = b""
        call.ended = call.ended or "END_STREAM" in frame.flags
