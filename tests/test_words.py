"""Words: where they stand, lexicons, hashed bags, and indicators made of them."""

import math
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save_file
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from conftest import activations, covered, engine_identity
from scopewatch.config import BUNDLED_WATCHLIST
from scopewatch.errors import WatchlistError
from scopewatch.pipeline.compiled import compile_watchlist
from scopewatch.pipeline.scoring import judge
from scopewatch.pipeline.word_counts import words_read
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.types import Cleaning, Pair, Segment, TokenisedPair, Turn
from scopewatch.verdicts import IndicatorScore
from scopewatch.watch.watchlist import Watchlist, load_watchlist
from scopewatch.words import bag as bag_module
from scopewatch.words.bag import Bag, grams_of, load_bag, text_vector
from scopewatch.words.find import find_words
from scopewatch.words.lexicon import Lexicon, shipped, shipped_names

READER = BUNDLED_WATCHLIST.parent / "reader"
ENGINE = engine_identity(res=(1,))
LETTERS = st.text("abcé 's\u2019_.,-Iİ\u0301\u4e2d\u0e01\U0001d41a1", max_size=30)


def bucket_of(gram: str, bits: int = 18) -> int:
    """The bucket of a word or a pair of words, by the standard checksum of the whole."""
    return zlib.crc32(gram.encode()) % 2**bits


def bag_of(weights: dict[str, float], bits: int = 18) -> Bag:
    """A bag in which some words and pairs of words weigh something."""
    by_bucket = sorted((bucket_of(gram, bits), weight) for gram, weight in weights.items())
    buckets, numbers = zip(*by_bucket, strict=True)
    return Bag(np.array(buckets, np.int32), np.array(numbers, np.float32), bits)


def watchlist(folder: Path, *indicators: str, head: str = "") -> Watchlist:
    """A watchlist of the bundled reader, of indicators in YAML."""
    lines = "\n".join(f"- {{threshold: 0.1, {indicator}}}" for indicator in indicators)
    file = folder / "words.yaml"
    file.write_text(f"version: 1\nname: words\n{head}reader: {{path: {READER}}}\nindicators:\n{lines}\n")
    return load_watchlist(file)


def judged(
    watchlist: Watchlist, pair: Pair, *, cleaning: Cleaning = Cleaning.NONE, max_evidence: int = 9, **reader: Any
) -> tuple[IndicatorScore, ...]:
    """What the watchlist's indicators say of a pair that the bundled reader's tokenizer reads."""
    readings = Tokeniser(READER, **{"max_tokens": 512} | reader).readings([pair], [cleaning])[0]
    assert isinstance(readings, tuple)
    fired = [covered(activations(len(tokens.ids)), ENGINE) for tokens in readings]
    compiled = compile_watchlist(watchlist, ENGINE)
    return judge(compiled, readings, fired, max_evidence=max_evidence).indicators


# Finding words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I might, or a MAY.", "i might or a may"),
        ("don\u2019t, don't; the dogs' 'may'", "don't don't the dogs may"),
        ("_maybe_ well-known 3.5 x_1", "maybe well known 3 5 x 1"),
        ("Cafe\u0301 İstanbul STRASSE", "café i\u0307stanbul strasse"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940 \u0448\u043a\u043e\u043b\u0430", "\u0939\u093f\u0928\u094d\u0926\u0940 \u0448\u043a\u043e\u043b\u0430"),
        ("\u53ef\u80fd ok\u53ef", "\u53ef \u80fd ok \u53ef"),
        ("\u2026 !? \U0001f600", ""),
    ],
)  # fmt: skip
def test_words_are_runs_of_letters(text: str, words: str) -> None:
    """One letter is a word too, contractions are whole, and scripts without spaces give their characters."""
    assert words.split() == find_words(text).texts


@given(LETTERS)
def test_words_stand_where_they_are_said_to(text: str) -> None:
    """Spans are in order, do not overlap, hold what is not white space, and each gives its word again."""
    found = find_words(text)
    reached = 0
    for word, (start, end) in zip(found.texts, found.spans, strict=True):
        assert reached <= start < end <= len(text)
        assert [word] == find_words(text[start:end]).texts
        reached = end


# Lexicons


def test_a_lexicon_counts_the_longest_phrase_and_no_word_twice() -> None:
    """Its score is the share of words; a phrase that does not go on as listed counts for nothing."""
    lexicon = Lexicon(["kind", "kind of", "kind of you", "of late", "don\u2019t know"])
    words = find_words("Kind of late; it's kind of you, I don't know of what kind").texts

    assert [("kind of", 0, 2), ("kind of you", 4, 7), ("don't know", 8, 10), ("kind", 12, 13)] == [
        (each.text, each.first, each.end) for each in lexicon.counted(words)
    ]
    assert lexicon.score(words) == pytest.approx(8 / 13)
    assert 0.0 == lexicon.score([])


def test_a_phrase_that_does_not_match_hides_no_word_behind_it() -> None:
    """Looking for a phrase in vain leaves the words that follow to be counted."""
    assert 0.5 == Lexicon(["to some extent", "may"]).score(["to", "may"])


@pytest.mark.parametrize("name", shipped_names())
def test_a_lexicon_of_the_package_is_well_formed(name: str) -> None:
    """Every file can be loaded: no entry is empty or stands twice."""
    assert 0.0 < shipped(name).score(["may", "it"])


def test_hedges_hold_modals_and_conditionals() -> None:
    """What the list of old lacked."""
    for word in ["would", "should", "can", "could", "may", "might", "if", "whether", "unless", "couldn't"]:
        assert 1.0 == shipped("hedges").score([word])
    assert 0.0 == shipped("hedges").score(["i", "must", "say", "that", "it", "will", "not"])


# Hashed bags


def test_a_bag_scores_as_scikit_learn_does() -> None:
    """The vector is that of sublinear counts of length 1, of words and pairs, with buckets in place of columns."""
    texts = ["it may or may not be so", "a a a b", "it is", ""]
    random = np.random.default_rng(0)
    weights = random.normal(size=1 << 6).astype(np.float32)
    bag = Bag(np.arange(1 << 6, dtype=np.int32), weights, 6)
    counts = np.zeros((len(texts), 1 << 6))
    for row, text in enumerate(texts):
        for gram, count in Counter(grams_of(text.split())).items():
            counts[row, bucket_of(gram, 6)] += count
    expected = TfidfTransformer(use_idf=False, sublinear_tf=True).fit_transform(counts) @ weights.astype(np.float64)

    np.testing.assert_allclose([bag.score(text.split()) for text in texts], expected, atol=1e-12)


def test_pairs_of_words_are_those_of_scikit_learn() -> None:
    """Every word and every two neighbours, and no others."""
    vectorizer = HashingVectorizer(ngram_range=(1, 2), token_pattern=r"\S+")
    assert Counter(vectorizer.build_analyzer()("it may or it may")) == Counter(
        grams_of(["it", "may", "or", "it", "may"])
    )


def test_what_words_add_makes_up_the_score() -> None:
    """Each word and pair has its own place and part, and the parts sum to the product of vector and weights."""
    words = ["it", "may", "or", "may", "not"]
    bag = bag_of({"may": 2.0, "may not": -1.0, "elsewhere": 5.0})

    counted = bag.counted(words)

    assert [("may", 1, 2), ("may", 3, 4), ("may not", 3, 5)] == [(each.text, each.first, each.end) for each in counted]
    vector = text_vector([bucket_of(gram) for gram in grams_of(words)])
    assert bag.score(words) == pytest.approx(2.0 * vector[bucket_of("may")] - vector[bucket_of("may not")])
    assert counted[0].contribution == pytest.approx(vector[bucket_of("may")])


def test_the_hash_is_the_same_in_every_process() -> None:
    """A bag that one machine fits means the same on another: the hash has no seed."""
    code = "from scopewatch.words.bag import buckets_of; print(buckets_of(['may', 'not', 'd\\u00e9j\\u00e0']))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    assert {str([bucket_of(gram) for gram in ("may", "not", "déjà", "may not", "not déjà")])} == printed


def test_a_bag_comes_back_from_its_file(tmp_path: Path) -> None:
    """With the same scores, and the same digest."""
    bag = bag_of({"may": 2.0, "it may": -0.5})
    bag.write(tmp_path / "bag.safetensors")

    again = load_bag(tmp_path / "bag.safetensors", bag.digest)

    assert (bag.digest, bag.score(["it", "may", "be"])) == (again.digest, again.score(["it", "may", "be"]))


def test_a_file_holds_no_word(tmp_path: Path) -> None:
    """Numbers of buckets and weights are all there is."""
    file = tmp_path / "bag.safetensors"
    bag_of({"confidential": 2.0, "it may": -0.5}).write(file)
    assert {"buckets", "weights"} == set(load(file.read_bytes()))
    assert b"confidential" not in file.read_bytes()


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    """With the file, the line of the watchlist that names it, and the mend."""
    file = tmp_path / "bag.safetensors"
    bag = bag_of({"may": 2.0})
    bag.write(file)
    named = f"name: a, kind: words, bag: {{path: bag.safetensors, sha256: {bag.digest}}}"
    assert bag.digest == watchlist(tmp_path, named).words["a"].digest
    bag_of({"may": 2.5}).write(file)

    with pytest.raises(WatchlistError, match=r"words.yaml:5: indicators\[0\].bag: .*bag.safetensors: changed since"):
        watchlist(tmp_path, named)
    file.unlink()
    with pytest.raises(WatchlistError, match=r"bag.safetensors: cannot be read: No such file"):
        watchlist(tmp_path, named)


@pytest.mark.parametrize(
    ("arrays", "metadata"),
    [
        ({"buckets": np.zeros(2, np.int32), "weights": np.zeros(2, np.float32)}, None),
        ({"buckets": np.zeros(2, np.int32)}, {"scopewatch_bag": '{"schema": 1, "bits": 18}'}),
        (
            {"buckets": np.zeros(2, np.int32), "weights": np.zeros(3, np.float32)},
            {"scopewatch_bag": '{"schema": 1, "bits": 18}'},
        ),
        (
            {"buckets": np.zeros(1, np.int32), "weights": np.array([np.nan], np.float32)},
            {"scopewatch_bag": '{"schema": 1, "bits": 18}'},
        ),
        (
            {"buckets": np.zeros(1, np.int32), "weights": np.zeros(1, np.float32)},
            {"scopewatch_bag": '{"schema": 2, "bits": 18}'},
        ),
    ],
)
def test_a_file_that_is_no_bag_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None
) -> None:
    """Other arrays, numbers that are none, or a layout to come."""
    file = tmp_path / "bag.safetensors"
    save_file(arrays, file, metadata)
    digest = bag_module.hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(WatchlistError, match=r"bag.safetensors: not a bag of words \(.*\); calibrate it again"):
        load_bag(file, digest)


# Indicators


@pytest.mark.parametrize(
    ("indicator", "said"),
    [
        ("name: a, kind: words", "an indicator of kind words has either lexicon or bag"),
        ("name: a, kind: obfuscation, lexicon: hedges", "an indicator of kind obfuscation has neither lexicon nor bag"),
        ("name: a, kind: words, lexicon: hedge", "indicators[0].lexicon: there is no lexicon 'hedge' (there: hedges)"),
        ("name: a, kind: words, lexicon: []", "indicators[0].lexicon: is the name of a lexicon, or a list of words"),
        ("name: a, kind: words, lexicon: [may, 1]", "indicators[0].lexicon: is the name of a lexicon, or a list of"),
        ("name: a, kind: words, lexicon: [may, MAY]", "indicators[0].lexicon: 'MAY' stands twice"),
        ("name: a, kind: words, lexicon: [may, '!']", "indicators[0].lexicon: '!' holds no word"),
        ("name: a, kind: words, lexicon: hedges, pooling: max", "an indicator of kind words pools nothing"),
        ("name: a, kind: words, lexicon: hedges, features: [{feature: a/1}]", "kind words has none; it counts words"),
        ("name: a, kind: words, bag: {path: b}", "indicators[0].bag.sha256: missing"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path: Path, indicator: str, said: str) -> None:
    """What an indicator of words may say, and what not."""
    with pytest.raises(WatchlistError) as caught:
        watchlist(tmp_path, indicator)
    assert said in str(caught.value)
    assert f"{tmp_path}/words.yaml:5: " in str(caught.value)


def test_of_many_words_the_rest_is_one_summand(tmp_path: Path) -> None:
    """32 words are named, those that add or take most; with the others together they make up the score exactly."""
    words = [f"word{number}" for number in range(100)]
    random = np.random.default_rng(0)
    weights = {word: float(weight) for word, weight in zip(words, random.normal(size=len(words)), strict=True)}
    bag = bag_of(weights)
    bag.write(tmp_path / "bag.safetensors")
    counts = f"kind: words, bag: {{path: bag.safetensors, sha256: {bag.digest}}}"
    found = watchlist(tmp_path, f"name: a, {counts}, bias: 0.3")
    (score,) = judged(found, Pair("?", " ".join(words)))
    *named, others = score.features

    assert len(named) == 32
    assert ("other words", "count", 68) == (others.feature, others.pooling, others.pooled)
    assert math.fsum([0.3, *(part.contribution for part in score.features)]) == score.score
    assert {part.feature for part in named} == set(sorted(words, key=lambda word: -abs(weights[word]))[:32])


def test_a_lexicon_is_scored_with_its_words_as_evidence(tmp_path: Path) -> None:
    """The share of the response's words, the entries with how often they stand there, and where in the caller's text."""
    text = "It may rain. In my opinion, it MAY not."
    found = watchlist(tmp_path, 'name: a, kind: words, lexicon: [may, "in my opinion", never], bias: 1')

    (score,) = judged(found, Pair("May I?", text))

    assert score.score == pytest.approx(1 + 5 / 9)
    assert score.flagged
    assert [("in my opinion", 1.0, pytest.approx(3 / 9)), ("may", 2.0, pytest.approx(2 / 9))] == [
        (part.feature, part.pooled, part.contribution) for part in score.features
    ]
    assert ["In my opinion", "may", "MAY"] == [text[span.start : span.end] for span in score.evidence]


def test_words_of_a_bag_are_named_only_where_evidence_is_wanted(tmp_path: Path) -> None:
    """They are the caller's own; the score is the same, and bias, weights and probability are as for any indicator."""
    bag = bag_of({"may": 2.0, "it may": 1.0, "rain": -1.0})
    bag.write(tmp_path / "bag.safetensors")
    named = watchlist(tmp_path, f"name: a, kind: words, bias: -1, bag: {{path: bag.safetensors, sha256: {bag.digest}}}")
    text = "It may rain."

    (told,) = judged(named, Pair("?", text))
    (silent,) = judged(named, Pair("?", text), max_evidence=0)

    assert told.score == silent.score == pytest.approx(-1 + 2 / math.sqrt(5))
    assert ["may", "it may"] == [span.feature for span in told.evidence]
    assert ["may", "It may"] == [text[span.start : span.end] for span in told.evidence]
    assert {"may", "it may", "rain"} == {part.feature for part in told.features}
    assert ((), ()) == (silent.features, silent.evidence)


def test_words_are_those_of_the_reading(tmp_path: Path) -> None:
    """In a cleaned reading hidden letters do not hide a word, and its span is that of the caller's own text."""
    text = "It \U0001d426\u200b\U0001d41a\U0001d432 rain, maybe."
    found = watchlist(tmp_path, "name: a, kind: words, lexicon: [may]")

    (plain,) = judged(found, Pair("?", text))
    (cleaned,) = judged(found, Pair("?", text), cleaning=Cleaning.BESIDE)

    assert 0.0 == plain.score
    assert cleaned.score == pytest.approx(1 / 4)
    assert ["\U0001d426\u200b\U0001d41a\U0001d432"] == [text[span.start : span.end] for span in cleaned.evidence]


def test_words_of_every_segment_are_told_apart(tmp_path: Path) -> None:
    """Prompt, response and history are counted for themselves, with the turn of each word of a history."""
    found = watchlist(
        tmp_path,
        *(
            f"name: {segment}, kind: words, segment: {segment}, lexicon: [may, might]"
            for segment in ("prompt", "history")
        ),
    )
    history = (Turn("user", "It may."), Turn("assistant", "Or might it so?"))

    prompt, past = judged(found, Pair("may may never", "might", history))

    assert prompt.score == pytest.approx(2 / 3)
    assert past.score == pytest.approx(2 / 6)
    assert {(0, 3, 6), (1, 3, 8)} == {(span.turn, span.start, span.end) for span in past.evidence}


def test_words_that_were_not_read_do_not_count(tmp_path: Path) -> None:
    """What was cut off a long answer is in no share, in however many windows it was read."""
    text = "may " * 20 + "never " * 200
    found = watchlist(tmp_path, "name: a, kind: words, lexicon: [may]")

    (short,) = judged(found, Pair("", text), max_tokens=32)
    (windows,) = judged(found, Pair("", text), max_tokens=32, max_windows=3)
    (whole,) = judged(found, Pair("", text), max_tokens=4096)

    assert whole.score == pytest.approx(20 / 220)
    assert 1.0 >= short.score > windows.score > 2 * whole.score


def test_an_empty_segment_is_skipped(tmp_path: Path) -> None:
    """As by every other kind; a text without words is scored, and has none of the lexicon."""
    found = watchlist(
        tmp_path,
        *(f"name: {segment}, kind: words, segment: {segment}, lexicon: hedges" for segment in ("prompt", "response")),
    )
    prompt, response = judged(found, Pair("", "?!"))
    assert ("empty_segment", 0.0) == (prompt.skipped_reason, prompt.score)
    assert ("", 0.0) == (response.skipped_reason, response.score)


def test_a_combination_counts_words_in(tmp_path: Path) -> None:
    """An indicator of words is a part like any other."""
    found = watchlist(
        tmp_path,
        "name: a, kind: words, lexicon: [may]",
        "name: b, kind: combination, combines: [{indicator: a, weight: 4.0}], bias: 1",
    )
    assert 3.0 == judged(found, Pair("?", "it may"))[1].score


def test_a_compiled_watchlist_is_known_by_what_it_counts(tmp_path: Path) -> None:
    """A judgement by another lexicon, or another bag under the same path, is not recalled."""
    digests = set()
    for weight in (1.0, 2.0):
        bag = bag_of({"may": weight})
        bag.write(tmp_path / "bag.safetensors")
        named = watchlist(tmp_path, f"name: a, kind: words, bag: {{path: bag.safetensors, sha256: {bag.digest}}}")
        digests.add(compile_watchlist(named, ENGINE).digest)
    for words in ("may", "might"):
        digests.add(compile_watchlist(watchlist(tmp_path, f"name: a, kind: words, lexicon: [{words}]"), ENGINE).digest)
    assert 4 == len(digests)


def test_words_read_are_the_words_of_a_text_that_is_read_whole() -> None:
    """None is lost where the tokenizer splits words, or gives blanks to no token."""
    text = "Unquestionably so: caf\u00e9s \u2013 na\u00efve (or antidisestablishmentarianism) didn\u2019t\n\n\tmatter."
    (tokens,) = Tokeniser(READER, max_tokens=512).tokenise([Pair("What?", text)])
    assert isinstance(tokens, TokenisedPair)
    assert find_words(text).texts == words_read(tokens, Segment.RESPONSE).texts
