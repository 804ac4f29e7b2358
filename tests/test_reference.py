"""Where benign pairs lie: what a card keeps of them, who writes it, and how unusual another pair is beside them."""

import asyncio
import difflib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from conftest import House, watchlist_document
from plain_words import WORDS
from scopewatch.app.load import load
from scopewatch.app.spine import offline
from scopewatch.calibration.card_making import made_with
from scopewatch.calibration.reference import reference_of
from scopewatch.calibration.split import split
from scopewatch.cli import main
from scopewatch.config import Config
from scopewatch.errors import WatchlistError
from scopewatch.explain.sentence_scores import sentence_scores
from scopewatch.pairs.copies import join_copies
from scopewatch.pairs.data_files import read_pairs
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.rows import digest_of
from scopewatch.pipeline.stages import Judged
from scopewatch.statistics.bounds import one_per_group
from scopewatch.types import Pair, ScoreJob, Segment
from scopewatch.verdicts import ScoredPair
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.reference import LEVELS, Reference, percentile, quantiles
from scopewatch.watch.splice import write_references
from scopewatch.watch.watchlist import load_watchlist

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

Run = Callable[..., tuple[int, str, str]]
finite = st.floats(-1e6, 1e6, allow_subnormal=False)
quarters = st.integers(-400, 400).map(lambda number: number / 4)
"""Numbers that six digits hold."""
ASCENDING = tuple(float(number) for number in range(11))
KEPT: dict[str, Any] = {
    "data": "traffic.jsonl: benign traffic",
    "n": 300,
    "score": ASCENDING,
    "ids": tuple(f"p{number}" for number in range(11)),
    "id_scores": ASCENDING,
}


def as_kept(values: Sequence[float]) -> tuple[float, ...]:
    """Quantiles by numpy, to six significant digits."""
    return tuple(float(f"{value:.6g}") for value in np.quantile(np.asarray(values, np.float64), LEVELS))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line, in this process."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(list(map(str, arguments)))
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return int(left.value.code or 0), told.out, told.err

    return run


class TestPercentile:
    @given(st.lists(finite, min_size=1, max_size=50), finite, finite)
    def test_it_grows_with_the_value_and_is_a_share(self, values: list[float], one: float, other: float) -> None:
        """Of two values the higher has no lower percentile, and both are from 0 to 1."""
        kept = quantiles(values)
        low, high = percentile(kept, min(one, other)), percentile(kept, max(one, other))
        assert 0 <= low <= high <= 1

    @given(st.lists(quarters, min_size=1, max_size=200), quarters)
    def test_it_lies_between_the_levels_around_the_value(self, values: list[float], value: float) -> None:
        """Not below the last level whose quantile is lower, and not above the first whose quantile is higher."""
        kept = quantiles(values)
        found = percentile(kept, value)
        assert found >= max((level for level, at in zip(LEVELS, kept, strict=True) if at < value), default=0.0) - 1e-12
        assert found <= min((level for level, at in zip(LEVELS, kept, strict=True) if at > value), default=1.0) + 1e-12

    @pytest.mark.parametrize(
        ("kept", "value", "share"),
        [
            (ASCENDING, -1.0, 0.0),
            (ASCENDING, 0.0, 0.0),
            (ASCENDING, 5.0, 0.5),
            (ASCENDING, 5.5, 0.625),
            (ASCENDING, 10.0, 1.0),
            (ASCENDING, 99.0, 1.0),
            ((0.0,) * 6 + ASCENDING[1:6], 0.0, 0.25),
            ((0.0,) * 6 + ASCENDING[1:6], -1e-9, 0.0),
            ((2.0,) * 11, 2.0, 0.5),
            ((2.0,) * 11, 1.9, 0.0),
            ((2.0,) * 11, 2.1, 1.0),
        ],
    )
    def test_ties_and_ends(self, kept: tuple[float, ...], value: float, share: float) -> None:
        """Below all it is 0, above all 1, between two levels on the line, and of equal quantiles in their middle."""
        assert percentile(kept, value) == pytest.approx(share)

    def test_what_was_rounded_when_kept_is_still_equal(self) -> None:
        """A third, which is kept with six digits, ties with the thirds that it is one of."""
        assert percentile(quantiles([1 / 3] * 20), 1 / 3) == 0.5


class TestReference:
    @given(st.lists(finite, min_size=1, max_size=300))
    def test_quantiles_are_numpys(self, values: list[float]) -> None:
        """Of scores, terms and sentences; and the pairs named are those nearest to each, with their own scores."""
        scores = np.array(values)
        pairs = [LabelledPair(Pair("", "a"), 0, row, id=f"p{row}") for row in range(len(values))]
        made = reference_of("some", pairs, scores, {"res/1 max": scores[::-1] * 2})
        assert made.score == as_kept(values)
        assert made.terms == {"res/1 max": as_kept(scores * 2)}
        assert (made.n, made.sentence_score) == (len(values), None)
        for name, own, level in zip(made.ids, made.id_scores, LEVELS, strict=True):
            score, wanted = scores[int(name[1:])], np.quantile(scores, level)
            assert own == float(f"{score:.6g}")
            assert abs(score - wanted) == np.abs(scores - wanted).min()

    def test_a_pair_without_an_id_is_known_by_its_place(self) -> None:
        """The name of the file, without its folders, and the line."""
        told = [
            LabelledPair(Pair("", "a"), 0, 7, id="7", file="/logs/of/today.jsonl").known_as,
            LabelledPair(Pair("", "a"), 0, 7, id="case-3", file="/logs/of/today.jsonl").known_as,
        ]
        assert told == ["today.jsonl:7", "case-3"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"score": [*ASCENDING[:9], 3.0, 11.0]}, r"score: quantiles ascend, but 3 stands after 8"),
            ({"score": [1.0, 2.0]}, r"score: holds 11 entries, one at each of the shares 0, 0.01, .*, 1; not 2"),
            ({"ids": ["a"]}, r"ids: holds 11 entries, .*; not 1"),
            ({"terms": {"mid/3 max": [*ASCENDING[:10], 0.0]}}, r"terms.mid/3 max: quantiles ascend, but 0 stands"),
            ({"sentence_score": [*ASCENDING[:10], "x"]}, r"sentence_score\[10\]: Input should be a number"),
            ({"n": 0}, "n: Input should be greater than or equal to 1"),
            ({"quantiles": []}, "quantiles: no such key here"),
        ],
    )
    def test_a_mistake_in_a_file_is_named_with_its_line(
        self, tmp_path: Path, change: dict[str, Any], message: str
    ) -> None:
        """The file, the line of the value, the path to it, and what is wrong."""
        document: Any = watchlist_document()
        kept = {name: list(value) if isinstance(value, tuple) else value for name, value in (KEPT | change).items()}
        measured = {"data": "others", "n": 200, "n_positive": 0}
        document["indicators"][0]["card"] = {"date": "2026-11-22", "calibrated_on": "some", "n": 4} | {
            "measurements": [measured],
            "reference": kept,
        }
        file = tmp_path / "list.yaml"
        file.write_text(yaml.safe_dump(document, sort_keys=False))
        with pytest.raises(WatchlistError) as wrong:
            load_watchlist(file)
        name = next(iter(change))
        line = next(i for i, text in enumerate(file.read_text().splitlines(), 1) if text.strip().startswith(f"{name}:"))
        assert "\n" not in str(wrong.value)
        told = str(wrong.value).removeprefix(f"{file}:")
        assert line <= int(told.partition(":")[0]) <= line + 12
        assert told.partition(": indicators[0].card.reference.")[1]
        wrong.match(message)


# A small watchlist with cards, and the command.


def rows_of(n: int, **more: object) -> list[dict[str, object]]:
    """Pairs of one to three sentences about things of their own, which have labels and ids."""
    draw = np.random.default_rng(5)
    rows = []
    for line in range(n):
        said = [f"The {' '.join(draw.choice(WORDS, 6))} is so." for _ in range(1 + line % 3)]
        rows.append({"id": f"case-{line}", "prompt": "Is it so?", "response": " ".join(said), "label": line % 2} | more)
    return rows


def written(file: Path, rows: Sequence[dict[str, object]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def carded(house: House, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test watchlist with a combination and a list of words, and cards that speak for what runs on all but two."""
    document: Any = watchlist_document()
    alpha, beta, gamma = document["indicators"]
    both = {"name": "both", "kind": "combination", "combines": [{"indicator": "alpha", "weight": 2.0}]}
    both["combines"] += [{"signal": "mean_entropy", "weight": 0.5}]
    words = {"name": "words", "kind": "words", "lexicon": ["so", "is"]}
    document["indicators"] = [alpha, beta, gamma, both | {"threshold": 0.0}, words | {"threshold": 0.5}]
    alpha["shows"] = "hedging"
    file = tmp_path_factory.mktemp("carded") / "list.yaml"
    shutil.copytree(house.folder, file.parent, dirs_exist_ok=True)
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    loaded = load(Config(), [load_watchlist(file)])
    digests = {sae.name: sae.digest for sae in loaded.engine.identity.saes}
    made = made_with(loaded.engine.identity, digests, loaded.watchlists[0].words).model_dump(mode="json")
    measured = {"data": "others", "n": 200, "n_positive": 0}
    card = {"date": "2026-11-22", "calibrated_on": "some", "n": 4, "measurements": [measured], "made_with": made}
    for one in (alpha, beta, document["indicators"][3], document["indicators"][4]):
        one["card"] = json.loads(json.dumps(card))
    document["indicators"][1]["card"]["made_with"]["dtype"] = "bfloat16"
    file.write_text("# Ours.\n" + yaml.safe_dump(document, sort_keys=False))
    return file


@pytest.fixture
def watchlist(carded: Path) -> Iterator[Path]:
    """The watchlist, which may be written."""
    before = carded.read_bytes()
    yield carded
    for file in carded.parent.glob("*.yaml"):
        file.unlink()
    carded.write_bytes(before)


def scored(file: Path, rows: Sequence[dict[str, Any]]) -> list[ScoredPair]:
    """What `Score` says of pairs."""

    async def run() -> list[Any]:
        async with offline(Config(), load(Config(), [load_watchlist(file)])) as spine:
            return await spine.score([ScoreJob(Pair(row["prompt"], row["response"]), "", "") for row in rows])

    return asyncio.run(run())


def read(file: Path, rows: Sequence[dict[str, Any]]) -> list[Judged]:
    """Pairs with all that they were judged by."""

    async def run() -> list[Judged]:
        async with offline(Config(), load(Config(), [load_watchlist(file)])) as spine:
            return [await spine.read(ScoreJob(Pair(row["prompt"], row["response"]), "", "")) for row in rows]

    return asyncio.run(run())


def reference(file: Path, name: str = "alpha") -> Reference:
    card = next(one for one in load_watchlist(file).indicators if one.name == name).card
    assert card is not None
    assert card.reference is not None
    return card.reference


class TestCommand:
    def test_scores_and_terms_are_those_that_score_gives(self, run: Run, watchlist: Path) -> None:
        """Of the pairs of label 0, quantiles equal numpy's of what the online scorer says; nothing else changes."""
        rows = rows_of(60)
        data = written(watchlist.parent / "data.jsonl", rows)
        names = ("alpha", "both", "words")
        asked = [flag for name in names for flag in ("--indicator", name)]
        before, text = load_watchlist(watchlist), watchlist.read_text()
        code, told, _ = run("watchlist", "reference", watchlist, data, *asked)
        assert code == 0
        assert [line.partition(":")[0] for line in told.splitlines()] == [*names, str(watchlist)]
        assert "30 benign pairs of data.jsonl: other pairs than the card's: score " in told

        benign = [row for row in rows if not row["label"]]
        found = [{one.name: one for one in pair.indicators} for pair in scored(watchlist, benign)]
        for name in names:
            made = reference(watchlist, name)
            assert made.n == 30
            assert made.score == as_kept([pair[name].score for pair in found])
            for level, pair_id, own in zip(made.score, made.ids, made.id_scores, strict=True):
                score = found[int(pair_id.removeprefix("case-")) // 2][name].score
                assert own == pytest.approx(score, rel=1e-5)
                assert abs(score - level) <= min(abs(pair[name].score - level) for pair in found) + 1e-5 * abs(level)
        pooled = [{f"{term.feature} {term.pooling}": term.pooled for term in pair["alpha"].features} for pair in found]
        assert list(reference(watchlist).terms) == ["mid/3 max", "late/7 mean", "mid/11 fraction_active"]
        for name, kept in reference(watchlist).terms.items():
            assert kept == as_kept([terms.get(name, 0.0) for terms in pooled])
        parts = [{str(term.feature): term.pooled for term in pair["both"].features} for pair in found]
        assert reference(watchlist, "both").terms == {
            name: as_kept([part[name] for part in parts]) for name in ("alpha", "mean_entropy")
        }
        assert reference(watchlist, "words").terms == {}

        after = load_watchlist(watchlist)
        for one, other in zip(before.indicators, after.indicators, strict=True):
            if other.card:
                assert one.card == other.card.model_copy(update={"reference": None})
            assert one == other.model_copy(update={"card": one.card})
        gone = [line for line in difflib.ndiff(text.splitlines(), watchlist.read_text().splitlines()) if line[0] == "-"]
        assert gone == []

    def test_sentences_are_scored_where_they_stand_and_expected_as_transformers_says(
        self, run: Run, watchlist: Path
    ) -> None:
        """By `sentence_scores` on the activations of each pair; log-probabilities are those of a model of transformers."""
        rows = rows_of(20)
        data = written(watchlist.parent / "data.jsonl", [{**row, "label": None} for row in rows])
        assert run("watchlist", "reference", watchlist, data, "--indicator", "alpha")[0] == 0
        made = reference(watchlist)
        model = AutoModelForCausalLM.from_pretrained(watchlist.parent / "reader", dtype=torch.float32)
        scores, logprobs = [], []
        for pair in read(watchlist, rows):
            tokens, covered = pair.read.tokenised.readings[0], pair.read.covered[0]
            ids = torch.tensor(tokens.ids[None].astype(np.int64))
            with torch.no_grad():
                told = model(ids).logits[0, :-1].double().log_softmax(-1)
            given = np.append(np.nan, told.gather(1, ids[0, 1:, None])[:, 0].numpy())
            for sentence in sentence_scores(pair.asked.watchlist, tokens, covered, Segment.RESPONSE):
                scores.append(next(one.score for one in sentence.indicators if one.name == "alpha"))
                logprobs.append(given[sentence.positions].mean())
        assert len(scores) == sum(row["response"].count(".") for row in rows)
        assert made.sentence_score == as_kept(scores)
        assert made.sentence_logprob == pytest.approx(as_kept(logprobs), abs=1e-4)
        assert reference(watchlist).score[0] < reference(watchlist).score[-1]

    def test_the_head_may_be_left_out(self, run: Run, watchlist: Path) -> None:
        """Without it sentences have scores and no log-probabilities; what shows no hedging has neither."""
        data = written(watchlist.parent / "data.jsonl", rows_of(12))
        asked = ("--indicator", "alpha", "--indicator", "words", "--no-logprob")
        assert run("watchlist", "reference", watchlist, data, *asked)[0] == 0
        made = reference(watchlist)
        assert (made.sentence_score is None, made.sentence_logprob) == (False, None)
        assert reference(watchlist, "words").sentence_score is None

    def test_one_pair_of_each_group_counts(self, run: Run, watchlist: Path) -> None:
        """Of groups and of copies one pair each, the one that the threshold of a calibration would take."""
        rows = [row | {"group": f"g{line // 6}"} for line, row in enumerate(rows_of(60, label=0))]
        data = written(watchlist.parent / "data.jsonl", [*rows, *({**row, "group": ""} for row in rows[:6])])
        code, told, _ = run("watchlist", "reference", watchlist, data, "--indicator", "words", "--json")
        made = json.loads(told)["references"]["words"]
        assert (code, made["n"]) == (0, 10)
        groups = join_copies(read_pairs_of(data), "response").pairs
        mine = one_per_group([pair.group for pair in groups])
        texts = [{"prompt": groups[row].pair.prompt, "response": groups[row].pair.response} for row in mine]
        own = [next(one.score for one in pair.indicators if one.name == "words") for pair in scored(watchlist, texts)]
        assert tuple(made["score"]) == as_kept(own)
        run("watchlist", "reference", watchlist, data, "--indicator", "words", "--most", "4")
        assert reference(watchlist, "words").data.endswith(", 4 of 10 drawn")

    def test_unlabelled_rows_are_benign_and_most_are_drawn(self, run: Run, watchlist: Path) -> None:
        """Rows without a label count, those of label 1 do not, and --most takes so many of them."""
        rows = [{**row, "label": [None, 0, 1][line % 3]} for line, row in enumerate(rows_of(60))]
        data = written(watchlist.parent / "data.jsonl", rows)
        run("watchlist", "reference", watchlist, data, "--indicator", "words")
        whole = reference(watchlist, "words")
        run("watchlist", "reference", watchlist, data, "--indicator", "words", "--most", "7")
        drawn = reference(watchlist, "words")
        assert (whole.n, drawn.n) == (40, 7)
        assert drawn.data == "data.jsonl: other pairs than the card's, 7 of 40 drawn"
        run("watchlist", "reference", watchlist, data, "--indicator", "words", "--flip-labels")
        assert reference(watchlist, "words").n == 40
        ids = {row["id"] for row in rows if row["label"] != 0}
        assert set(reference(watchlist, "words").ids) <= ids

    def test_traffic_that_the_card_knows_is_recognised(self, run: Run, watchlist: Path) -> None:
        """By its digest, whatever it is called."""
        data = written(watchlist.parent / "data.jsonl", [{**row, "label": None} for row in rows_of(12)])
        file = {"name": "elsewhere.jsonl", "sha256": digest_of(data), "n": 12, "n_positive": 0}
        document = yaml.safe_load(watchlist.read_text())
        document["indicators"][4]["card"]["traffic"] = [file]
        watchlist.write_text(yaml.safe_dump(document, sort_keys=False))
        assert run("watchlist", "reference", watchlist, data, "--indicator", "words")[0] == 0
        assert reference(watchlist, "words").data == "data.jsonl: benign traffic"

    def test_rows_left_out_are_told(self, run: Run, watchlist: Path) -> None:
        """As everywhere: the first few, their number and the exit code."""
        data = written(watchlist.parent / "data.jsonl", rows_of(12, label=0))
        data.write_text(data.read_text() + "{\n")
        code, _, error = run("watchlist", "reference", watchlist, data, "--indicator", "words")
        assert code == 3
        assert "words: read 13 rows, used 12, left out 1: 1 unreadable" in error

    def test_another_file_may_be_written(self, run: Run, watchlist: Path) -> None:
        """The watchlist stays; what is written is the whole of it."""
        data, out = written(watchlist.parent / "data.jsonl", rows_of(12)), watchlist.parent / "next.yaml"
        before = watchlist.read_bytes()
        told = run("watchlist", "reference", watchlist, data, "--indicator", "words", "--out", out)[1]
        assert told.endswith(f"{out}: written\n")
        assert watchlist.read_bytes() == before
        assert [one.name for one in load_watchlist(out).indicators] == ["alpha", "beta", "gamma", "both", "words"]
        assert reference(out, "words").n == 6

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--indicator", "delta"), "has no 'delta' (alpha, beta, gamma, both, words)"),
            (("--indicator", "gamma"), "gamma of LIST has no card; calibrate it first (scopewatch calibrate)"),
            (("--indicator", "beta"), "LIST:LINE: indicators[1].card: the card was made with dtype bfloat16"),
            ((), "LIST:LINE: indicators[1].card: the card was made with dtype bfloat16"),
            (("--most", "0"), "argument --most: '0': expected a number of at least 1"),
            (("--out", "FOLDER/data.jsonl"), "FOLDER/data.jsonl is there already; name another file"),
            (("--out", "/tmp/next.yaml"), "names files by paths that count from its folder; name a file in that"),
            (("--indicator", "words", "--label-column", "one"), "no pair is benign: all have the label 1"),
        ],
    )
    def test_what_cannot_be_is_refused(
        self, run: Run, watchlist: Path, arguments: tuple[str, ...], message: str
    ) -> None:
        """One message that names the argument or the line, and the mend; the file stays."""
        data = written(watchlist.parent / "data.jsonl", [{**row, "one": 1} for row in rows_of(12)])
        before = watchlist.read_bytes()
        given = [argument.replace("FOLDER", str(watchlist.parent)) for argument in arguments]
        code, told, error = run("watchlist", "reference", watchlist, data, *given)
        line = next(i for i, text in enumerate(before.decode().splitlines(), 1) if "bfloat16" in text)
        message = message.replace("FOLDER", str(watchlist.parent)).replace("LIST", str(watchlist))
        if "LINE" in message:
            shown = int(error.partition(f"{watchlist}:")[2].partition(":")[0])
            assert line - 20 <= shown <= line
            message = message.replace("LINE", str(shown))
        assert (code, told) == (2, "")
        assert message in error
        assert watchlist.read_bytes() == before

    def test_without_any_card_there_is_nothing_to_do(self, run: Run, house: House, tmp_path: Path) -> None:
        """The message says what to do first."""
        data = written(tmp_path / "data.jsonl", rows_of(4))
        code, _, error = run("watchlist", "reference", house.watchlist, data)
        assert code == 2
        assert "no indicator has a card; calibrate it first" in error

    def test_indicators_without_a_card_are_passed_over_and_named(self, run: Run, watchlist: Path) -> None:
        """Where none is asked for by name, all get a reference that have a card, and the others are told."""
        document = yaml.safe_load(watchlist.read_text())
        del document["indicators"][1]["card"]
        watchlist.write_text(yaml.safe_dump(document, sort_keys=False))
        data = written(watchlist.parent / "data.jsonl", rows_of(8))
        code, told, _ = run("watchlist", "reference", watchlist, data, "--no-logprob")
        assert code == 0
        for name in ("beta", "gamma"):
            assert f"{name}: left as it is, since it has no card; calibrate it first\n" in told
        assert {one.name for one in load_watchlist(watchlist).indicators if one.card and one.card.reference} == {
            "alpha",
            "both",
            "words",
        }


def read_pairs_of(data: Path) -> Any:
    """The pairs of a file whose labels may all be alike."""
    from scopewatch.pairs.data_files import read_texts

    return read_texts(data)


# Calibrations.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calibrated")


@pytest.fixture(scope="module")
def train(folder: Path) -> Path:
    """Hedged sentences (1) and plain ones, two in each group."""
    draw = np.random.default_rng(3)
    rows = []
    for line in range(200):
        subject, thing = draw.choice(WORDS, 2)
        hedged = f"Perhaps the {subject} might possibly change the {thing} of {line}, we are not sure."
        plain = f"The {subject} changed the {thing} in {line} cases, as the table shows."
        label = line // 2 % 2
        rows.append(
            {"response": hedged if label else plain, "label": label, "group": f"g{line // 2}", "id": f"c{line}"}
        )
    return written(folder / "train.jsonl", rows)


CALIBRATE = ("--indicator", "hedging", "--max-fpr", "0.2", "--force", "--no-fragility")


def held_out_benign(train: Path) -> list[LabelledPair]:
    """The pairs that set the threshold: held out, of label 0, one of each group."""
    pairs = join_copies(read_pairs(train), "response").pairs
    held = [pairs[row] for row in split(pairs, 0.5, np.ones(len(pairs), bool)).held_out if not pairs[row].label]
    return [held[row] for row in one_per_group([pair.group for pair in held])]


class TestCalibrate:
    @pytest.mark.parametrize(
        ("name", "made"),
        [
            ("hedging", ("--terms", "4", "--shows", "hedging")),
            ("dense", ("--kind", "probe")),
            ("listed", ("--kind", "words", "--lexicon", "hedges")),
            ("bag", ("--kind", "words")),
            ("both", ("--combine", "hedging,mean_logprob")),
        ],
    )
    def test_a_calibration_keeps_where_its_benign_pairs_lie(
        self, run: Run, train: Path, folder: Path, name: str, made: tuple[str, ...]
    ) -> None:
        """Quantiles equal numpy's of what the online scorer says of the held-out benign pairs, one of each group."""
        out = folder / f"made-{name}.yaml"
        if name == "both":
            assert (
                run("calibrate", train, *CALIBRATE[2:], "--terms", "4", "--indicator", "hedging", "--out", out)[0] == 0
            )
        asked = (*CALIBRATE[2:], *made, "--indicator", name, "--out", out)
        work = () if "words" in made or "--combine" in made else ("--work-dir", folder / "work")
        assert run("calibrate", train, *asked, *work)[0] == 0
        benign = held_out_benign(train)
        found = scored(out, [{"prompt": "", "response": pair.pair.response} for pair in benign])
        told = [next(one for one in pair.indicators if one.name == name) for pair in found]
        kept = reference(out, name)
        assert (kept.n, kept.data) == (len(benign), "train.jsonl: the groups held out")
        assert kept.score == pytest.approx(as_kept([one.score for one in told]), rel=1e-4, abs=1e-5)
        assert set(kept.ids) <= {pair.id for pair in benign}
        indicator: Indicator = next(one for one in load_watchlist(out).indicators if one.name == name)
        assert tuple(kept.terms) == indicator.term_names
        assert (indicator.shows, kept.sentence_score) == ("hedging" if name == "hedging" else "", None)
        for term, values in kept.terms.items():
            plain = name == "both"
            pooled = [
                {str(part.feature) if plain else f"{part.feature} {part.pooling}": part.pooled for part in one.features}
                for one in told
            ]
            own = as_kept([each.get(term, 0.0) for each in pooled])
            assert values == pytest.approx(own, rel=1e-4, abs=1e-5)

    def test_the_command_makes_the_same_of_the_same_pairs(self, run: Run, train: Path, folder: Path) -> None:
        """It knows the files by their digests and uses the pairs that were held out; a part of them is refused."""
        out, other = folder / "same.yaml", written(folder / "other.jsonl", rows_of(30))
        assert run("calibrate", train, *CALIBRATE, "--out", out, "--terms", "4", "--work-dir", folder / "work")[0] == 0
        made = reference(out, "hedging")
        assert run("watchlist", "reference", out, train)[0] == 0
        again = reference(out, "hedging")
        assert (again.n, again.data, again.ids) == (made.n, made.data, made.ids)
        assert again.score == pytest.approx(made.score, rel=1e-4, abs=1e-5)
        assert list(again.terms) == list(made.terms)
        for name, kept in again.terms.items():
            assert kept == pytest.approx(made.terms[name], rel=1e-4, abs=1e-5)
        error = run("watchlist", "reference", out, train, other)[2]
        assert "train.jsonl: hedging was calibrated on it with other files; leave out other.jsonl, so that" in error
        error = run("watchlist", "reference", out, train, "--held-out", "0.3")[2]
        assert "pairs were held out, " in error
        assert " of them positive, and a share of 0.3 makes" in error
        wrong = run("watchlist", "reference", out, train, "--flip-labels")
        assert "give --held-out and --flip-labels as the calibration had them" in wrong[2]
        assert reference(out, "hedging") == again

    def test_benign_traffic_sets_the_reference_too(self, run: Run, train: Path, folder: Path) -> None:
        """Of one pair of each group of the traffic, with the pooled values of the terms."""
        out = folder / "benign.yaml"
        assert run("calibrate", train, *CALIBRATE, "--out", out, "--terms", "4", "--work-dir", folder / "work")[0] == 0
        traffic = written(folder / "traffic.jsonl", rows_of(40))
        assert run("calibrate", traffic, *CALIBRATE[:-1], "--benign", "--out", out)[0] == 0
        kept = reference(out, "hedging")
        found = scored(out, rows_of(40))
        assert (kept.n, kept.data) == (40, "traffic.jsonl: benign traffic")
        assert kept.score == as_kept([pair.indicators[0].score for pair in found])
        assert len(kept.terms) == 4
        for term, values in kept.terms.items():
            pooled = [
                sum(one.pooled for one in pair.indicators[0].features if f"{one.feature} {one.pooling}" == term)
                for pair in found
            ]
            assert values == as_kept(pooled)


class TestWriting:
    OURS = """\
version: 1
name: clinic
reader: {id: google/gemma-2-2b}   # the base model
saes: {res: {path: sae/params.npz}}
indicators:
  # The one that pages somebody.
  - name: first
    features: [{feature: res/1}]
    threshold: 0.50   # by eye
    card:
        date: "2026-11-22"   # a Sunday
        calibrated_on: some
        n: 4
        measurements: [{data: others, n: 200, n_positive: 0}]   # more to come
    severity: high

  - name: second
    features: [{feature: res/2}]
    threshold: 1.0
    card: {date: "2026-11-22", calibrated_on: some, n: 4, measurements: [{data: others, n: 2, n_positive: 0}]}
"""

    @pytest.mark.parametrize("line_end", ["\n", "\r\n"])
    def test_only_the_reference_is_written_one_line_a_list(self, tmp_path: Path, line_end: str) -> None:
        """Every other line stays, letter by letter, and what is read is what was written; a second takes its place."""
        file = tmp_path / "ours.yaml"
        file.write_bytes(self.OURS.replace("\n", line_end).encode())
        odd = Reference(**KEPT | {"ids": ("no", "007", "a: b", "=", "x\ny", "é“", "", "so?", "1e3", "{", "'")})
        small = tuple(-1.23457e-07 * 0.5**number for number in range(11))
        kept = odd.model_copy(update={"terms": {"res/1 k_of_n(k=2, n=6)": small}, "sentence_score": small})
        written = write_references(load_watchlist(file), {"first": kept}, file)
        assert written.indicators[0].card.reference == kept
        assert load_watchlist(file).indicators[0].card.reference == kept
        text = file.read_bytes().decode()
        lines = list(difflib.ndiff(self.OURS.splitlines(), text.split(line_end)))
        assert not [line for line in lines if line[0] == "-"]
        came = [line[2:] for line in lines if line[0] == "+" and line[2:]]
        assert sum(line.endswith("]") and line.count("[") == 1 for line in came) == 5
        assert len(came) == 9

        write_references(load_watchlist(file), {"first": odd}, file)
        again = file.read_bytes().decode()
        assert load_watchlist(file).indicators[0].card.reference == odd
        assert [line for line in again.split(line_end) if line not in self.OURS.splitlines()] != came
        assert again.count("reference:") == 1

    def test_a_card_on_one_line_is_written_anew(self, tmp_path: Path) -> None:
        """Where no line can be added, the file says the same and the comments stay."""
        file = tmp_path / "ours.yaml"
        file.write_text(self.OURS)
        before = load_watchlist(file)
        kept = Reference(**KEPT)
        after = write_references(before, {"first": kept, "second": kept}, file)
        assert [one.card.reference for one in after.indicators] == [kept, kept]
        assert [one.model_copy(update={"card": None}) for one in after.indicators] == [
            one.model_copy(update={"card": None}) for one in before.indicators
        ]
        assert "# The one that pages somebody." in file.read_text()

    def test_a_rehearsal_writes_nothing(self, tmp_path: Path) -> None:
        """Nor does one leave anything behind."""
        file = tmp_path / "ours.yaml"
        file.write_text(self.OURS)
        write_references(load_watchlist(file), {"first": Reference(**KEPT)}, file, rehearse=True)
        assert file.read_text() == self.OURS
        assert list(tmp_path.iterdir()) == [file]
