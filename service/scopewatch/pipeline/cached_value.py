"""The bytes of a cached value and the key it lies under.

A value is, little-endian,

    magic | key | MAC | n_tokens, n_fired, table bytes u32 | table | token i32 | column i32 | value f32

and its table says which features it covers: for each run of columns of one producer the producer's 16 bytes, how many
features u32 and their indices i32. So a value serves every watchlist whose features it covers, whatever else was
watched when it was written. The MAC covers all the rest under the cache's secret: whoever can write to the cache cannot
say what a text makes fire. What is read is checked: another key's value, an old schema, flipped bits (the class of
CVE-2023-28858) and a value that somebody else made up are caught and count as misses.
"""

import hashlib
import hmac
import json
import struct
from itertools import groupby

import numpy as np

from scopewatch.identity import FeatureId, FeatureTable, ReaderIdentity
from scopewatch.pipeline.lru import Lru
from scopewatch.types import Activations, CoveredActivations, TokenisedPair

SCHEMA = b"scw4"
_HEADER = struct.Struct("<4s32s16sIII")
_SHAPE = struct.Struct("<III")
_RUN = struct.Struct("<16sI")
_DEPTH = (
    "digest",
    "layers_run",
    "layer_digests",
    "layers_total",
    "chat_template",
    "template_digest",
    "rendering_digest",
)
"""What differs between readers that are loaded to different depths, or says nothing about token ids: each feature's
producer stands for the layers below it."""
_TABLES_BYTES = 4 << 20
"""Size of the tables of other writers that are remembered; one of a thousand features takes 100 kB as objects."""


class CorruptValue(ValueError):
    """Cached bytes that are not what this key's producer wrote."""


class CachedValues:
    """Makes keys and values of the cache, and reads values back.

    A key is HMAC-SHA256 over the reader, the tenant and the token ids. It leaves out which features are watched, which
    the value says, so that dropping a feature empties no cache.

    Args:
        reader: The reader as it runs, digests included.
        secret: Stops others who can reach the cache from guessing which texts were scored, and from making up values.
    """

    def __init__(self, reader: ReaderIdentity, secret: bytes) -> None:
        decides = {name: value for name, value in reader.decides.items() if name not in _DEPTH}
        decides["embedding"] = reader.layer_digests[0] if reader.layer_digests else reader.digest
        canonical = json.dumps(decides, sort_keys=True, separators=(",", ":")).encode()
        self._producer = hashlib.sha256(SCHEMA + canonical).digest()
        # Two uses, two keys, as in HKDF (RFC 5869).
        self._naming, self._signing = (hmac.digest(secret, use, "sha256") for use in (b"cache key", b"cached value"))
        self._tables = Lru[FeatureTable](_TABLES_BYTES, lambda table: 100 * len(table.features))
        self._written: tuple[FeatureTable, bytes] = (FeatureTable(), b"")

    def key(self, tokens: TokenisedPair, tenant: str) -> bytes:
        """32 bytes; equal token ids of one tenant under an equal reader give an equal key.

        Args:
            tokens: The pair as it is read.
            tenant: Whose callers share the value; empty where there are no tenants.
        """
        whose, ids = tenant.encode("utf-8", "surrogatepass"), tokens.ids.astype("<i4").tobytes()
        windows = np.array(tokens.window_tokens, "<i4").tobytes()
        # The lengths, or the end of one part could be the beginning of the next.
        message = self._producer + struct.pack("<II", len(whose), len(ids)) + whose + ids + windows
        return hmac.digest(self._naming, message, "sha256")

    def dump(self, key: bytes, covered: CoveredActivations) -> bytes:
        """The value to store under `key`."""
        activations = covered.activations
        if self._written[0] is not covered.table:
            # The engine's table stays the same until the watchlists are replaced.
            self._written = covered.table, _table_bytes(covered.table)
            self._tables.put(self._written[1], covered.table)
        table = self._written[1]
        body = table + b"".join(
            [
                activations.token.astype("<i4").tobytes(),
                activations.column.astype("<i4").tobytes(),
                activations.value.astype("<f4").tobytes(),
            ]
        )
        shape = activations.n_tokens, len(activations.token), len(table)
        return _HEADER.pack(SCHEMA, key, self._mac(key, _SHAPE.pack(*shape) + body), *shape) + body

    def load(self, key: bytes, value: bytes, n_tokens: int) -> CoveredActivations:
        """The inverse of `dump`.

        Args:
            key: The key that the value lay under.
            value: What the cache held there.
            n_tokens: How many tokens the pair has.

        Raises:
            CorruptValue: When the bytes were not written for this key by this schema under this secret, or do not fit
                the pair.
        """
        if len(value) < _HEADER.size:
            raise CorruptValue("shorter than its header")
        magic, stored_key, mac, tokens, fired, size = _HEADER.unpack_from(value)
        body = value[_HEADER.size :]
        if magic != SCHEMA or not hmac.compare_digest(stored_key, key):
            raise CorruptValue("written for another key or schema")
        if tokens != n_tokens or len(body) != size + 12 * fired:
            raise CorruptValue("of another shape")
        if not hmac.compare_digest(mac, self._mac(key, _SHAPE.pack(tokens, fired, size) + body)):
            raise CorruptValue("changed since it was written, or written under another secret")
        table = self._table(body[:size])
        token, column = (np.frombuffer(body, "<i4", fired, size + offset) for offset in (0, 4 * fired))
        activations = np.frombuffer(body, "<f4", fired, size + 8 * fired)
        n_features = len(table.features)
        if fired and (column.max() >= n_features or token.max() >= n_tokens or min(token.min(), column.min()) < 0):
            raise CorruptValue("indices out of range")
        if not np.isfinite(activations).all():
            raise CorruptValue("activations that are no numbers")
        return CoveredActivations(Activations(tokens, token, column, activations), table)

    def _mac(self, key: bytes, payload: bytes) -> bytes:
        return hmac.digest(self._signing, SCHEMA + key + payload, "sha256")[:16]

    def _table(self, data: bytes) -> FeatureTable:
        """The same object for the same bytes, since others remember what they derive from a table."""
        known = self._tables.get(data)
        if known is None:
            known = _read_table(data)
            self._tables.put(data, known)
        return known


def _table_bytes(table: FeatureTable) -> bytes:
    parts: list[bytes] = []
    for producer, run in groupby(table.features, key=lambda feature: feature.producer):
        indices = np.array([feature.column for feature in run], "<i4")
        parts += (_RUN.pack(producer, len(indices)), indices.tobytes())
    return b"".join(parts)


def _read_table(data: bytes) -> FeatureTable:
    features: list[FeatureId] = []
    place = 0
    while place < len(data):
        try:
            producer, count = _RUN.unpack_from(data, place)
            indices = np.frombuffer(data, "<i4", count, place + _RUN.size)
        except (struct.error, ValueError):
            raise CorruptValue("its table of features is damaged") from None
        features += [FeatureId(producer, index) for index in indices.tolist()]
        place += _RUN.size + indices.nbytes
    return FeatureTable(tuple(features))
