"""A combination of other indicators and of the reader's own signals, weighed on labelled pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.linear_model import LogisticRegression

from scopewatch.calibration.calibrate import text_company
from scopewatch.calibration.evidence import Evidence, Wanted, measure, split
from scopewatch.calibration.sparse_fit import platt
from scopewatch.errors import WatchlistError
from scopewatch.pairs.labelled import LabelledPair, labels_of
from scopewatch.statistics.folds import grouped_folds
from scopewatch.statistics.ranking import auroc
from scopewatch.statistics.scores import Bool, Scores
from scopewatch.watch.indicators import CombinedTerm, Indicator, Probability
from scopewatch.watch.watchlist import Watchlist

_SIGNALS = ("mean_logprob", "mean_entropy")


@dataclass(frozen=True, slots=True)
class WeighedParts:
    """Score: `bias + sum(weight * part's score)`."""

    weights: Mapping[str, float]
    bias: float
    cv_auroc: float
    probability: Probability

    def scores(self, parts: Mapping[str, Scores]) -> Scores:
        """Shape (n_pairs,)."""
        scores = np.full(len(next(iter(parts.values()))), self.bias)
        for name, weight in self.weights.items():
            scores += weight * parts[name]
        return scores


def term(name: str, weight: float) -> CombinedTerm:
    """A part of a combination: `mean_logprob`, `mean_entropy`, or an indicator's name."""
    return CombinedTerm.model_validate({"signal" if name in _SIGNALS else "indicator": name, "weight": weight})


def with_signals(watchlist: Watchlist, parts: Sequence[str]) -> Watchlist:
    """The watchlist with an indicator for every signal among the parts, so that the online scorer gives its value.

    Raises:
        WatchlistError: A part is neither a signal nor a plain indicator of the watchlist, or it is both.
    """
    plain = [indicator.name for indicator in watchlist.indicators if indicator.kind != "combination"]
    for name in parts:
        if name not in (*plain, *_SIGNALS):
            raise WatchlistError(f"{watchlist.file}: there is no {name!r} to combine; there are: {', '.join(plain)}")
        if name in _SIGNALS and name in {indicator.name for indicator in watchlist.indicators}:
            raise WatchlistError(f"{watchlist.file}: an indicator has the name of the signal {name}; give it another")
    signals = [
        Indicator(name=name, kind="combination", combines=(term(name, 1.0),), threshold=0.0)
        for name in parts
        if name in _SIGNALS
    ]
    return replace(watchlist, indicators=(*watchlist.indicators, *signals))


def calibrate_parts(
    pairs: Sequence[LabelledPair], parts: Mapping[str, Scores], wanted: Wanted
) -> tuple[WeighedParts, Evidence]:
    """Weighs parts by logistic regression and measures the result beside each of them and beside the text alone.

    Args:
        pairs: Labelled.
        parts: Scores of all pairs, by the part's name; shape (n_pairs,).
        wanted: Of kind `combination`.

    Raises:
        TooLittleData, Unsupported: As `calibrate.measure`.
    """
    rows = split(pairs, wanted.held_out, np.ones(len(pairs), bool))
    labels = labels_of(pairs)[rows.fit]
    names = list(parts)
    x = np.column_stack([parts[name] for name in names])[rows.fit]
    left_out, scores = [], []
    for fit, out in grouped_folds(labels, [pairs[row].group for row in rows.fit]):
        weights, bias = _weigh(x[fit], labels[fit])
        left_out.append(labels[out])
        scores.append(x[out] @ weights + bias)
    weights, bias = _weigh(x, labels)
    weighed = WeighedParts(
        weights={name: float(f"{weight:.6g}") for name, weight in zip(names, weights, strict=True) if weight},
        bias=float(f"{bias:.6g}"),
        cv_auroc=float(np.mean([auroc(*fold) for fold in zip(left_out, scores, strict=True)])),
        probability=platt(np.concatenate(scores), np.concatenate(left_out)),
    )
    held = {name: values[rows.held_out] for name, values in parts.items()}

    def others() -> dict[str, Scores]:
        return text_company(pairs, rows) | held

    return weighed, measure(pairs, rows, weighed.scores(held), fitted=weighed, others=others, wanted=wanted)


def _weigh(x: Scores, labels: Bool) -> tuple[Scores, float]:
    mean, spread = x.mean(axis=0), x.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    model = LogisticRegression(C=1.0, max_iter=1000).fit((x - mean) / spread, labels)
    weights = model.coef_[0] / spread
    return weights, float(model.intercept_[0] - weights @ mean)
