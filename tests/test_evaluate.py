"""Labelled data in, evidence out: what the numbers are, and what is said of a file that cannot be used."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from conftest import scored_pair
from scopewatch.calibration.evaluation import Baselines, Evaluation, Part, evaluate
from scopewatch.calibration.evaluation_report import as_text
from scopewatch.errors import (
    DataError,
    EngineError,
    FieldViolation,
    InvalidRequest,
    NothingUsable,
    Overloaded,
    ScopewatchError,
)
from scopewatch.pairs.data_files import Reading, read_pairs
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.left_out import Tally
from scopewatch.pairs.scored import score_pairs
from scopewatch.types import Coverage, Pair, ScoreJob, Turn
from scopewatch.verdicts import IndicatorScore, ScoredPair, Verdict


@dataclass
class FakeScorer:
    """Scores a pair by the number that is its response; flags above 0."""

    calls: list[list[ScoreJob]] = field(default_factory=list)
    instead: dict[str, ScopewatchError] = field(default_factory=dict)
    skipped: str = ""
    truncated: frozenset[str] = frozenset()
    mapped: bool = False
    verdict: Verdict = Verdict.PASS

    async def __call__(self, jobs: Sequence[ScoreJob]) -> list[ScoredPair | ScopewatchError]:
        self.calls.append(list(jobs))
        return [self.instead.get(job.pair.response) or self._score(job.pair.response) for job in jobs]

    def _score(self, text: str) -> ScoredPair:
        score = float(text)
        decoy = IndicatorScore("decoy", -score, 0.0, flagged=score <= 0, severity="low", calibrated=False)
        found = IndicatorScore(
            *("alpha", score, 0.0, score > 0, "high", True),
            probability=1 / (1 + np.exp(-score)) if self.mapped else None,
            card_warning="made elsewhere",
            skipped_reason=self.skipped,
        )
        coverage = Coverage(9, 4, 4, 0, response_tokens_dropped=int(text in self.truncated))
        return scored_pair(self.verdict, (decoy, found), coverage, "clinic")


Row = tuple[float, int] | tuple[float, int, str] | tuple[float, int, str, str]


def labelled(*rows: Row) -> list[LabelledPair]:
    """Pairs from (score, label, group, source); each in a group of its own where none is given."""
    return [
        LabelledPair(Pair("", str(score)), label, line, *(rest or [f"g{line}"]))
        for line, (score, label, *rest) in enumerate(rows, 1)
    ]


async def evaluated(*rows: Row, scorer: FakeScorer | None = None, baselines: Baselines | None = None) -> Evaluation:
    pairs = labelled(*rows)
    scored = await score_pairs(pairs, ["alpha"], "", scorer or FakeScorer())
    return evaluate(pairs, scored.by_indicator["alpha"], baselines)


def auroc_by_hand(rows: Sequence[tuple[float, int]]) -> float:
    """Share of (positive, negative) couples in the right order, ties for half."""
    positives = [score for score, label in rows if label]
    negatives = [score for score, label in rows if not label]
    won = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    return won / (len(positives) * len(negatives))


HAND = [(3, 1), (2, 1), (1, 1), (-1, 1), (2.5, 0), (0.5, 0), (0, 0), (-1, 0), (-2, 0), (-3, 0)]


async def test_the_numbers_are_those_counted_by_hand() -> None:
    """Four positives of which three are flagged, six negatives of which two are: every rate, bound and count is right."""
    found = await evaluated(*HAND, scorer=FakeScorer(truncated=frozenset({"2.5", "-1"})))
    names = "indicator watchlist n n_positive n_groups threshold tpr fpr fpr_upper_n precision truncated calibrated"

    assert ["alpha", "clinic", 10, 4, 10, 0.0, 3 / 4, 2 / 6, 6, 3 / 5, 3, True] == [
        getattr(found, name) for name in names.split()
    ]
    assert pytest.approx((6 + 5 + 5 + 2.5) / 24) == found.auroc
    assert found.auroc_low < found.auroc < found.auroc_high
    assert pytest.approx(beta.ppf(0.95, 2 + 1, 6 - 2)) == found.fpr_upper
    assert pytest.approx(beta.ppf(0.05, 3, 4 - 3 + 1)) == found.tpr_low
    assert (None, [], []) == (found.ece, found.reliability, found.groups)
    assert ({}, {}, "", "made elsewhere") == (
        found.baselines,
        found.differences,
        found.baselines_fitted_on,
        found.card_warning,
    )


ROWS = st.lists(
    st.tuples(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 7.0]), st.integers(0, 1)), min_size=2, max_size=150
)


@settings(max_examples=40)
@given(ROWS.filter(lambda rows: len({label for _, label in rows}) == 2))
async def test_the_numbers_agree_with_scikit_learn(rows: list[tuple[float, int]]) -> None:
    """AUROC, rates, precision and calibration equal scikit-learn's and a count of couples, with ties and any balance."""
    found = await evaluated(*rows, scorer=FakeScorer(mapped=True))
    scores, labels = zip(*rows, strict=True)
    flags = [score > 0 for score in scores]
    assert pytest.approx(auroc_by_hand(rows)) == found.auroc
    assert pytest.approx(roc_auc_score(labels, scores)) == found.auroc
    assert pytest.approx(recall_score(labels, flags)) == found.tpr
    assert pytest.approx(1 - recall_score(labels, flags, pos_label=0)) == found.fpr
    assert (pytest.approx(precision_score(labels, flags)) if any(flags) else None) == found.precision
    assert (len(rows), sum(labels)) == (found.n, found.n_positive)
    true, stated = calibration_curve(labels, 1 / (1 + np.exp(-np.array(scores))), n_bins=10)
    assert pytest.approx(true) == [part.share_positive for part in found.reliability]
    gaps = [part.n / len(rows) * abs(t - s) for part, t, s in zip(found.reliability, true, stated, strict=True)]
    assert pytest.approx(sum(gaps)) == found.ece


async def test_the_bound_counts_one_pair_of_a_group() -> None:
    """A group of many pairs is one observation: the bound is that of as many pairs as there are groups."""
    rows = [(1, 1, "p")] + [(-1, 0, f"g{n % 8}") for n in range(400)]
    found = await evaluated(*rows)

    assert (400, 8, 0.0) == (found.n - found.n_positive, found.fpr_upper_n, found.fpr)
    assert pytest.approx(1 - 0.05 ** (1 / 8)) == found.fpr_upper


async def test_a_rate_stands_beside_the_bound_of_the_same_unit() -> None:
    """One group with many false positives: of all pairs 60 of 160 are wrong, of the groups one of 101 is, as is bound."""
    rows = [(1, 1, "p")] + [(1, 0, "bad")] * 60 + [(-1, 0, f"g{n}") for n in range(100)]
    found = await evaluated(*rows)

    assert (60 / 160, 1 / 101, 101) == (found.fpr, found.fpr_groups, found.fpr_upper_n)
    assert pytest.approx(beta.ppf(0.95, 2, 100)) == found.fpr_upper > found.fpr_groups
    line = next(line for line in as_text(found).splitlines() if "false positives" in line)
    assert "1.0% of one pair a group (101), at most 4.6%; 37.5% of all pairs" in " ".join(line.split())


async def test_groups_and_sources_have_their_own_rows() -> None:
    """Groups of two and more are listed by size and name, sources all; a rate without a pair to count it on is None."""
    rows = [(2, 1, "a", "x"), (1, 0, "a", "x"), (-1, 0, "a", "y"), (1, 0, "c", "y"), (3, 0, "c", "y")]
    rows += [(-1, 1, "b", "y"), (3, 1, "b", "y"), (5, 1, "alone", "y")]
    found = await evaluated(*rows)

    assert found.groups == [
        Part("a", 3, 1, 1.0, 1.0, 0.5, pytest.approx(2 / 3)),
        Part("b", 2, 2, None, 0.5, None, 1.0),
        Part("c", 2, 0, None, None, 1.0, 2.0),
    ]
    assert [("x", 2, 1), ("y", 6, 3)] == [(part.name, part.n, part.n_positive) for part in found.sources]
    assert (4, 0) == (found.n_groups, found.groups_left_out)


async def test_a_thousand_groups_are_listed() -> None:
    """Of more groups the largest thousand are listed and the others counted."""
    rows = [(group + label, label, f"g{group}") for group in range(1002) for label in (0, 1)] + [(1, 0, "g1001")]
    found = await evaluated(*rows)

    assert (1000, 2, "g1001", 3) == (
        len(found.groups),
        found.groups_left_out,
        found.groups[0].name,
        found.groups[0].n,
    )


async def test_baselines_stand_beside_the_indicator() -> None:
    """Every baseline has its AUROC and interval, and what the indicator is ahead or behind on the same resamplings."""
    rng = np.random.default_rng(0)
    labels = rng.random(300) < 0.4
    scores = {name: rng.normal(size=300) + shift * labels for name, shift in [("alpha", 1), ("better", 3), ("same", 1)]}
    pairs = labelled(*zip(scores["alpha"], labels.astype(int).tolist(), strict=True))
    rivals = {"better": scores["better"], "same": scores["same"], "bag_of_words": scores["alpha"] * 2}
    scored = await score_pairs(pairs, ["alpha"], "", FakeScorer())
    found = evaluate(pairs, scored.by_indicator["alpha"], Baselines(rivals, "Fitted there."))

    assert {name: pytest.approx(roc_auc_score(labels, theirs)) for name, theirs in rivals.items()} == found.baselines
    assert all(low < found.baselines[name] < high for name, (low, high) in found.baseline_intervals.items())
    assert "Fitted there." == found.baselines_fitted_on
    assert found.differences["better"].high < 0
    assert found.differences["same"].low < 0 < found.differences["same"].high
    assert 0 == found.differences["bag_of_words"].value


async def test_the_document_is_json() -> None:
    """What `--json` prints has every number under the name of its field, rows under the name of their kind."""
    rivals = Baselines({"bag_of_words": np.arange(4.0)}, "there")
    rows = [(2, 1, "a", "x"), (1, 0, "a", "x"), (-1, 0, "a", "y"), (1, 1, "c", "y")]
    found = await evaluated(*rows, scorer=FakeScorer(mapped=True), baselines=rivals)
    document = json.loads(json.dumps(found.document(), allow_nan=False))

    assert {*Evaluation.__dataclass_fields__, "interval", "beats_bag_of_words"} == set(document)
    assert [found.auroc_low, found.auroc_high] == document["interval"]
    lead = found.differences["bag_of_words"]
    assert {"difference": lead.value, "low": lead.low, "high": lead.high} == document["beats_bag_of_words"]
    assert ["group", "n", "n_positive", "auroc", "tpr", "fpr", "mean_score"] == list(document["groups"][0])
    assert ["x", "y"] == [row["source"] for row in document["sources"]]
    assert {"bag_of_words": list(found.baseline_intervals["bag_of_words"])} == document["baseline_intervals"]


async def test_pairs_are_scored_in_batches_in_order() -> None:
    """A large file goes through in batches of bounded size, under the watchlist asked for, each line once."""
    scorer = FakeScorer()
    scored = await score_pairs(labelled(*((line, line % 2) for line in range(150))), ["alpha"], "clinic", scorer)
    assert [64, 64, 22] == [len(jobs) for jobs in scorer.calls]
    jobs = [job for call in scorer.calls for job in call]
    assert [str(line) for line in range(1, 151)] == [job.request_id for job in jobs]
    assert {"clinic"} == {job.watchlist for job in jobs}
    assert list(range(150)) == scored.by_indicator["alpha"].scores.tolist()


@pytest.mark.parametrize(
    ("scorer", "indicator", "problem"),
    [
        pytest.param(
            FakeScorer(), "gamma", "indicator 'gamma': watchlist clinic has decoy, alpha", id="no such indicator"
        ),
        pytest.param(
            FakeScorer(instead={"2": EngineError("the reader failed")}),
            "alpha",
            "x, line 2: the reader failed",
            id="failure",
        ),
        pytest.param(
            FakeScorer(skipped="empty_segment"),
            "alpha",
            "x, line 1: alpha cannot be scored: empty_segment",
            id="skipped",
        ),
    ],
)
async def test_what_cannot_be_measured_is_named(scorer: FakeScorer, indicator: str, problem: str) -> None:
    """Where every row has to be used, a pair that fails or is skipped stops the measurement at its line."""
    pairs = labelled((1, 1, "a", "x"), (2, 0, "b", "x"))
    with pytest.raises(DataError) as caught:
        await score_pairs(pairs, [indicator], "", scorer, reading=Reading(strict=True))
    assert problem == str(caught.value).replace(".0", "")


async def test_pairs_that_cannot_be_measured_are_left_out_and_counted() -> None:
    """The others are measured, as if these had not been there, and the evaluation says how many were left out and why."""
    rows = [(3, 1), (1, 1), (9, 1), (-1, 0), (2, 0), (8, 0)]
    refused = {"9": InvalidRequest(FieldViolation("history", "is odd")), "8": EngineError("failed")}
    scored = await score_pairs(labelled(*rows), ["alpha", "decoy"], "", FakeScorer(instead=refused))
    tally = Tally(6).without(scored.left_out)
    found = evaluate(scored.pairs, scored.by_indicator["alpha"], tally=tally)
    without = await evaluated(*(row for row in rows if str(row[0]) not in refused))

    assert [1, 2, 4, 5] == [pair.line for pair in scored.pairs]
    assert [-3, -1, 1, -2] == scored.by_indicator["decoy"].scores.tolist()
    assert (6, {"invalid_request": 1, "engine_error": 1}) == (found.rows, found.left_out)
    assert without == replace(found, rows=4, left_out={})
    assert ["line 3: history: is odd", "line 6: failed"] == [str(row).partition(", ")[2] for row in scored.left_out]
    assert "2 of 6 rows were left out: 1 invalid_request, 1 engine_error." in as_text(found)


async def test_a_pair_without_room_is_asked_again() -> None:
    """A queue that is full is waited for, and never counted; only the pairs that it refused are asked again."""
    full = Overloaded("the queue is full", retry_after_s=0.01)
    scorer = FakeScorer()
    asked: list[list[str]] = []

    async def busy(jobs: Sequence[ScoreJob]) -> list[ScoredPair | ScopewatchError]:
        asked.append([job.pair.response for job in jobs])
        answers = await scorer(jobs)
        return [
            full if len(asked) < 3 and job.pair.response != "2" else one for job, one in zip(jobs, answers, strict=True)
        ]

    scored = await score_pairs(labelled((1, 1), (2, 0), (3, 1)), ["alpha"], "", busy)

    assert ([], [1, 2, 3]) == (scored.left_out, scored.by_indicator["alpha"].scores.tolist())
    assert [["1", "2", "3"], ["1", "3"], ["1", "3"]] == asked


async def test_incomplete_pairs_are_counted() -> None:
    """Of a pair that was not read whole the evaluation says so, and measures it."""
    found = await evaluated(*HAND, scorer=FakeScorer(verdict=Verdict.INCOMPLETE))

    assert (10, 10) == (found.n, found.incomplete)
    assert "10 pairs have the verdict INCOMPLETE" in as_text(found)


class TestReading:
    def read(self, folder: Path, *lines: object) -> list[LabelledPair]:
        file = folder / "data.jsonl"
        rows = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
        file.write_bytes("\n".join(rows).encode())
        return read_pairs(file, reading=Reading(strict=True)).pairs

    def test_rows_are_read_with_their_lines(self, tmp_path: Path) -> None:
        """Empty lines are passed over but counted, other keys ignored; what may be left out has a stand-in."""
        full = {"prompt": "p", "response": "r", "label": 1, "group": 3, "source": "s", "id": 7, "meta": {}}
        turns = [{"role": "user", "content": "hi"}]
        found = self.read(tmp_path, full, "", "  ", {"response": "s", "label": 0, "history": turns})
        assert LabelledPair(Pair("p", "r"), 1, 1, "3", "s", "7") == found[0]
        assert LabelledPair(Pair("", "s", (Turn("user", "hi"),)), 0, 4, found[1].group, "data", "4") == found[1]

    def test_copies_of_a_pair_are_one_group(self, tmp_path: Path) -> None:
        """Where a file has no groups, pairs with the same texts share one, and others do not."""
        rows = [{"prompt": p, "response": r, "label": n % 2} for n, (p, r) in enumerate(["ab", "ab", "ac", "bb"])]
        groups = [item.group for item in self.read(tmp_path, *rows)]
        assert [0, 0, 2, 3] == [groups.index(group) for group in groups]

    @pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85"], ids=ascii)
    def test_line_ends_inside_a_text_do_not_split_it(self, tmp_path: Path, odd: str) -> None:
        """Rows end with a line feed and nothing else; the other line ends that JSON may hold belong to the text."""
        found = self.read(tmp_path, *({"response": f"a{odd}b", "label": label} for label in (0, 1)))
        assert [item.pair.response for item in found] == [f"a{odd}b"] * 2

    def test_lines_may_end_as_on_windows(self, tmp_path: Path) -> None:
        """A carriage return before the line feed is no part of the row."""
        found = self.read(tmp_path, '{"response": "a", "label": 0}\r', '{"response": "b", "label": 1}\r')
        assert [(item.pair.response, item.label, item.line) for item in found] == [("a", 0, 1), ("b", 1, 2)]

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            pytest.param('{"response": "r", "label": 1', "not JSON: Expecting ',' delimiter at column 29", id="cut"),
            pytest.param("response,label", "not JSON: Expecting value at column 1", id="csv"),
            pytest.param(["r", 1], "expected an object with response or messages", id="list"),
            pytest.param({"response": "r"}, "label: expected 0 or 1, but there is none", id="no label"),
            pytest.param({"response": "r", "label": 2}, "label: expected 0 or 1, not 2", id="label 2"),
            *(
                pytest.param(
                    {"response": "r", "label": label},
                    f"label: expected 0 or 1, not {label!r}; write the number {meant} for it",
                    id=f"label {label!r}",
                )
                for label, meant in [(True, 1), (False, 0), ("1", 1), ("yes", 1), (" No ", 0), ("TRUE", 1)]
            ),
            pytest.param({"response": "r", "label": "maybe"}, "label: expected 0 or 1, not 'maybe'", id="label word"),
            pytest.param({"response": "r", "label": [1]}, "label: expected 0 or 1, not [1]", id="label list"),
            pytest.param('{"response": "r", "label": NaN}', "label: expected 0 or 1, not nan", id="label nan"),
            pytest.param({"label": 1}, "response: expected text that is not empty; there are: label", id="no response"),
            pytest.param({"response": " \n", "label": 1}, "response: expected text that is not empty", id="blank"),
            pytest.param({"response": 7, "label": 1}, "response: expected text", id="number"),
            pytest.param({"prompt": 5, "response": "r", "label": 1}, "prompt: expected text", id="prompt number"),
            pytest.param({"response": "r", "label": 1, "group": [1]}, "group: expected text", id="group list"),
            pytest.param(
                {"response": "r", "label": 1, "history": ["hi"]},
                "history[0]: expected an object with role and content",
                id="history",
            ),
            pytest.param(
                '{"response": "cut \\ud83d", "label": 1}', "response: half a surrogate pair is no text", id="surrogate"
            ),
            pytest.param(
                {"response": "a\0", "label": 1}, "response: holds a NUL character at offset 1; remove it", id="NUL"
            ),
            pytest.param(
                {"response": "r", "label": 1, "history": [{"content": "hi"}]},
                "history[0]: a turn has no role; write user, assistant or system",
                id="no role",
            ),
            pytest.param("[" * 100_000, "nested too deeply", id="deep"),
        ],
    )
    def test_a_wrong_row_is_named_with_its_line(self, tmp_path: Path, line: object, problem: str) -> None:
        """A row that cannot be used is refused with file, line and what is wrong."""
        good = [{"response": "r", "label": label} for label in (0, 1)]
        with pytest.raises(DataError) as caught:
            self.read(tmp_path, *good, line, good[0])
        assert str(caught.value) == f"{tmp_path}/data.jsonl:3: {problem}"

    def test_a_file_full_of_wrong_rows_is_cut_short(self, tmp_path: Path) -> None:
        """The first five wrong lines are shown, the rest counted."""
        (tmp_path / "data.jsonl").write_text("rubbish\n" * 12)
        with pytest.raises(NothingUsable) as caught:
            read_pairs(tmp_path / "data.jsonl")
        first, *lines = str(caught.value).splitlines()
        assert first == f"{tmp_path}/data.jsonl: none of 12 rows can be used"
        assert [line.split(": ")[0].split(":")[-1] for line in lines[:5]] == ["1", "2", "3", "4", "5"]
        assert lines[5:] == ["and 7 more rows", "expected JSONL: one JSON object on each line"]

    @pytest.mark.parametrize(
        ("labels", "problem"),
        [([1, 1, 1], "3 pairs, all of label 1"), ([0], "1 pairs, all of label 0")],
        ids=["ones", "zero"],
    )
    def test_one_label_alone_is_refused(self, tmp_path: Path, labels: list[int], problem: str) -> None:
        """Nothing can be separated from nothing: both labels are needed."""
        with pytest.raises(DataError) as caught:
            self.read(tmp_path, *({"response": "r", "label": label} for label in labels))
        assert str(caught.value) == f"{tmp_path}/data.jsonl: {problem}; both labels, 0 and 1, are needed"

    def test_what_is_no_text_file_is_named(self, tmp_path: Path) -> None:
        """A missing file, a folder and bytes that are not UTF-8 are data errors that name the file."""
        (tmp_path / "latin.jsonl").write_bytes(b'{"response": "\xe4"}')
        file = tmp_path / "latin.jsonl"
        said = []
        (tmp_path / "empty.jsonl").write_text("\n")
        for name in ("nothing.jsonl", ".", "latin.jsonl", "empty.jsonl"):
            with pytest.raises(DataError) as caught:
                read_pairs(tmp_path / name)
            said.append(str(caught.value))
        assert said == [
            f"{tmp_path}/nothing.jsonl: cannot be read: No such file or directory",
            f"{tmp_path}: cannot be read: Is a directory",
            "\n".join([f"{file}: none of 1 rows can be used", f"{file}:1: not UTF-8 at byte 14; save it as UTF-8"]),
            f"{tmp_path}/empty.jsonl: holds no rows",
        ]
