"""Logistic regressions whose penalty is chosen by cross-validation that never parts a group."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scopewatch.errors import DataError
from scopewatch.statistics.folds import Places
from scopewatch.statistics.ranking import auroc
from scopewatch.statistics.scores import Bool, Scores

try:
    from sklearn.linear_model import LogisticRegression
except ImportError:
    raise DataError("calibration needs scikit-learn: pip install 'scopewatch[calibration]'") from None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The penalty that cross-validation chose, and what its fits say."""

    strength: float
    """The inverse of the penalty."""
    auroc: float
    """Mean AUROC of the folds left out."""
    scores: Scores
    """The score of each pair by the fit that left it out."""


def cross_validated(x: Any, labels: Bool, folds: Places, strengths: Sequence[float]) -> Chosen:
    """The strength (inverse of the penalty) with the best mean AUROC over the folds.

    Strengths are tried in ascending order, until one is no better than the one before.
    """
    parts = [(folds == fold, logistic(strengths[0])) for fold in np.unique(folds)]
    best = Chosen(strengths[0], -1.0, np.empty(0))
    for strength in strengths:
        scores, values = np.empty(len(labels)), []
        for out, model in parts:
            # A pair's penalty is that of the fit on all pairs; each fit goes on from where the stronger penalty ended.
            scale = len(labels) / (~out).sum()
            model.set_params(C=strength * scale, warm_start=True).fit(x[~out], labels[~out])
            scores[out] = model.decision_function(x[out])
            values.append(auroc(labels[out], scores[out]))
        if np.mean(values) <= best.auroc:
            break
        best = Chosen(strength, float(np.mean(values)), scores)
    return best


def logistic(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, tol=1e-5, max_iter=5000)
