"""Two watchlists over the same pairs: what is counted is what happened."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from scipy.stats import binomtest

from conftest import scored_pair
from scopewatch.errors import (
    DataError,
    EngineDied,
    EngineError,
    FieldViolation,
    InvalidRequest,
    NotReady,
    ScopewatchError,
)
from scopewatch.identity import FeatureKey
from scopewatch.lifecycle.replay import (
    Deciding,
    Failure,
    IndicatorChange,
    Rates,
    Said,
    VerdictChange,
    hear,
    replay,
)
from scopewatch.lifecycle.replay_text import replay_lines
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.types import Coverage, Pair, ScoreJob, Segment
from scopewatch.verdicts import Evidence, IndicatorScore, ScoredPair, Verdict


def scored(
    name: str, score: float, threshold: float = 0.5, severity: str = "high", skipped: str = ""
) -> IndicatorScore:
    flagged = score > threshold and not skipped
    return IndicatorScore(name, score, threshold, flagged, severity, calibrated=True, skipped_reason=skipped)


def said(*indicators: IndicatorScore) -> Said:
    flagged = any(part.flagged and part.severity != "info" for part in indicators)
    return Said(Verdict.FLAG if flagged else Verdict.PASS, {part.name: part for part in indicators})


def pairs(*labels: int | None) -> list[LabelledPair]:
    return [LabelledPair(Pair("", "a"), label, line, id=f"p{line}") for line, label in enumerate(labels, 1)]


def test_every_count_is_that_of_the_table() -> None:
    """Six pairs: one stays flagged, two turn to flag, one to pass, one stays passed; of each label some."""
    labels = [1, 1, 0, 0, None, 0]
    old = [said(scored("a", score)) for score in (0.9, 0.1, 0.2, 0.8, 0.1, 0.1)]
    new = [said(scored("a", score)) for score in (0.9, 0.7, 0.6, 0.2, 0.1, 0.1)]
    found = replay(pairs(*labels), old, new)

    assert found.indicators == (
        IndicatorChange(
            name="a",
            in_before=True,
            in_after=True,
            both=1,
            only_before=1,
            only_after=2,
            neither=2,
            rates_before=Rates(tpr=1 / 2, fpr=1 / 3),
            rates_after=Rates(tpr=2 / 2, fpr=1 / 3),
        ),
    )
    assert (6, 2 / 6, 3 / 6, ()) == (found.n, found.flag_rate_before, found.flag_rate_after, found.failures)
    assert [(2, "pass", "flag"), (3, "pass", "flag"), (4, "flag", "pass")] == [
        (change.line, change.before, change.after) for change in found.changes
    ]


@pytest.mark.parametrize(("changed", "n"), [(0, 7), (7, 7), (3, 50), (1, 1)])
def test_the_interval_is_clopper_pearsons(changed: int, n: int) -> None:
    """The share of verdicts that change has the exact two-sided 95 % interval of SciPy."""
    old = [said(scored("a", 0.1))] * n
    new = [said(scored("a", 0.9 if index < changed else 0.2)) for index in range(n)]
    expected = binomtest(changed, n).proportion_ci(0.95, method="exact")
    found = replay(pairs(*[None] * n), old, new).changed

    assert pytest.approx((changed / n, expected.low, expected.high), abs=1e-12) == (found.value, found.low, found.high)


def test_indicators_that_come_and_go_are_counted_where_they_are() -> None:
    """A new one never fired before, a gone one never after; neither has rates to compare."""
    found = replay(
        pairs(1, 0),
        [said(scored("old", 0.9)), said(scored("old", 0.1))],
        [said(scored("new", 0.1)), said(scored("new", 0.9))],
    )

    assert {
        "old": (True, False, 0, 1, 0, 1, None, None),
        "new": (False, True, 0, 0, 1, 1, None, None),
    } == {
        row.name: (
            *(row.in_before, row.in_after),
            *(row.both, row.only_before, row.only_after, row.neither),
            *(row.rates_before, row.rates_after),
        )
        for row in found.indicators
    }


def test_a_change_shows_who_decided() -> None:
    """Those that flagged where the verdict is FLAG, with the other side's view; what is for the record decides nothing."""
    old = said(scored("a", 0.9), scored("b", 0.7, 0.6), scored("note", 9.0, severity="info"))
    new = said(scored("a", 0.0, skipped="empty_segment"), scored("note", 9.0, severity="info"))

    assert replay(pairs(None), [old], [new]).changes == (
        VerdictChange(
            file="",
            line=1,
            id="p1",
            before=Verdict.FLAG,
            after=Verdict.PASS,
            decided_by=(Deciding("a", 0.9, 0.5, None, 0.5), Deciding("b", 0.7, 0.6, None, None)),
        ),
    )
    assert replay(pairs(None), [new], [old]).changes[0].decided_by == (
        Deciding("a", None, 0.5, 0.9, 0.5),
        Deciding("b", None, None, 0.7, 0.6),
    )


def test_verdicts_of_what_was_not_read_whole_are_counted() -> None:
    """INCOMPLETE is a verdict of its own: how often it comes, and what turns to it and from it."""
    quiet, loud = said(scored("a", 0.1)), said(scored("a", 0.9))
    cut = replace(quiet, verdict=Verdict.INCOMPLETE)
    found = replay(pairs(None, None, None, None), [quiet, loud, cut, cut], [cut, cut, loud, cut])
    lines = list(replay_lines(found, 9, {}))

    assert (0.5, 0.75, 0.25, 0.25) == (
        *(found.incomplete_rate_before, found.incomplete_rate_after),
        *(found.flag_rate_before, found.flag_rate_after),
    )
    assert lines[0] == ("4 pairs; flagged: 25.00% before, 25.00% after; incomplete: 50.00% before, 75.00% after")
    assert lines[1].endswith(": 1 flag to incomplete, 1 incomplete to flag, 1 pass to incomplete")
    assert ":1, id p1: pass -> incomplete" in lines
    assert [(), ("a",), ("a",)] == [tuple(part.indicator for part in turn.decided_by) for turn in found.changes]


def test_without_labels_there_are_no_rates() -> None:
    """No label, no rate; one label, only its rate."""
    same = [said(scored("a", 0.9))] * 2
    (unlabelled,) = replay(pairs(None, None), same, same).indicators
    (benign,) = replay(pairs(0, 0), same, same).indicators

    assert (None, None) == (unlabelled.rates_before, unlabelled.rates_after)
    assert Rates(tpr=None, fpr=1.0) == benign.rates_before


def test_pairs_that_one_cannot_score_are_left_out_and_named() -> None:
    """They count in nothing, and stand with the reason; when none is left there is nothing to compare."""
    good, wrong = said(scored("a", 0.9)), "invalid_request: history: is odd"
    found = replay(pairs(1, 1, 1), [good, wrong, good], [good, good, "engine_error: failed"])

    assert (1, 1) == (found.n, found.indicators[0].both)
    assert (Failure("", 2, "p2", wrong), Failure("", 3, "p3", "engine_error: failed")) == found.failures
    with pytest.raises(DataError, match="none of 1 pairs can be scored by both watchlists: invalid_request"):
        replay(pairs(1), [wrong], [good])


class FakeScorer:
    """Answers the texts it is given in `instead` with errors, all others with one indicator and its evidence."""

    def __init__(self, **instead: ScopewatchError) -> None:
        self.instead = instead
        self.calls: list[list[str]] = []

    async def __call__(self, jobs: Sequence[ScoreJob]) -> list[ScoredPair | ScopewatchError]:
        self.calls.append([job.request_id for job in jobs])
        found = replace(scored("a", 0.9), evidence=(Evidence(0, 1, FeatureKey("res", 1), 2.0, Segment.RESPONSE, 0),))
        whole = scored_pair(Verdict.FLAG, (found,), Coverage(9, 4, 4, 0), "w")
        return [self.instead.get(job.request_id, whole) for job in jobs]


async def test_pairs_are_heard_in_order_and_no_more_than_allowed() -> None:
    """Never more at once than the queue takes; a pair's own failure is its answer; what explains a score is let go."""
    scorer = FakeScorer(p2=InvalidRequest(FieldViolation("history", "is odd")), p3=EngineError("failed"))

    assert [said(scored("a", 0.9)), "invalid_request: history: is odd", "engine_error: failed"] == await hear(
        pairs(None, None, None), scorer, at_once=2
    )
    assert [["p1", "p2"], ["p3"]] == scorer.calls


@pytest.mark.parametrize("error", [EngineDied("gone"), NotReady("closing")])
async def test_a_failure_of_the_scorer_is_no_pairs(error: ScopewatchError) -> None:
    """When the engine is gone nothing more is said of any pair."""
    with pytest.raises(type(error)):
        await hear(pairs(None), FakeScorer(p1=error), at_once=2)
