"""`calibrate --features`: exactly the features that are named, weighed, bounded and measured as all others are."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from scopewatch.calibration.calibrate import Found, calibrate
from scopewatch.calibration.split import split
from scopewatch.calibration.wanted import Wanted
from scopewatch.cli import main
from scopewatch.errors import Unsupported
from scopewatch.identity import FeatureKey
from test_calibrate import MAX, MEAN, labelled_file, made

PAIRS, POOLED = made(300)
LABELS = np.array([pair.label for pair in PAIRS], bool)
PARTS = split(PAIRS, 0.5, np.ones(len(PAIRS), bool))
OUT = LABELS[PARTS.held_out]


@cache
def chosen(*features: int, **changes: object) -> Found:
    keys = tuple(FeatureKey("sae", feature) for feature in features)
    return calibrate(PAIRS, POOLED, Wanted(features=keys, max_fpr=0.1, force=True, **changes))  # type: ignore[arg-type]


def column(feature: int, rows: np.ndarray) -> np.ndarray:
    return POOLED.features(MAX)[rows][:, [feature]].toarray()[:, 0].astype(np.float64)


def clopper_pearson(scores: np.ndarray, max_fpr: float, confidence: float) -> tuple[float, float]:
    """The lowest threshold whose upper bound on the rate above it is at most the rate wanted, and that bound."""
    ordered = np.sort(scores)[::-1]
    bounds = [beta.ppf(confidence, above + 1, len(ordered) - above) for above in range(len(ordered))]
    most = max(above for above, bound in enumerate(bounds) if bound <= max_fpr)
    return float(ordered[most]), float(bounds[most])


@pytest.mark.parametrize(("feature", "sign"), [(3, 1.0), (7, -1.0)])
def test_one_feature_is_the_score(feature: int, sign: float) -> None:
    """Its weight is 1, or -1 where it is higher on label 0; AUROC, threshold and bound are those of its plain values."""
    found = chosen(feature)
    scores = sign * column(feature, PARTS.held_out)
    threshold, bound = clopper_pearson(scores[~OUT], 0.1, 0.95)

    assert found.combination is not None
    assert [(term.feature, term.weight, term.pooling) for term in found.combination.terms] == [(feature, sign, MAX)]
    assert found.combination.bias == 0
    assert found.evidence.auroc.value == pytest.approx(roc_auc_score(OUT, scores), abs=1e-12)
    assert found.evidence.threshold.value == pytest.approx(threshold, abs=1e-5)
    assert found.evidence.threshold.fpr_upper == pytest.approx(bound, abs=1e-9)
    assert found.evidence.fpr == pytest.approx(float((scores[~OUT] > threshold).mean()), abs=1e-12)


def test_its_probability_is_that_of_a_logistic_map() -> None:
    """The map from the score to a probability is scikit-learn's own fit of one number on the pairs to fit."""
    found = chosen(3)
    values, labels = column(3, PARTS.fit)[:, None], LABELS[PARTS.fit]
    fitted = LogisticRegression(C=1e6).fit(values, labels)
    probability = found.evidence.probability

    assert probability.slope == pytest.approx(fitted.coef_[0, 0], rel=0.01)
    assert probability.intercept == pytest.approx(fitted.intercept_[0], abs=0.02)


def test_several_are_weighed_by_a_logistic_regression() -> None:
    """All that are named are terms, no other is, and their weights stand to each other as scikit-learn's do."""
    found = chosen(3, 7)
    assert found.combination is not None
    weights = {term.feature: term.weight for term in found.combination.terms}
    x = np.column_stack([column(feature, PARTS.fit) for feature in (3, 7)])
    spread = x.std(axis=0)
    model = LogisticRegression(C=found.combination.strength, max_iter=2000, class_weight="balanced")
    expected = model.fit((x - x.mean(axis=0)) / spread, LABELS[PARTS.fit]).coef_[0] / spread
    scores = np.column_stack([column(feature, PARTS.held_out) for feature in (3, 7)]) @ expected

    assert set(weights) == {3, 7}
    assert [weights[f] / weights[3] for f in (3, 7)] == pytest.approx(list(expected / expected[0]), rel=1e-3)
    assert found.evidence.auroc.value == pytest.approx(roc_auc_score(OUT, scores), abs=1e-3)


def test_what_is_odd_is_said() -> None:
    """A weight below 0 is named with the feature's own AUROC, and so is a feature that hardly fires."""
    told = " ".join(chosen(3, 7).evidence.conclusions)

    assert "sae/7 points the other way: its weight is -" in told
    assert f"its own AUROC {roc_auc_score(LABELS[PARTS.fit], column(7, PARTS.fit)):.3f}" in told
    assert "sae/3 points" not in told


def test_features_that_never_fire_are_refused() -> None:
    """The message names those that are silent and the mend."""
    silent = made(300)[1]
    matrix = silent.features(MAX).tolil()
    matrix[:, [5, 6]] = 0
    silent.by_pooling.pop(MEAN)  # type: ignore[attr-defined]
    silent.by_pooling[MAX] = matrix.tocsr()  # type: ignore[attr-defined]
    keys = tuple(FeatureKey("sae", feature) for feature in (3, 5, 6))

    with pytest.raises(Unsupported, match=r"--features: sae/5, sae/6: fires in none of the \d+ pairs to fit; leave it"):
        calibrate(PAIRS, silent, Wanted(features=keys, max_fpr=0.1, force=True))


def test_weights_that_may_not_be_negative_refuse_what_points_the_other_way() -> None:
    """Under `--weights nonnegative` a feature that would need a negative weight is named, not passed over."""
    with pytest.raises(Unsupported, match="sae/7: points the other way, and --weights nonnegative"):
        chosen(3, 7, weights="nonnegative")


def test_the_pooling_is_the_best_of_those_considered() -> None:
    """The features know the label under max and not under mean: max is taken, if it may be."""
    found = chosen(3, 7).combination
    assert found is not None
    assert {term.pooling for term in found.terms} == {MAX}
    with pytest.raises(Unsupported, match="no signal"):
        chosen(3, 7, poolings=(MEAN,))


# The command; what it writes is shown by the user's guide, tests/test_using.py


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_file(tmp_path_factory.mktemp("chosen"))


@pytest.fixture
def run(data: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        work = ("--work-dir", data.parent / "work", "--no-fragility", "--force", "--max-fpr", "0.2")
        with pytest.raises(SystemExit) as left:
            main([*map(str, ("calibrate", data, "--indicator", "x", *work, *arguments))])
        told = capsys.readouterr()
        return int(left.value.code or 0), told.out, told.err

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--features", "re/12"), "watchlist.yaml has no SAE 're'; did you mean res/12?"),
        (("--features", "x/12"), "watchlist.yaml has no SAE 'x'; there are: res"),
        (("--features", "res/1,res/1"), "argument --features: res/1: is named twice"),
        (("--features", "res/1,sae/1"), "names features of several SAEs; make an indicator of each"),
        (("--features", "12"), "'12': expected the SAE's name and a feature's index, such as sae/7957"),
        (("--features", "res/1", "--terms", "4"), "--terms: is for features that the data choose"),
        (("--features", "res/1", "--kind", "probe"), "--features: is for --kind features; leave it out"),
        (("--features", "res/1", "--sae-name", "own"), "the SAE is called own here; did you mean own/1?"),
        (("--features", "res/1,res/3072"), "--features: res/3072: the SAE res has 3,072 features, 0 to 3071"),
    ],
)
def test_wrong_features_are_named(run: Callable, data: Path, arguments: tuple[str, ...], said: str) -> None:
    """The message names the feature, or the SAE, and what was probably meant; nothing is written."""
    code, _, error = run(*arguments, "--out", data.parent / "wrong.yaml")

    assert code == 2
    assert said in error
    assert not (data.parent / "wrong.yaml").exists()
