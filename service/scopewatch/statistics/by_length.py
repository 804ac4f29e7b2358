"""A threshold that goes with the length of what is scored, fitted on benign pairs.

Many scores grow or shrink with the number of tokens that are pooled (a largest value of more is larger, a mean of more
is closer to the middle), so that one threshold for all lengths flags the benign pairs of one length too often. Where
the data support it, the threshold follows a line in the logarithm of the length, fitted by quantile regression
(Koenker and Bassett 1978). Scores and their ranking stay what they are.
"""

from collections.abc import Sequence

import numpy as np

from scopewatch.errors import DataError
from scopewatch.statistics.bounds import one_per_group
from scopewatch.statistics.scores import Rows, Scores, check_share
from scopewatch.watch.indicators import ByLength

try:
    from sklearn.linear_model import QuantileRegressor
    from sklearn.model_selection import KFold
except ImportError:
    raise DataError("calibration needs scikit-learn: pip install 'scopewatch[calibration]'") from None

_LEAST_ABOVE = 10
"""How many pairs there have to be above the line: with fewer it follows single pairs."""
_MOST_PAIRS = 2000
"""More pairs would take long, and tell the slope no better than it is used."""
_FOLDS = 10


def fit_by_length(benign: Scores, n_tokens: Rows, groups: Sequence[str], max_fpr: float) -> ByLength | None:
    """How a threshold should go with the length, by benign pairs, one of each group.

    The line is that of the (1 - max_fpr) quantile, or of the highest quantile that leaves ten pairs above it. It is
    kept only if it predicts pairs that it was not fitted on better than one threshold for all: in cross-validation its
    mean pinball loss has to be lower by more than the standard error of the difference.

    Whether a bound holds for a threshold on top of it depends on other pairs alone: the slope is fixed before those are
    looked at, so that score less what the slope adds is a score as any other (`bounds.threshold_for`).

    Args:
        benign: The scores of benign pairs, none of which sets the threshold, shape (n,).
        n_tokens: How many tokens the scored segment of each of these pairs has, shape (n,).
        groups: The group of each of these pairs.
        max_fpr: The highest false-positive rate that is wanted, in (0, 1).

    Returns:
        The slope with the median length; None where the data support none.
    """
    check_share("max_fpr", max_fpr)
    rows = one_per_group(groups)
    rows = np.random.default_rng(0).permutation(rows)[:_MOST_PAIRS]
    scores, length = benign[rows], np.log(np.maximum(1, n_tokens[rows]))
    spread = float(scores.std()) if len(rows) else 0.0
    if len(rows) < 4 * _LEAST_ABOVE or not spread or not np.ptp(length):
        return None
    level = min(1 - max_fpr, 1 - _LEAST_ABOVE / len(rows))
    scaled = scores / spread
    gains = np.empty(len(rows))
    for fit, out in KFold(_FOLDS).split(rows):
        slope, intercept = _line(scaled[fit], length[fit], level)
        flat = np.full(len(out), np.quantile(scaled[fit], level))
        gains[out] = _losses(scaled[out], flat, level) - _losses(scaled[out], intercept + slope * length[out], level)
    if gains.mean() <= gains.std(ddof=1) / np.sqrt(len(gains)):
        return None
    slope, _ = _line(scaled, length, level)
    return ByLength(slope=float(f"{slope * spread:.4g}"), reference_tokens=round(float(np.exp(np.median(length)))))


def _line(scores: Scores, length: Scores, level: float) -> tuple[float, float]:
    """The slope and the intercept of the line that leaves the share `level` of the scores below it."""
    fitted = QuantileRegressor(quantile=level, alpha=0.0).fit(length[:, None], scores)
    return float(fitted.coef_[0]), float(fitted.intercept_)


def _losses(scores: Scores, predicted: Scores, level: float) -> Scores:
    """The pinball loss of each score, whose mean the quantile minimises."""
    return np.where(scores > predicted, level, level - 1) * (scores - predicted)
