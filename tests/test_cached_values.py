"""The bytes of a cached value and the key they lie under."""

import hmac
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import activations, engine_identity, table_of
from scopewatch.identity import EngineIdentity, FeatureId, FeatureTable
from scopewatch.pipeline import cached_value as cached
from scopewatch.pipeline.cached_value import CachedValues, CorruptValue
from scopewatch.types import Activations, Coverage, CoveredActivations, TokenisedPair

KEY = bytes(range(32))
OTHER_KEY = bytes(32)
N_FEATURES = 5
IDENTITY = engine_identity(early=(1, 4), late=(0, 2, 9))
TABLE = table_of(IDENTITY)
VALUES = CachedValues(IDENTITY.reader, b"secret")


def dump(key: bytes, value: Activations, table: FeatureTable = TABLE) -> bytes:
    return VALUES.dump(key, CoveredActivations(value, table))


def load(key: bytes, value: bytes, n_tokens: int) -> Activations:
    """What another process makes of a value."""
    found = CachedValues(IDENTITY.reader, b"secret").load(key, value, n_tokens)
    assert found.table.features == TABLE.features
    return found.activations


@st.composite
def values(draw: st.DrawFn) -> Activations:
    n_tokens = draw(st.integers(1, 300))
    places = st.tuples(st.integers(0, n_tokens - 1), st.integers(0, N_FEATURES - 1))
    numbers = st.floats(0, width=32, exclude_min=True, allow_infinity=False)
    fired = draw(st.dictionaries(places, numbers, max_size=40))
    return activations(n_tokens, *((token, column, value) for (token, column), value in fired.items()))


def plain(value: Activations) -> tuple[int, list[int], list[int], list[float]]:
    return value.n_tokens, value.token.tolist(), value.column.tolist(), value.value.tolist()


SOME = activations(7, (0, 1, 0.5), (3, 0, 2.0), (3, 4, 1.25), (6, 2, 1e-30))


@given(values())
def test_what_is_loaded_is_what_was_dumped(value: Activations) -> None:
    """Activations survive the cache exactly, also when nothing fired."""
    assert plain(load(KEY, dump(KEY, value), value.n_tokens)) == plain(value)


def test_loaded_arrays_have_the_engines_types() -> None:
    """A hit is scored by the same code as a miss: same dtypes, whatever the machine's byte order."""
    loaded = load(KEY, dump(KEY, SOME), 7)
    assert (loaded.token.dtype, loaded.column.dtype, loaded.value.dtype) == (np.int32, np.int32, np.float32)


def test_any_flipped_byte_is_noticed() -> None:
    """A value in which a single byte changed, header or body, is refused."""
    good = dump(KEY, SOME)
    accepted = []
    for place in range(len(good)):
        for flip in (0x01, 0x80, 0xFF):
            bad = bytearray(good)
            bad[place] ^= flip
            try:
                load(KEY, bytes(bad), 7)
            except CorruptValue:
                continue
            accepted.append((place, flip))
    assert accepted == []


def test_any_truncation_is_noticed() -> None:
    """A value cut anywhere, or with bytes after its end, is refused."""
    good = dump(KEY, SOME)
    accepted = []
    for wrong in [*(good[:end] for end in range(len(good))), good + b"\0", good + good]:
        try:
            load(KEY, wrong, 7)
        except CorruptValue:
            continue
        accepted.append(wrong)
    assert accepted == []


@given(st.binary(max_size=200))
def test_garbage_is_noticed(garbage: bytes) -> None:
    """Bytes that nobody dumped are a CorruptValue, never another error or an answer."""
    with pytest.raises(CorruptValue):
        load(KEY, garbage, 7)


@pytest.mark.parametrize(
    ("key", "n_tokens", "problem"),
    [
        pytest.param(OTHER_KEY, 7, "written for another key or schema", id="foreign key"),
        pytest.param(KEY, 8, "of another shape", id="longer pair"),
        pytest.param(KEY, 6, "of another shape", id="shorter pair"),
    ],
)
def test_a_value_belongs_to_its_own_pair(key: bytes, n_tokens: int, problem: str) -> None:
    """A whole value is refused under another key, and for a pair of another length."""
    with pytest.raises(CorruptValue) as caught:
        load(key, dump(KEY, SOME), n_tokens)
    assert str(caught.value) == problem


def test_a_value_says_which_features_it_covers() -> None:
    """Whoever reads a value learns its features, of any number of producers, in the order of its columns."""
    features = (FeatureId(bytes(16), 3), FeatureId(b"p" * 16, 7), FeatureId(b"p" * 16, 0), FeatureId(bytes(16), 9))
    found = CachedValues(IDENTITY.reader, b"secret").load(KEY, dump(KEY, activations(7), FeatureTable(features)), 7)
    assert found.table.features == features


def test_values_of_one_writer_have_one_table() -> None:
    """What is derived from a table can be remembered: equal tables are the same object, the engine's own included."""
    found = [VALUES.load(KEY, dump(KEY, value), 7).table for value in (SOME, activations(7))]
    assert found == [TABLE, TABLE]


def test_indices_beyond_the_table_are_noticed() -> None:
    """A column that the value's own table does not have never reaches scoring, even with a right MAC."""
    with pytest.raises(CorruptValue) as caught:
        load(KEY, dump(KEY, SOME, FeatureTable(TABLE.features[:4])), 7)
    assert str(caught.value) == "indices out of range"


@pytest.mark.parametrize("table", [b"x", b"p" * 16 + b"\xff\xff\xff\xff", b"p" * 16 + b"\x02\0\0\0" + bytes(4)])
def test_a_damaged_table_is_noticed(monkeypatch: pytest.MonkeyPatch, table: bytes) -> None:
    """A table that is cut, or promises more features than it holds, is refused, even with a right MAC."""
    monkeypatch.setattr(cached, "_table_bytes", lambda _: table)
    value = CachedValues(IDENTITY.reader, b"secret").dump(KEY, CoveredActivations(SOME, FeatureTable(TABLE.features)))
    with pytest.raises(CorruptValue) as caught:
        load(KEY, value, 7)
    assert str(caught.value) == "its table of features is damaged"


@pytest.mark.parametrize("place", [(7, 0, 1.0), (-1, 0, 1.0), (0, -1, 1.0)], ids=["token", "below", "column"])
def test_indices_outside_the_pair_are_noticed(place: tuple[int, int, float]) -> None:
    """Indices that the pair does not have never reach scoring, even with a right MAC."""
    with pytest.raises(CorruptValue) as caught:
        load(KEY, dump(KEY, activations(7, place)), 7)
    assert str(caught.value) == "indices out of range"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_activation_that_is_no_number_is_noticed(value: float) -> None:
    """NaN never reaches scoring, where it would be above no threshold, even with a right MAC."""
    with pytest.raises(CorruptValue) as caught:
        load(KEY, dump(KEY, activations(7, (0, 1, 0.5), (1, 1, value))), 7)
    assert str(caught.value) == "activations that are no numbers"


def forged(signing_key: bytes, message: Callable[[bytes, bytes], bytes]) -> bytes:
    """A well-formed value that clears a verdict, as one makes it who reads the cache's keys and this program's source.

    Args:
        signing_key: What stands in the place of the key of the MAC.
        message: What is signed, of the value's shape and the rest.
    """
    whole = dump(KEY, activations(7))
    start, shape, rest = whole[:36], whole[52:64], whole[64:]
    return start + hmac.digest(signing_key, message(shape, rest), "sha256")[:16] + shape + rest


def signed(shape: bytes, rest: bytes) -> bytes:
    return cached.SCHEMA + KEY + shape + rest


def derived(secret: bytes, use: bytes = b"cached value") -> bytes:
    return hmac.digest(secret, use, "sha256")


def test_a_value_that_another_made_up_is_noticed() -> None:
    """Whoever can write to the cache cannot say what a text makes fire: a value is good under the secret alone."""
    by_outsiders = [
        KEY,
        b"",
        bytes(32),
        derived(b""),
        derived(b"Secret"),
        derived(KEY),
        derived(b"secret", b"cache key"),
    ]
    values = [forged(key, message) for key in by_outsiders for message in (signed, lambda shape, rest: shape + rest)]
    for value in values:
        with pytest.raises(CorruptValue) as caught:
            load(KEY, value, 7)
        assert str(caught.value) == "changed since it was written, or written under another secret"
    assert plain(load(KEY, forged(derived(b"secret"), signed), 7)) == plain(activations(7))


def test_a_value_cannot_be_moved_to_another_key() -> None:
    """A true value of another text, given this text's key in its header, is refused."""
    true = dump(OTHER_KEY, SOME)
    with pytest.raises(CorruptValue):
        load(KEY, true[:4] + KEY + true[36:], 7)


def test_another_schema_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of another version of the format is refused, and lies under another key anyway."""
    tokens = pair([1, 2, 3])
    here = CachedValues(IDENTITY.reader, b"secret").key(tokens, "")
    monkeypatch.setattr(cached, "SCHEMA", b"scw9")
    there, value = CachedValues(IDENTITY.reader, b"secret").key(tokens, ""), dump(KEY, SOME)
    monkeypatch.undo()
    assert here != there
    with pytest.raises(CorruptValue):
        load(KEY, value, 7)


def pair(ids: list[int], **changes: object) -> TokenisedPair:
    zeros = np.zeros(len(ids), np.int32)
    tokens = TokenisedPair(
        np.array(ids, np.int32), np.ones(len(ids), np.int8), zeros, zeros, zeros, Coverage(len(ids), len(ids), 0, 0)
    )
    return replace(tokens, **changes)


def reader(**changes: object) -> EngineIdentity:
    return replace(IDENTITY, reader=replace(IDENTITY.reader, **changes))


def sae(**changes: object) -> EngineIdentity:
    early, late = IDENTITY.saes
    return replace(IDENTITY, saes=(replace(early, **changes), late))


def test_the_same_tokens_under_the_same_reader_have_one_key() -> None:
    """Replicas with equal readers and secrets share entries; how the caller's text is split up does not matter."""
    keys = CachedValues(IDENTITY.reader, b"secret")
    same = CachedValues(engine_identity(early=(1, 4), late=(0, 2, 9)).reader, b"secret")
    other_segments = pair([5, 6, 7], segments=np.array([0, 1, 2], np.int8))
    assert keys.key(pair([5, 6, 7]), "") == same.key(pair([5, 6, 7]), "") == keys.key(other_segments, "")
    assert len(keys.key(pair([5, 6, 7]), "")) == 32


@pytest.mark.parametrize(
    ("identity", "secret", "ids"),
    [
        pytest.param(IDENTITY, b"secret", [5, 6, 8], id="token"),
        pytest.param(IDENTITY, b"secret", [6, 5, 7], id="order"),
        pytest.param(IDENTITY, b"secret", [5, 6], id="shorter"),
        pytest.param(IDENTITY, b"secret", [5, 6, 7, 0], id="padded"),
        pytest.param(IDENTITY, b"Secret", [5, 6, 7], id="secret"),
        pytest.param(IDENTITY, b"", [5, 6, 7], id="no secret"),
        pytest.param(reader(digest="e" * 64), b"secret", [5, 6, 7], id="reader digest"),
        pytest.param(reader(revision="next"), b"secret", [5, 6, 7], id="revision"),
        pytest.param(reader(dtype="bfloat16"), b"secret", [5, 6, 7], id="dtype"),
        pytest.param(reader(device="cuda"), b"secret", [5, 6, 7], id="device"),
        pytest.param(reader(attention="flash"), b"secret", [5, 6, 7], id="attention"),
        pytest.param(sae(digest="e" * 64), b"secret", [5, 6, 7], id="sae digest"),
        pytest.param(sae(hookpoint="layers.1.resid_post"), b"secret", [5, 6, 7], id="hookpoint"),
        pytest.param(sae(watched=(1, 5)), b"secret", [5, 6, 7], id="watched set"),
    ],
)
def test_whatever_changes_activations_finds_no_value(identity: EngineIdentity, secret: bytes, ids: list[int]) -> None:
    """For another text, tenant, reader, dtype or attention no value lies there; for another SAE it covers nothing."""
    here, there = CachedValues(IDENTITY.reader, b"secret"), CachedValues(identity.reader, secret)
    same_key = there.key(pair(ids), "") == here.key(pair([5, 6, 7]), "")
    assert not (same_key and set(IDENTITY.feature_ids) <= set(identity.feature_ids))


DEEP = replace(IDENTITY.reader, digest="e" * 64, layers_run=4, layer_digests=("0" * 64, "1" * 64, "2" * 64, "3" * 64))
SHALLOW = replace(DEEP, digest="2" * 64, layers_run=2, layer_digests=DEEP.layer_digests[:3])


@pytest.mark.parametrize(
    "fewer",
    [
        pytest.param(sae(watched=(1,)), id="a feature less"),
        pytest.param(replace(IDENTITY, saes=IDENTITY.saes[:1]), id="an SAE less"),
        pytest.param(sae(name="renamed"), id="another name of an SAE"),
        pytest.param(replace(IDENTITY, saes=IDENTITY.saes[::-1]), id="another order"),
        pytest.param(replace(IDENTITY, reader=SHALLOW), id="a shallower reader"),
    ],
)
def test_what_leaves_activations_as_they_are_finds_the_value(fewer: EngineIdentity) -> None:
    """To drop or rename features, or to load fewer layers, empties no cache: the value lies there and covers them."""
    before = replace(IDENTITY, reader=DEEP) if fewer.reader == SHALLOW else IDENTITY
    keys = [CachedValues(identity.reader, b"secret").key(pair([5, 6, 7]), "") for identity in (before, fewer)]
    assert keys[0] == keys[1]
    assert set(fewer.feature_ids) <= set(before.feature_ids)


TENANTS = st.text(max_size=8) | st.sampled_from(["", "\0", "\x05\0\0\0", "\ud800"])


@given(TENANTS, TENANTS)
def test_tenants_share_no_value(one: str, other: str) -> None:
    """Equal token ids have one key within a tenant and another in every other, however tenants are named."""
    keys = CachedValues(IDENTITY.reader, b"secret")
    assert (one == other) == (keys.key(pair([5, 6, 7]), one) == keys.key(pair([5, 6, 7]), other))


def test_neither_a_tenant_nor_a_window_can_be_taken_for_tokens() -> None:
    """What a key covers cannot be moved from one of its parts into the next."""
    keys = CachedValues(IDENTITY.reader, b"secret")
    found = [
        keys.key(pair([5, 6, 7]), ""),
        keys.key(pair([6, 7]), "\x05\0\0\0"),
        keys.key(pair([5]), "\x06\0\0\0\x07\0\0\0"),
        keys.key(pair([5], window_tokens=(6, 7)), ""),
        keys.key(pair([5, 6], window_tokens=(7,)), ""),
    ]
    assert len(set(found)) == len(found)


@given(st.lists(st.lists(st.integers(0, 300_000), min_size=1, max_size=8), min_size=2, max_size=20, unique_by=tuple))
def test_different_token_ids_have_different_keys(texts: list[list[int]]) -> None:
    """No two texts share a key."""
    keys = CachedValues(IDENTITY.reader, b"secret")
    assert len({keys.key(pair(ids), "") for ids in texts}) == len(texts)
