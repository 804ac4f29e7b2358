"""The two probes whose means are published with the benchmark, on what stands at each text's last token.

Both follow the package `sae-probes` 0.4.2 (`utils_training.find_best_reg`, `run_sae_evals.get_sorted_indices`): a
logistic regression whose penalty is chosen among ten by the AUROC on the last fifth, at most 100, of the texts to learn
from, and which is then fitted on all of them. Columns are not standardised.
"""

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from scopewatch.statistics.ranking import auroc
from scopewatch.statistics.scores import Bool, Scores

FEATURES = 128
"""The number of features for which the best mean of the SAEs is published."""
_STRENGTHS = np.logspace(5, -5, 10)
"""Inverse penalties."""


def dense_regression(x: NDArray[np.float32], labels: Bool, x_out: NDArray[np.float32]) -> Scores:
    """The log-odds of texts by a logistic regression with an L2 penalty on the reader's activations.

    Args:
        x: The activations at the last tokens of the n texts to learn from, shape (n, d_in).
        labels: Their labels, shape (n,).
        x_out: The activations at the last tokens of the texts to score, shape (m, d_in).
    """
    return _regression(x, labels, x_out, l1_ratio=0, solver="lbfgs")


def sparse_regression(x: csr_array, labels: Bool, x_out: csr_array) -> Scores:
    """The log-odds of texts by a logistic regression with an L1 penalty on the features that differ most.

    Features are ranked by the difference of their means between the labels, in units of their mean where they fire.

    Args:
        x: The features of the last tokens of the n texts to learn from, shape (n, d_sae).
        labels: Their labels, shape (n,).
        x_out: The features of the last tokens of the texts to score, shape (m, d_sae).
    """
    total, fired = x.sum(axis=0), np.bincount(x.indices, minlength=x.shape[1])
    means = [x[labels == label].mean(axis=0) for label in (False, True)]
    differences = np.abs(means[1] - means[0]) * fired / np.where(fired, total, 1)
    best = np.argsort(-differences, kind="stable")[:FEATURES]
    return _regression(x[:, best].toarray(), labels, x_out[:, best].toarray(), l1_ratio=1, solver="saga")


def _regression(x: NDArray[np.float32], labels: Bool, x_out: NDArray[np.float32], **kind: object) -> Scores:
    cut = len(x) - min(len(x) // 5, 100)

    def fitted(strength: float, rows: slice) -> LogisticRegression:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # as the package does
            return LogisticRegression(C=strength, max_iter=1000, random_state=42, **kind).fit(x[rows], labels[rows])

    def chosen_by(strength: float) -> float:
        return auroc(labels[cut:], fitted(strength, slice(cut)).decision_function(x[cut:]))

    return np.asarray(fitted(max(_STRENGTHS, key=chosen_by), slice(None)).decision_function(x_out))
