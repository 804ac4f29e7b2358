"""Labelled data in, evidence out: what the numbers are, and what is said of a file that cannot be used."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from scopewatch.calibration.data import LabelledPair, read_pairs
from scopewatch.calibration.evaluate import Evaluation, evaluate
from scopewatch.errors import DataError, EngineError, ScopewatchError
from scopewatch.types import Coverage, IndicatorScore, Pair, ScoredPair, ScoreJob, Timings, Verdict


@dataclass
class FakeScorer:
    """Scores a pair by the number that is its response; flags above 0."""

    calls: list[list[ScoreJob]] = field(default_factory=list)
    instead: dict[str, ScopewatchError] = field(default_factory=dict)
    skipped: str = ""
    truncated: frozenset[str] = frozenset()

    async def __call__(self, jobs: Sequence[ScoreJob]) -> list[ScoredPair | ScopewatchError]:
        self.calls.append(list(jobs))
        return [self.instead.get(job.pair.response) or self._score(job.pair.response) for job in jobs]

    def _score(self, text: str) -> ScoredPair:
        score = float(text)
        decoy = IndicatorScore("decoy", -score, 0.0, flagged=score <= 0, severity="low", calibrated=False)
        found = IndicatorScore("alpha", score, 0.0, score > 0, "high", calibrated=True, skipped_reason=self.skipped)
        coverage = Coverage(9, 4, 4, 0, response_tokens_dropped=int(text in self.truncated))
        return ScoredPair(Verdict.PASS, (decoy, found), coverage, "clinic", Timings(), cached=False)


def labelled(*rows: tuple[float, int]) -> list[LabelledPair]:
    return [LabelledPair(Pair("", str(score)), label, line) for line, (score, label) in enumerate(rows, 1)]


def auroc_by_hand(rows: Sequence[tuple[float, int]]) -> float:
    """Share of (positive, negative) couples in the right order, ties for half."""
    positives = [score for score, label in rows if label]
    negatives = [score for score, label in rows if not label]
    won = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    return won / (len(positives) * len(negatives))


async def test_the_numbers_are_those_counted_by_hand() -> None:
    """Four positives of which three are flagged, six negatives of which two are: every rate and count is right."""
    rows = [(3, 1), (2, 1), (1, 1), (-1, 1), (2.5, 0), (0.5, 0), (0, 0), (-1, 0), (-2, 0), (-3, 0)]
    found = await evaluate(labelled(*rows), "alpha", "", FakeScorer(truncated=frozenset({"2.5", "-1"})))
    assert found == Evaluation(
        indicator="alpha",
        watchlist="clinic",
        n=10,
        n_positive=4,
        auroc=pytest.approx((6 + 5 + 5 + 2.5) / 24),
        threshold=0.0,
        tpr=3 / 4,
        fpr=2 / 6,
        precision=3 / 5,
        truncated=3,
        calibrated=True,
    )


ROWS = st.lists(
    st.tuples(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 7.0]), st.integers(0, 1)), min_size=2, max_size=150
)


@given(ROWS.filter(lambda rows: len({label for _, label in rows}) == 2))
async def test_the_numbers_agree_with_scikit_learn(rows: list[tuple[float, int]]) -> None:
    """AUROC, rates and precision equal scikit-learn's and a count of couples, with ties and any balance."""
    found = await evaluate(labelled(*rows), "alpha", "", FakeScorer())
    scores, labels = zip(*rows, strict=True)
    flags = [score > 0 for score in scores]
    assert found.auroc == pytest.approx(auroc_by_hand(rows))
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores))
    assert found.tpr == pytest.approx(recall_score(labels, flags))
    assert found.fpr == pytest.approx(1 - recall_score(labels, flags, pos_label=0))
    assert found.precision == (pytest.approx(precision_score(labels, flags)) if any(flags) else None)
    assert (found.n, found.n_positive) == (len(rows), sum(labels))


async def test_pairs_are_scored_in_batches_in_order() -> None:
    """A large file goes through in batches of bounded size, under the watchlist asked for, each line once."""
    scorer = FakeScorer()
    await evaluate(labelled(*((line, line % 2) for line in range(150))), "alpha", "clinic", scorer)
    assert [len(jobs) for jobs in scorer.calls] == [64, 64, 22]
    jobs = [job for call in scorer.calls for job in call]
    assert [job.request_id for job in jobs] == [str(line) for line in range(1, 151)]
    assert {job.watchlist for job in jobs} == {"clinic"}


@pytest.mark.parametrize(
    ("scorer", "indicator", "problem"),
    [
        pytest.param(
            FakeScorer(), "gamma", "indicator 'gamma': watchlist clinic has decoy, alpha", id="no such indicator"
        ),
        pytest.param(
            FakeScorer(instead={"2": EngineError("the reader failed")}),
            "alpha",
            "line 2: the reader failed",
            id="failure",
        ),
        pytest.param(
            FakeScorer(skipped="empty_segment"), "alpha", "line 1: alpha cannot be scored: empty_segment", id="skipped"
        ),
    ],
)
async def test_what_cannot_be_measured_is_named(scorer: FakeScorer, indicator: str, problem: str) -> None:
    """A pair that fails or is skipped stops the measurement at its line: a number over the rest would be a lie."""
    with pytest.raises(DataError) as caught:
        await evaluate(labelled((1, 1), (2, 0)), indicator, "", scorer)
    assert str(caught.value).replace(".0", "") == problem


class TestReading:
    def read(self, folder: Path, *lines: object) -> list[LabelledPair]:
        file = folder / "data.jsonl"
        rows = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
        file.write_bytes("\n".join(rows).encode())
        return read_pairs(file)

    def test_rows_are_read_with_their_lines(self, tmp_path: Path) -> None:
        """Empty lines are passed over but counted, other keys ignored, the prompt may be left out."""
        found = self.read(
            tmp_path, {"prompt": "p", "response": "r", "label": 1}, "", "  ", {"response": "s", "label": 0, "id": 7}
        )
        assert found == [LabelledPair(Pair("p", "r"), 1, 1), LabelledPair(Pair("", "s"), 0, 4)]

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
            pytest.param(["r", 1], "expected an object with prompt, response and label", id="list"),
            pytest.param({"response": "r"}, "label: expected 0 or 1, not None", id="no label"),
            pytest.param({"response": "r", "label": 2}, "label: expected 0 or 1, not 2", id="label 2"),
            pytest.param({"response": "r", "label": True}, "label: expected 0 or 1, not True", id="label true"),
            pytest.param({"response": "r", "label": "1"}, "label: expected 0 or 1, not '1'", id="label text"),
            pytest.param({"response": "r", "label": [1]}, "label: expected 0 or 1, not [1]", id="label list"),
            pytest.param('{"response": "r", "label": NaN}', "label: expected 0 or 1, not nan", id="label nan"),
            pytest.param({"label": 1}, "response: expected text that is not empty", id="no response"),
            pytest.param({"response": " \n", "label": 1}, "response: expected text that is not empty", id="blank"),
            pytest.param({"response": 7, "label": 1}, "response: expected text that is not empty", id="number"),
            pytest.param({"prompt": None, "response": "r", "label": 1}, "prompt: expected text", id="prompt null"),
            pytest.param(
                '{"response": "cut \\ud83d", "label": 1}', "response: half a surrogate pair is no text", id="surrogate"
            ),
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
        with pytest.raises(DataError) as caught:
            self.read(tmp_path, *["rubbish"] * 12)
        lines = str(caught.value).splitlines()
        assert [line.split(": ")[0].split(":")[-1] for line in lines[:5]] == ["1", "2", "3", "4", "5"]
        assert lines[5:] == ["and 7 more lines"]

    @pytest.mark.parametrize(
        ("labels", "problem"),
        [([1, 1, 1], "3 pairs"), ([0], "1 pairs"), ([], "0 pairs")],
        ids=["ones", "zero", "empty"],
    )
    def test_one_label_alone_is_refused(self, tmp_path: Path, labels: list[int], problem: str) -> None:
        """Nothing can be separated from nothing: both labels are needed."""
        with pytest.raises(DataError) as caught:
            self.read(tmp_path, *({"response": "r", "label": label} for label in labels))
        assert str(caught.value) == f"{tmp_path}/data.jsonl: {problem}; both labels, 0 and 1, are needed"

    def test_what_is_no_text_file_is_named(self, tmp_path: Path) -> None:
        """A missing file, a folder and bytes that are not UTF-8 are data errors that name the file."""
        (tmp_path / "latin.jsonl").write_bytes(b'{"response": "\xe4"}')
        said = []
        for name in ("nothing.jsonl", ".", "latin.jsonl"):
            with pytest.raises(DataError) as caught:
                read_pairs(tmp_path / name)
            said.append(str(caught.value))
        assert said == [
            f"{tmp_path}/nothing.jsonl: cannot be read: No such file or directory",
            f"{tmp_path}: cannot be read: Is a directory",
            f"{tmp_path}/latin.jsonl: not UTF-8 at byte 14",
        ]
