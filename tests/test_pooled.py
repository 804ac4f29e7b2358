"""Pooled features on disk: the online scorer's numbers, whole after an interruption, and never another file's."""

import errno
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from conftest import D_SAE, HIDDEN, House, covered, engine_identity, watchlist_of
from scopewatch.config import Config
from scopewatch.engine.build import build_engine
from scopewatch.engine.choices import SaeChoice
from scopewatch.engine.dictionary import DictionaryEngine, build_dictionary
from scopewatch.errors import DataError
from scopewatch.pairs import pooled
from scopewatch.pairs.data_files import Reading
from scopewatch.pairs.kept_poolings import DENSE_POOLINGS, MEAN, POOLINGS
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.left_out import LeftOut
from scopewatch.pairs.pooled import PooledPairs, encode_pairs
from scopewatch.pipeline.compiled import compile_watchlist
from scopewatch.pipeline.scoring import judge
from scopewatch.sentences import SegmentSentences
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.types import Activations, Pair, Segment, Turn
from scopewatch.watch.poolings import Pooling

TEXTS = ["hello", "world, it may rain tomorrow", "Insulin lowers blood sugar. " * 6, "not sure", "perhaps gout?"]
ALL_OF_MID = engine_identity(mid=tuple(range(D_SAE)))


def labelled(*pairs: Pair) -> list[LabelledPair]:
    return [LabelledPair(pair, label=None, line=line, source="some.jsonl") for line, pair in enumerate(pairs, 1)]


PAIRS = labelled(*(Pair(prompt, response) for prompt in ("", "what is it?") for response in TEXTS))


@pytest.fixture
def dictionary(house: House, monkeypatch: pytest.MonkeyPatch) -> DictionaryEngine:
    """An engine of small shards: ten pairs make three."""
    monkeypatch.setattr(pooled, "_SHARD_PAIRS", 4)
    return build(house)


def build(house: House, **settings: object) -> DictionaryEngine:
    return build_dictionary(
        ReaderSource(path=str(house.reader)), SaeSource(path=str(house.saes["mid"])), Config(**settings)
    )


def read(
    pairs: Sequence[LabelledPair], dictionary: DictionaryEngine, folder: Path, segment: Segment = Segment.RESPONSE
) -> PooledPairs:
    return encode_pairs(pairs, dictionary, segment=segment, folder=folder)


def indicator(feature: int, pooling: Pooling, segment: Segment) -> dict[str, object]:
    return {"segment": segment.name.lower(), "pooling": pooling, "features": [{"feature": f"mid/{feature}"}]}


def online(house: House, pairs: Sequence[LabelledPair], pooling: Pooling, segment: Segment) -> NDArray[np.float64]:
    """Every feature's pooled value by the serving engine and the online scorer: one indicator for each feature."""
    choice = SaeChoice("mid", SaeSource(path=str(house.saes["mid"])), wanted=dict.fromkeys(range(D_SAE), ""))
    engine = build_engine(ReaderSource(path=str(house.reader)), [choice], Config())
    indicators = [indicator(feature, pooling, segment) for feature in range(D_SAE)]
    watchlist = compile_watchlist(watchlist_of(*indicators), engine.identity)
    tokens = engine.tokeniser.tokenise([item.pair for item in pairs])
    encoded = engine.runner([pair.ids for pair in tokens]).activations
    judged = [
        judge(watchlist, [pair], [covered(fired, engine.identity)], max_evidence=0)
        for pair, fired in zip(tokens, encoded, strict=True)
    ]
    return np.array([[indicator.score for indicator in one.indicators] for one in judged])


@pytest.mark.parametrize("segment", [Segment.RESPONSE, Segment.PROMPT])
@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_pooled_features_are_the_online_scores(
    house: House, dictionary: DictionaryEngine, tmp_path: Path, pooling: Pooling, segment: Segment
) -> None:
    """Of every feature, pooling and segment the number is the score of an indicator that watches just that."""
    found = read(PAIRS, dictionary, tmp_path, segment).features(pooling)

    assert (np.float32, (len(PAIRS), D_SAE)) == (found.dtype, found.shape)
    assert found.has_sorted_indices
    assert (found.data > 0).all()
    np.testing.assert_allclose(found.toarray(), online(house, PAIRS, pooling, segment), rtol=1e-4, atol=1e-5)


def test_long_segments_are_pooled_in_parts(
    dictionary: DictionaryEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment with too many features for one table gives bit for bit the same numbers."""
    whole = read(PAIRS, dictionary, tmp_path / "whole")
    monkeypatch.setattr(pooled, "_DENSE_ELEMENTS", 100)
    parts = read(PAIRS, dictionary, tmp_path / "parts")

    for pooling in POOLINGS:
        np.testing.assert_array_equal(whole.features(pooling).toarray(), parts.features(pooling).toarray())


@pytest.mark.parametrize("segment", [Segment.RESPONSE, Segment.PROMPT])
@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_the_online_scorer_pools_to_the_same_bits(
    dictionary: DictionaryEngine, pooling: Pooling, segment: Segment
) -> None:
    """Of the very same activations an indicator of one feature makes the number that is kept, whatever else fires."""
    pairs = dictionary.tokeniser.tokenise([item.pair for item in PAIRS])
    whole = compile_watchlist(watchlist_of(*(indicator(f, pooling, segment) for f in range(D_SAE))), ALL_OF_MID)
    for pair, read in zip(pairs, dictionary.encode(pairs, segment), strict=True):
        fired = read.fired
        features, values = pooled._pooled(fired, [pooling], SegmentSentences(pair, segment))
        online = Activations(len(pair.ids), read.positions[fired.token].astype(np.int32), fired.column, fired.value)
        judged = judge(whole, [pair], [covered(online, ALL_OF_MID)], max_evidence=0).indicators
        assert [np.float32(judged[feature].score) for feature in features] == values[0].tolist()


def test_activations_are_pooled_too(dictionary: DictionaryEngine, tmp_path: Path) -> None:
    """The reader's own activations over the segment by each pooling a probe may have, and how many tokens that were."""
    tokens = dictionary.tokeniser.tokenise([item.pair for item in PAIRS])
    alone = [next(iter(dictionary.encode([pair], Segment.RESPONSE))).residual for pair in tokens]

    found = read(PAIRS, dictionary, tmp_path)

    assert (len(PAIRS), HIDDEN) == found.dense(MEAN).shape
    assert [len(residual) for residual in alone] == found.tokens.tolist()
    ends = [SegmentSentences(pair, Segment.RESPONSE).last_tokens for pair in tokens]
    expected = [
        [residual.mean(axis=0) for residual in alone],
        [residual[-1] for residual in alone],
        [residual[last].mean(axis=0) for residual, last in zip(alone, ends, strict=True)],
    ]
    for pooling, rows in zip(DENSE_POOLINGS, expected, strict=True):
        np.testing.assert_allclose(found.dense(pooling), rows, rtol=1e-4, atol=1e-5)


def test_an_empty_segment_is_zero(dictionary: DictionaryEngine, tmp_path: Path) -> None:
    """A pair without the segment keeps its row, in which nothing stands."""
    found = read(PAIRS, dictionary, tmp_path, Segment.PROMPT)

    half = len(PAIRS) // 2
    assert [0] * half == found.tokens[:half].tolist()
    for pooling in DENSE_POOLINGS:
        assert not found.dense(pooling)[:half].any()
    for pooling in POOLINGS:
        assert [0] * half == np.diff(found.features(pooling).indptr)[:half].tolist()
        assert found.features(pooling)[half:].nnz > 0


def test_no_segment_at_all_is_zero(dictionary: DictionaryEngine, tmp_path: Path) -> None:
    """A file in which no pair has the segment is read to the end."""
    found = read(PAIRS, dictionary, tmp_path, Segment.HISTORY)

    assert not found.tokens.any()
    assert 0 == found.features(POOLINGS[0]).nnz


def test_truncated_pairs_are_marked(house: House, tmp_path: Path) -> None:
    """What did not fit the reader is said pair by pair."""
    short = build(house, max_tokens=24)
    tokens = short.tokeniser.tokenise([item.pair for item in PAIRS])

    found = read(PAIRS, short, tmp_path)

    assert [pair.coverage.truncated for pair in tokens] == found.truncated.tolist()
    assert {True, False} == set(found.truncated.tolist())


class Counting:
    """An engine that counts the pairs it reads, and may fail after some."""

    def __init__(self, engine: DictionaryEngine, fail_after: int = 1000) -> None:
        self._engine = engine
        self._fail_after = fail_after
        self.read = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def encode(self, pairs: Sequence[object], *arguments: object, **named: object) -> object:
        for found in self._engine.encode(pairs, *arguments, **named):
            if self.read == self._fail_after:
                raise KeyboardInterrupt
            self.read += 1
            yield found


def same(one: PooledPairs, other: PooledPairs) -> bool:
    return (
        all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("tokens", "truncated"))
        and all(np.array_equal(one.dense(pooling), other.dense(pooling)) for pooling in DENSE_POOLINGS)
        and all((one.features(pooling) != other.features(pooling)).nnz == 0 for pooling in POOLINGS)
    )


def test_an_interrupted_run_goes_on(dictionary: DictionaryEngine, tmp_path: Path) -> None:
    """After an interruption only what was not finished is read, and the result is that of an undisturbed run."""
    first, second = Counting(dictionary, fail_after=6), Counting(dictionary)
    with pytest.raises(KeyboardInterrupt):
        read(PAIRS, first, tmp_path)

    resumed = read(PAIRS, second, tmp_path)

    assert 10 - 4 == second.read
    assert same(resumed, read(PAIRS, dictionary, tmp_path / "anew"))


def test_what_was_read_is_not_read_again(dictionary: DictionaryEngine, tmp_path: Path) -> None:
    """A second run over the same file reads nothing, and one over a longer file what is new."""
    again, longer = Counting(dictionary), Counting(dictionary)
    read(PAIRS[:8], dictionary, tmp_path)

    read(PAIRS[:8], again, tmp_path)
    read(PAIRS, longer, tmp_path)

    assert (0, 2) == (again.read, longer.read)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_shard_is_made_anew(dictionary: DictionaryEngine, tmp_path: Path, damage: str) -> None:
    """A shard whose bytes are not what was written is read again, not believed."""
    before = read(PAIRS, dictionary, tmp_path)
    wanted = before.features(POOLINGS[0]).toarray()
    content = bytearray(before.shards[1].read_bytes())
    place = content.index(np.load(before.shards[1])["value_0"].tobytes())
    content[place] ^= 1
    before.shards[1].write_bytes({"flipped": content, "cut": content[: len(content) // 2], "empty": b""}[damage])
    counting = Counting(dictionary)

    after = read(PAIRS, counting, tmp_path)

    assert 4 == counting.read
    np.testing.assert_array_equal(wanted, after.features(POOLINGS[0]).toarray())


def test_another_question_is_read_anew(house: House, dictionary: DictionaryEngine, tmp_path: Path) -> None:
    """Another text, segment, pooling or limit never finds what was read for another."""
    read(PAIRS, dictionary, tmp_path)
    changed = [*PAIRS[:5], replace(PAIRS[5], pair=Pair("what is it?", "hello!")), *PAIRS[6:]]
    counting = [Counting(dictionary) for _ in range(3)]
    counting.append(Counting(build(house, max_tokens=500)))

    read(changed, counting[0], tmp_path)
    read(PAIRS, counting[1], tmp_path, Segment.PROMPT)
    encode_pairs(PAIRS, counting[2], segment=Segment.RESPONSE, folder=tmp_path, poolings=POOLINGS[:2])
    read(PAIRS, counting[3], tmp_path)

    assert [4, 10, 10, 10] == [engine.read for engine in counting]


def test_without_poolings_only_activations_are_kept(dictionary: DictionaryEngine, tmp_path: Path) -> None:
    """Asked for no pooling, pairs are read for the reader's activations alone."""
    found = encode_pairs(PAIRS, dictionary, segment=Segment.RESPONSE, folder=tmp_path, poolings=())

    np.testing.assert_array_equal(read(PAIRS, dictionary, tmp_path).dense(MEAN), found.dense(MEAN))


def test_a_pair_that_cannot_be_read_is_left_out(dictionary: DictionaryEngine, tmp_path: Path) -> None:
    """A pair that is refused keeps its row, which is empty, and is told; the others are as without it."""
    refused = Pair("a", "b", (Turn("<user>", "of no role"),))
    pairs = labelled(Pair("hello", "world"), refused, Pair("", "not sure"), refused)
    found, alone = read(pairs, dictionary, tmp_path), read([pairs[0], pairs[2]], dictionary, tmp_path)

    assert [(2, "invalid_request"), (4, "invalid_request")] == [
        (int(row.place.removeprefix("some.jsonl, line ")), row.reason) for row in found.left_out
    ]
    assert [True, False, True, False] == (found.tokens > 0).tolist()
    for pooling in POOLINGS:
        whole = found.features(pooling).toarray()
        np.testing.assert_allclose(alone.features(pooling).toarray(), whole[[0, 2]], rtol=1e-4, atol=1e-5)
        assert not whole[[1, 3]].any()
    with pytest.raises(DataError, match=r"^some\.jsonl, line 2: history\[0\]\.role: is no role"):
        encode_pairs(pairs, dictionary, segment=Segment.RESPONSE, folder=tmp_path, reading=Reading(strict=True))


def test_a_pair_without_the_segment_is_left_out(dictionary: DictionaryEngine, tmp_path: Path) -> None:
    """A pair without a token of the segment is told, whether or not every row has to be used."""
    found = encode_pairs(PAIRS, dictionary, segment=Segment.PROMPT, folder=tmp_path, reading=Reading(strict=True))

    assert [LeftOut(pair.place, "empty_segment") for pair in PAIRS[: len(TEXTS)]] == list(found.left_out)


def test_a_pair_the_reader_fails_on_is_left_out(house: House, tmp_path: Path) -> None:
    """A pair on which the reader gives NaN is told, and tried again by the next run."""
    broken = build(house)
    (hello, insulin) = broken.tokeniser.tokenise([Pair("", "hello"), Pair("", "Insulin")])
    token = next(token for token in insulin.ids.tolist() if token not in hello.ids)
    with torch.no_grad():
        broken._reader.model.get_input_embeddings().weight[token] = torch.nan

    pairs = labelled(Pair("", "hello"), Pair("", "Insulin"))
    for counting in (Counting(broken), Counting(broken)):
        found = read(pairs, counting, tmp_path)
        assert (2, [True, False]) == (counting.read, (found.tokens > 0).tolist())
        assert [
            "some.jsonl, line 2: the reader's activations overflowed or are NaN on this pair; its weights may be damaged"
        ] == [str(row) for row in found.left_out]
        assert ["engine_error"] == [row.reason for row in found.left_out]


def test_a_folder_that_cannot_be_written_is_told(dictionary: DictionaryEngine, tmp_path: Path) -> None:
    """A work folder that is a file gives an error that names it."""
    file = tmp_path / "work"
    file.write_text("")

    with pytest.raises(DataError, match=rf"^{file}/folder: cannot be written: Not a directory; use another folder"):
        read(PAIRS, dictionary, file / "folder")


def test_a_full_disk_is_told(dictionary: DictionaryEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room left the error says so, and what was half written goes."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DataError, match=rf"^{tmp_path}: .* No space left on device; make room there, or use another"):
        read(PAIRS, dictionary, tmp_path)
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_shard_that_is_gone_is_told(dictionary: DictionaryEngine, tmp_path: Path) -> None:
    """If shards are removed before they are used, the error says so and what to do."""
    found = read(PAIRS, dictionary, tmp_path)
    found.shards[2].unlink()

    with pytest.raises(DataError, match=r"gone or damaged.*run the command again"):
        found.features(POOLINGS[0])


def test_some_rows_are_read_as_all_are(
    dictionary: DictionaryEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of several shards, one shard left out, are those rows of the whole; no rows are an empty matrix."""
    monkeypatch.setattr(pooled, "_SHARD_PAIRS", 2)
    found = read([*PAIRS, *PAIRS, *PAIRS], dictionary, tmp_path)
    whole, last = found.features(POOLINGS[1]).toarray(), found.n_pairs - 1
    for rows in ([0, 1, 4, last], [last], []):
        part = found.features(POOLINGS[1], np.array(rows, np.intp))
        np.testing.assert_array_equal(whole[rows], part.toarray())


def test_a_script_that_the_vocabulary_lacks_is_noted(dictionary: DictionaryEngine, tmp_path: Path) -> None:
    """Texts that are read by parts of characters are counted, and said where they are many; English ones are not."""
    spelled = [
        LabelledPair(Pair("Hi", text), 0, 1) for text in ("委员会可能会同意但我们不确定。", "คณะกรรมการอาจเห็นด้วย")
    ]
    found = read([*PAIRS, *spelled], dictionary, tmp_path)

    assert 2 == found.spelled
    assert found.notes[0].startswith(f"2 of {len(PAIRS) + 2} pairs are in a script that the reader's vocabulary lacks")
    assert () == read(PAIRS, dictionary, tmp_path).notes
