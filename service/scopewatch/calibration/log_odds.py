"""From a detector's scores to log-odds that the label is 1."""

from collections.abc import Sequence

import numpy as np

from scopewatch.errors import DataError
from scopewatch.statistics.scores import Bool, Rows, Scores
from scopewatch.watch.indicators import Probability

try:
    from scipy.optimize import brentq
    from scipy.special import expit
    from sklearn.linear_model import LogisticRegression
except ImportError:
    raise DataError("calibration needs scikit-learn: pip install 'scopewatch[calibration]'") from None

Held = Sequence[tuple[Rows, Scores]]
"""For each fold, the rows that were left out and their scores by the fit on the others."""


def platt(scores: Scores, labels: Bool) -> Probability:
    """The logistic map from scores to probabilities (Platt 1999; a slight penalty in place of his smoothed targets).

    A score that runs the wrong way gets the flattest map there is.
    """
    spread = scores.std() or 1.0
    fitted = LogisticRegression(C=1e3, max_iter=1000).fit(scores[:, None] / spread, labels)
    slope = max(float(fitted.coef_[0, 0]) / spread, 1e-9)
    return Probability(slope=float(f"{slope:.6g}"), intercept=float(f"{fitted.intercept_[0]:.6g}"))


def log_odds(held: Held, scores: Scores, labels: Bool, share: float) -> tuple[float, float]:
    """The slope and intercept that make log-odds of the scores by the fit on all pairs.

    The slope is fitted on scores of pairs left out, with an intercept for each fold: where a fold is a source, the fit
    without it expects the others' share of positives. The intercept then makes the probabilities of all pairs average
    the share of positives among those that they were drawn from, whose positives and negatives they stand for.
    """
    rows, left_out = (np.concatenate(parts) for parts in zip(*held, strict=True))
    fold = np.repeat(np.eye(len(held)), [len(part) for part, _ in held], axis=0)
    spread = left_out.std() or 1.0
    fitted = LogisticRegression(C=1e3, max_iter=1000).fit(np.column_stack([left_out / spread, fold]), labels[rows])
    slope = max(float(fitted.coef_[0, 0]) / spread, 1e-9)
    far = 50 + float(np.abs(slope * scores).max())
    stand_for = np.where(labels, share / labels.mean(), (1 - share) / (1 - labels.mean()))

    def excess(intercept: float) -> float:
        return float(np.mean(stand_for * expit(slope * scores + intercept))) - share

    return slope, float(brentq(excess, -far, far))
