"""What a card promises, and when it does not hold on other pairs."""

import numpy as np
import pytest
from scipy.stats import binomtest

from scopewatch.calibration.promises import held_against
from scopewatch.statistics.scores import Interval
from scopewatch.watch.cards import Card


def card(**measured: float) -> Card:
    measurement = {"data": "held out", "n": 100, "n_positive": 50, "auroc": 0.9} | measured
    return Card.model_validate({"date": "2026-11-22", "calibrated_on": "x", "n": 10, "measurements": [measurement]})


ANYTHING = Interval(0.9, 0.8, 1.0)


def flags(n: int, of: int) -> np.ndarray:
    return np.arange(of) < n


@pytest.mark.parametrize("n", [0, 1, 9, 10, 11, 12, 30, 200])
def test_the_bound_on_false_positives_is_held_against_the_rate(n: int) -> None:
    """It is broken where SciPy's exact one-sided interval of the rate lies above it, and only there."""
    low = binomtest(n, 200).proportion_ci(0.9, "exact").low
    found = held_against(card(fpr_upper=0.03), flags(n, 200), [str(row) for row in range(200)], ANYTHING)
    assert found.fpr_low == pytest.approx(low, abs=1e-9)
    assert bool(found.broken) == (low > 0.03)
    assert all("bounds false positives by 3.00%" in sentence for sentence in found.broken)


def test_pairs_of_one_group_are_one_pair() -> None:
    """A group that is flagged two hundred times is one false positive."""
    assert held_against(card(fpr_upper=0.03), flags(200, 200), ["g"] * 200, ANYTHING).fpr_low == pytest.approx(0.05)
    assert held_against(card(fpr_upper=0.06), flags(200, 200), ["g"] * 200, ANYTHING).broken == ()


@pytest.mark.parametrize(("high", "broken"), [(0.79, True), (0.81, False)])
def test_an_auroc_below_the_cards_is_told(high: float, broken: bool) -> None:
    """Where the intervals do not meet."""
    found = held_against(card(auroc_low=0.8), flags(0, 50), [str(row) for row in range(50)], Interval(0.7, 0.6, high))
    assert ["AUROC does not hold" in sentence for sentence in found.broken] == [True] * broken


def test_without_a_card_nothing_is_promised() -> None:
    """Nor by one that bounds no rate."""
    for known in (None, card()):
        assert held_against(known, flags(50, 50), [str(row) for row in range(50)], Interval(0.1, 0.0, 0.2)).broken == ()
