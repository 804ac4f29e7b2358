"""The bytes of a cached value and the key it lies under.

A value is `magic | key digest | checksum | n_tokens, n_fired | token i32 | column i32 | value f32`, little-endian.
Both digests are checked on reading: a cache that answers with another key's value, an old schema, or flipped bits
is caught (the class of CVE-2023-28858) and counts as a miss.
"""

import hashlib
import hmac
import json
import struct
from dataclasses import asdict

import numpy as np

from scopewatch.types import Activations, EngineIdentity, TokenisedPair

SCHEMA = b"scw1"
_HEADER = struct.Struct("<4s32s16sII")


class CorruptValue(ValueError):
    """Cached bytes that are not what this key's producer wrote."""


class CacheKeys:
    """Makes keys: HMAC-SHA256 over everything that produced a value.

    Args:
        identity: Reader and SAEs as they run, digests included.
        secret: Stops others who can read the cache from guessing which texts were scored.
    """

    def __init__(self, identity: EngineIdentity, secret: bytes) -> None:
        canonical = json.dumps(asdict(identity), sort_keys=True, separators=(",", ":")).encode()
        self._producer = hashlib.sha256(SCHEMA + canonical).digest()
        self._secret = secret

    def key(self, tokens: TokenisedPair) -> bytes:
        """32 bytes; equal token ids under an equal engine give an equal key."""
        message = self._producer + tokens.ids.astype("<i4").tobytes()
        return hmac.digest(self._secret, message, "sha256")


def dump(key: bytes, activations: Activations) -> bytes:
    """The value to store under `key`."""
    body = (
        activations.token.astype("<i4").tobytes()
        + activations.column.astype("<i4").tobytes()
        + activations.value.astype("<f4").tobytes()
    )
    shape = struct.pack("<II", activations.n_tokens, len(activations.token))
    return _HEADER.pack(SCHEMA, key, _checksum(key, shape + body), activations.n_tokens, len(activations.token)) + body


def load(key: bytes, value: bytes, n_tokens: int, n_features: int) -> Activations:
    """The inverse of `dump`.

    Raises:
        CorruptValue: When the bytes were not written for this key by this schema, or do not fit the pair.
    """
    if len(value) < _HEADER.size:
        raise CorruptValue("shorter than its header")
    magic, stored_key, checksum, tokens, fired = _HEADER.unpack_from(value)
    body = value[_HEADER.size :]
    if magic != SCHEMA or not hmac.compare_digest(stored_key, key):
        raise CorruptValue("written for another key or schema")
    if tokens != n_tokens or len(body) != 12 * fired:
        raise CorruptValue("of another shape")
    if not hmac.compare_digest(checksum, _checksum(key, struct.pack("<II", tokens, fired) + body)):
        raise CorruptValue("changed since it was written")
    token, column = (np.frombuffer(body, "<i4", fired, offset) for offset in (0, 4 * fired))
    activations = np.frombuffer(body, "<f4", fired, 8 * fired)
    if fired and (column.max() >= n_features or token.max() >= n_tokens or min(token.min(), column.min()) < 0):
        raise CorruptValue("indices out of range")
    return Activations(tokens, token, column, activations)


def _checksum(key: bytes, payload: bytes) -> bytes:
    return hmac.digest(key, payload, "sha256")[:16]
