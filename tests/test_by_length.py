"""Thresholds that go by length: how they are written, fitted, set and held against a pair."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from conftest import activations, covered
from scopewatch.calibration.calibrate import text_detectors
from scopewatch.calibration.evidence import HeldOutEvidence, measure
from scopewatch.calibration.split import split
from scopewatch.calibration.thresholds import Lengths, added_by_length, benign_threshold
from scopewatch.calibration.wanted import Wanted
from scopewatch.errors import WatchlistError
from scopewatch.pairs.labelled import labels_of
from scopewatch.pipeline import scoring
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.statistics.by_length import fit_by_length
from scopewatch.watch.indicators import ByLength, Indicator, Probability
from scopewatch.watch.splice import write_indicator
from scopewatch.watch.watchlist import load_watchlist
from test_calibrate import made
from test_scoring import ENGINE, compiled, read, score, term

SLOPE = {"slope": 0.5, "reference_tokens": 3}


def lengths(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(5, 400, n)


def alone(n: int) -> list[str]:
    """A group for each pair."""
    return [str(row) for row in range(n)]


# Held against a pair


@pytest.mark.parametrize("layout", ["TRRT", "PPRRRR", "RRRRRRRRRR", "RRR"])
def test_a_pair_is_held_against_the_threshold_of_its_length(layout: str) -> None:
    """The reply's threshold is `threshold + slope * ln(n / reference)`, n the segment's tokens; the score stays."""
    n = layout.count("R")
    expected = 0.25 + 0.5 * math.log(n / 3)
    fired = (layout.index("R"), 0, 0.4)
    indicator = {"features": [term(2)], "threshold": 0.25, "threshold_by_length": SLOPE}
    found = score(indicator, layout, fired)
    flat = score({**indicator, "threshold_by_length": None}, layout, fired)
    assert found.threshold == pytest.approx(expected, abs=1e-12)
    assert found.n_tokens == n
    assert found.score == flat.score
    assert found.flagged == (found.score > expected)
    assert flat.threshold == 0.25


def test_odd_characters_do_not_raise_the_threshold() -> None:
    """Of two readings the last, without odd characters, says how long the segment is, whichever scores higher."""
    watchlist = compiled({"features": [term(2)], "threshold": 0.25, "threshold_by_length": SLOPE})
    padded, cleaned = read("RRRRRRRRRR"), read("RRR")
    higher, lower = activations(10, (0, 0, 0.4)), activations(3, (0, 0, 0.1))
    judged = scoring.judge(
        watchlist, [padded, cleaned], [covered(higher, ENGINE), covered(lower, ENGINE)], max_evidence=0
    )
    assert (judged.indicators[0].threshold, judged.indicators[0].score) == pytest.approx((0.25, 0.4))


# Fitted


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_line_is_that_of_the_quantile(level: float) -> None:
    """The slope minimises the pinball loss, by a search over slopes that knows nothing of linear programmes."""
    draw = np.random.default_rng(1)
    n_tokens = lengths(600, 2)
    scores = 0.8 * np.log(n_tokens) + draw.normal(size=600) * (0.5 + 0.3 * np.log(n_tokens))
    found = fit_by_length(scores, n_tokens, alone(600), 1 - level)

    def loss(slope: float) -> float:
        residual = scores - slope * np.log(n_tokens)
        over = residual - np.quantile(residual, level, method="inverted_cdf")
        return float(np.where(over > 0, level * over, (level - 1) * over).mean())

    assert found is not None
    best = min(loss(slope) for slope in np.linspace(0, 4, 401))
    assert loss(found.slope) <= best + 1e-6
    assert found.reference_tokens == round(float(np.exp(np.median(np.log(n_tokens)))))


def test_there_is_no_slope_where_the_data_support_none() -> None:
    """Few pairs, one length, or one score get none."""
    draw = np.random.default_rng(0)
    strong = np.log(lengths(30, 1)).astype(float)
    assert fit_by_length(strong, lengths(30, 1), alone(30), 0.05) is None
    assert fit_by_length(draw.normal(size=400), np.full(400, 20), alone(400), 0.05) is None
    assert fit_by_length(np.zeros(400), lengths(400, 1), alone(400), 0.05) is None


def test_chance_seldom_gives_a_slope() -> None:
    """Where scores know nothing of the length, a gain within its standard error gives none: one in six at most by chance."""
    written = 0
    for seed in range(24):
        scores = np.random.default_rng(100 + seed).normal(size=120)
        written += fit_by_length(scores, lengths(120, seed), alone(120), 0.1) is not None
    assert written <= 6


def test_pairs_of_one_group_count_once() -> None:
    """Four hundred pairs of ten groups are ten pairs, too few for a slope."""
    n_tokens = lengths(400, 1)
    assert fit_by_length(np.log(n_tokens), n_tokens, alone(400), 0.05) is not None
    assert fit_by_length(np.log(n_tokens), n_tokens, [str(row % 10) for row in range(400)], 0.05) is None


def test_the_bound_is_exact_whatever_the_slope() -> None:
    """Of 400 thresholds, each on a slope that is given before, about 5 % have a rate above the bound; a slope that is
    wrong does not break it.
    """
    wanted, broken = Wanted(max_fpr=0.05), 0
    by_length = ByLength(slope=0.3, reference_tokens=40)
    n_all = lengths(20_000, 5)
    for seed in range(400):
        draw = np.random.default_rng(seed)
        n_tokens = draw.choice(n_all, 200)
        scores = 0.8 * np.log(n_tokens) + draw.normal(size=200)
        found = benign_threshold(scores - added_by_length(by_length, n_tokens), alone(200), wanted)
        above = found.value + added_by_length(by_length, n_all) - 0.8 * np.log(n_all)
        broken += float(stats.norm.sf(above).mean()) > found.fpr_upper
    assert broken <= stats.binom.ppf(0.999, 400, 0.05)
    assert broken >= stats.binom.ppf(0.001, 400, 0.05)


def test_what_is_measured_is_what_will_run() -> None:
    """On scores that grow with the length, the written indicator flags just the held-out pairs that were counted; and
    their ranking is what it is without.
    """
    pairs, _ = made(1200)
    parts = split(pairs, 0.5, np.ones(1200, bool))
    n_tokens = lengths(1200, 3)
    draw = np.random.default_rng(3)
    scores = labels_of(pairs) * 2.0 + np.log(n_tokens) + 0.5 * draw.normal(size=1200)

    def measured(*, by_length: bool) -> HeldOutEvidence:
        return measure(
            *(pairs, parts, scores[parts.held_out]),
            fitted=SimpleNamespace(cv_auroc=0.9, probability=Probability(slope=1.0, intercept=0.0)),
            alternatives=lambda: text_detectors(pairs, parts),
            wanted=Wanted(max_fpr=0.1, force=True, by_length=by_length),
            lengths=Lengths(scores[parts.fit], n_tokens),
        )

    found, flat = measured(by_length=True), measured(by_length=False)
    indicator = Indicator.model_validate({"name": "x", "features": [{"feature": "res/1"}], **found.as_fields()})
    held = n_tokens[parts.held_out].tolist()
    flagged = [value > indicator.threshold_for(n) for value, n in zip(found.scores.tolist(), held, strict=True)]
    assert found.by_length is not None
    assert flagged == found.flagged.tolist()
    assert (found.tpr, found.fpr) == tuple(np.mean(np.array(flagged)[found.labels == one]) for one in (True, False))
    assert found.tpr > flat.tpr + 0.1
    assert (flat.by_length, flat.auroc) == (None, found.auroc)


# Written


def test_a_slope_is_written_and_read(tmp_path: Path) -> None:
    """It stands on one line in the watchlist, and means what it meant."""
    indicator = Indicator.model_validate(
        {"name": "x", "features": [{"feature": "res/1"}], "threshold": 1.2, "threshold_by_length": SLOPE}
    )
    out = tmp_path / "watchlist.yaml"
    write_indicator(out, indicator, ReaderSource(path="reader"), {"res": SaeSource(path="sae")}, "x")
    assert "  threshold_by_length: {slope: 0.5, reference_tokens: 3}\n" in out.read_text(encoding="utf-8")
    assert load_watchlist(out).indicators == (indicator,)
    wrong = out.read_text(encoding="utf-8").replace("reference_tokens: 3", "reference_tokens: 0")
    out.write_text(wrong, encoding="utf-8")
    with pytest.raises(WatchlistError, match=r"threshold_by_length\.reference_tokens: .*greater than or equal to 1"):
        load_watchlist(out)
