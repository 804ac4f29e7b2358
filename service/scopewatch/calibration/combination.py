"""The recipe for a combination of other indicators and of the reader's own signals, weighed on labelled pairs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.linear_model import LogisticRegression

from scopewatch.calibration.calibrate import text_detectors
from scopewatch.calibration.card_making import data_files, labelled_card, made_with
from scopewatch.calibration.evidence import HeldOutEvidence, assert_enough, measure
from scopewatch.calibration.fragility.table import Reread, table_of
from scopewatch.calibration.log_odds import platt
from scopewatch.calibration.outcome import Outcome
from scopewatch.calibration.reference import held_out_reference
from scopewatch.calibration.request import Request, score_all, telling
from scopewatch.calibration.split import Split, split
from scopewatch.calibration.term_tables import combination_table
from scopewatch.calibration.thresholds import Lengths
from scopewatch.calibration.wanted import Wanted
from scopewatch.config import Config
from scopewatch.errors import WatchlistError
from scopewatch.pairs.data_files import Reading
from scopewatch.pairs.labelled import LabelledPair, groups_of, labels_of
from scopewatch.sources import today
from scopewatch.statistics.folds import grouped_folds
from scopewatch.statistics.ranking import auroc
from scopewatch.statistics.scores import Bool, Rows, Scores
from scopewatch.types import Rounding, Segment
from scopewatch.watch.indicators import Indicator, Probability
from scopewatch.watch.terms import ASSERTION_LEXICON, SIGNALS, CombinedTerm
from scopewatch.watch.watchlist import Watchlist
from scopewatch.words.lexicon import shipped

Weighing = Callable[[Scores, Bool], tuple[Scores, float]]
"""Makes weights and a bias of the scores of n pairs by m indicators, shape (n, m), and their labels, shape (n,)."""


@dataclass(frozen=True, slots=True)
class WeighedCombination:
    """The weights of a combination, whose score is `bias + sum(weight * score of the combined indicator)`."""

    weights: Mapping[str, float]
    """The weight of each combined indicator or signal, by its name; one that weighs nothing is left out."""
    bias: float
    cv_auroc: float
    """Mean AUROC of the folds left out."""
    probability: Probability

    def scores(self, combined: Mapping[str, Scores]) -> Scores:
        """The combination's scores of n pairs, given those of what it combines, by name; shape (n_pairs,)."""
        scores = np.full(len(next(iter(combined.values()))), self.bias)
        for name, weight in self.weights.items():
            scores += weight * combined[name]
        return scores


def calibrate_combination(request: Request, combined: Sequence[str], config: Config) -> Outcome:
    """Calibrates a combination of indicators of the request's watchlist and of the reader's signals.

    Args:
        request: What is asked for, of kind `combination`.
        combined: The names of the indicators and signals.
        config: Settings of the engine.

    Raises:
        ScopewatchError: The combination could not be written, or the data do not support it.
    """
    wanted, base = request.wanted, request.base
    read = request.labelled_pairs()
    trial = with_signals(base, combined, _draft(request, combined))
    reader, saes = base.absolute(base.reader), request.saes_of(combined)
    request.rehearse_writing(_draft(request, combined), reader, saes)
    assert_enough(read.pairs, wanted)
    ran = score_all(read.pairs, [*combined, request.indicator], trial, config, request.reading)
    pairs, tally = ran.scored.pairs, read.tally.without(ran.scored.left_out).need(request.indicator)
    found = ran.scored.by_indicator
    n_tokens = found[request.indicator].n_tokens
    with telling(tally):
        weighed, evidence = weigh(pairs, {name: found[name].scores for name in combined}, n_tokens, wanted)
    words = {name: counts_by for name, counts_by in base.words.items() if name in combined}
    if "surprising_assertion" in weighed.weights:
        words[request.indicator] = shipped(ASSERTION_LEXICON)
    made = made_with(ran.running, {sae.name: sae.digest for sae in ran.running.saes}, words)
    fragility = None
    if wanted.fragility:
        scores = {name: found[name].scores for name in combined}
        detector = FittedCombination(weighed, pairs, scores, trial, config, _weighing(wanted))
        segment = Segment[request.segment.upper()]
        fragility = table_of(pairs, parts_of(pairs, wanted), detector, segment=segment)
    files = data_files(request, pairs)
    terms = {name: found[name].scores for name in weighed.weights}
    reference = held_out_reference(
        files, pairs, parts_of(pairs, wanted), evidence, lambda rows: {name: terms[name][rows] for name in terms}
    )
    card = labelled_card(
        evidence, wanted, files, made, date=today(), tally=tally, reference=reference, fragility=fragility
    )
    fields = {"combines": [term(name, weight) for name, weight in weighed.weights.items()], "bias": weighed.bias}
    indicator = request.made_indicator(kind="combination", card=card, **fields, **evidence.as_fields())
    held = {name: scores[parts_of(pairs, wanted).held_out] for name, scores in terms.items()}
    beside = list(evidence.alternatives)
    table = combination_table(indicator, {part.name: part for part in base.indicators}, held, beside)
    return Outcome(indicator, reader, saes, evidence.threshold, evidence, tally, table)


def _draft(request: Request, combined: Sequence[str]) -> Indicator:
    """The combination before anything is weighed."""
    even = [term(name, 1.0) for name in combined]
    return request.made_indicator(kind="combination", combines=even, threshold=0.0)


def term(name: str, weight: float) -> CombinedTerm:
    """A term of a combination, given its weight and its name: that of a signal of the reader, or of an indicator."""
    return CombinedTerm.model_validate({"signal" if name in SIGNALS else "indicator": name, "weight": weight})


def with_signals(watchlist: Watchlist, combined: Sequence[str], draft: Indicator) -> Watchlist:
    """The watchlist with what makes the online scorer tell all that is weighed.

    That is an indicator for every signal that is combined, which gives its value, and the combination before anything
    is weighed, which gives the length of its segment.

    Raises:
        WatchlistError: A name is neither that of a signal nor that of a plain indicator of the watchlist, or is both.
    """
    plain = [indicator.name for indicator in watchlist.indicators if indicator.kind != "combination"]
    there = ", ".join([*plain, *SIGNALS])
    for name in combined:
        if name not in (*plain, *SIGNALS):
            raise WatchlistError(f"{watchlist.file}: there is no {name!r} to combine; there are: {there}")
        if name in SIGNALS and name in {indicator.name for indicator in watchlist.indicators}:
            raise WatchlistError(f"{watchlist.file}: an indicator has the name of the signal {name}; give it another")
    signals = [
        draft.model_copy(update={"name": name, "combines": (term(name, 1.0),)}) for name in combined if name in SIGNALS
    ]
    others = [indicator for indicator in watchlist.indicators if indicator.name != draft.name]
    return replace(watchlist, indicators=(*others, *signals, draft))


def weigh(
    pairs: Sequence[LabelledPair], combined: Mapping[str, Scores], n_tokens: Rows, wanted: Wanted
) -> tuple[WeighedCombination, HeldOutEvidence]:
    """Weighs indicators, and measures the result beside each of them, the text alone, and other weights.

    Weights are those of a logistic regression; or, where they are to be equal, of the same size for each on the scale
    of its standard deviation, and negative where the fitted pairs of label 1 score lower.

    Args:
        pairs: Labelled pairs.
        combined: The scores of all pairs by each combined indicator or signal, shape (n_pairs,), by its name.
        n_tokens: How many tokens the combination's segment has in each pair.
        wanted: What is asked for, of kind `combination`.

    Raises:
        TooLittleData, Unsupported: As `evidence.measure` does.
    """
    rows = parts_of(pairs, wanted)
    held = {name: scores[rows.held_out] for name, scores in combined.items()}
    fit = {name: scores[rows.fit] for name, scores in combined.items()}
    labels, groups = labels_of(pairs)[rows.fit], [pairs[row].group for row in rows.fit]
    are_equal = wanted.weights == "equal"
    weighed = fit_weights(fit, labels, groups, _weighing(wanted))

    def alternatives() -> dict[str, Scores]:
        other = fit_weights(fit, labels, groups, logistic_weights if are_equal else _equal_weights).scores(held)
        return text_detectors(pairs, rows) | held | {"fitted_weights" if are_equal else "equal_weights": other}

    scores = weighed.scores(held)
    lengths = Lengths(weighed.scores(fit), n_tokens)
    return weighed, measure(
        pairs, rows, scores, fitted=weighed, alternatives=alternatives, wanted=wanted, lengths=lengths
    )


def parts_of(pairs: Sequence[LabelledPair], wanted: Wanted) -> Split:
    """The pairs that weigh the combination, and those that are held out; the online scorer has scored all of them."""
    return split(pairs, wanted.held_out, np.ones(len(pairs), bool))


def _weighing(wanted: Wanted) -> Weighing:
    """How the combination is weighed."""
    return _equal_weights if wanted.weights == "equal" else logistic_weights


@dataclass(frozen=True, slots=True)
class FittedCombination:
    """A combination that was weighed, with what it was weighed on; it can score other pairs and be weighed anew."""

    weighed: WeighedCombination
    pairs: Sequence[LabelledPair]
    combined: Mapping[str, Scores]
    """The scores of these pairs by each combined indicator or signal, by its name."""
    watchlist: Watchlist
    """The watchlist that has all that is combined."""
    config: Config
    weighing: Weighing

    def rescore(self, pairs: Sequence[LabelledPair], rounding: Rounding = "none") -> Reread:
        """The combination on pairs that are read again; its terms are the scores of what it combines."""
        # A pair that cannot be scored is left out: the line says which are there.
        numbered = [replace(pair, line=row) for row, pair in enumerate(pairs)]
        names = list(self.combined)
        scored = score_all(numbered, names, self.watchlist, self.config, Reading(), rounding=rounding).scored
        there = [pair.line for pair in scored.pairs]
        terms = np.full((len(pairs), len(names)), np.nan)
        if there:
            terms[there] = np.column_stack([scored.by_indicator[name].scores for name in names])
        return Reread(self.weighed.scores(dict(zip(names, terms.T, strict=True))), terms)

    def refit(self, fit: Rows, out: Rows) -> Scores:
        """The scores of some pairs by a combination that was weighed on others."""
        mine = [self.pairs[row] for row in fit]
        given = {name: scores[fit] for name, scores in self.combined.items()}
        fitted = fit_weights(given, labels_of(mine), groups_of(mine), self.weighing)
        return fitted.scores({name: scores[out] for name, scores in self.combined.items()})


def fit_weights(
    combined: Mapping[str, Scores], labels: Bool, groups: Sequence[str], weighing: Weighing
) -> WeighedCombination:
    """The combination that is fitted on n pairs, with what cross-validation over their groups says of it.

    Args:
        combined: The scores of the pairs by each combined indicator or signal, shape (n,), by its name.
        labels: The label of each pair; both must occur.
        groups: The group of each pair.
        weighing: What makes the weights.

    Raises:
        TooLittleData: There are too few groups for two folds.
    """
    x = np.column_stack(list(combined.values()))
    left_out, scores = [], []
    for fit, out in grouped_folds(labels, groups):
        weights, bias = weighing(x[fit], labels[fit])
        left_out.append(labels[out])
        scores.append(x[out] @ weights + bias)
    weights, bias = weighing(x, labels)
    return WeighedCombination(
        weights={name: float(f"{weight:.6g}") for name, weight in zip(combined, weights, strict=True) if weight},
        bias=float(f"{bias:.6g}"),
        cv_auroc=float(np.mean([auroc(*fold) for fold in zip(left_out, scores, strict=True)])),
        probability=platt(np.concatenate(scores), np.concatenate(left_out)),
    )


def logistic_weights(x: Scores, labels: Bool) -> tuple[Scores, float]:
    """Weights and bias for columns that are standardised to be fitted, put in the columns' own scale."""
    mean, spread = _scale(x)
    model = LogisticRegression(C=1.0, max_iter=1000).fit((x - mean) / spread, labels)
    weights = model.coef_[0] / spread
    return weights, float(model.intercept_[0] - weights @ mean)


def _equal_weights(x: Scores, labels: Bool) -> tuple[Scores, float]:
    """Weights and bias by which the score is the mean of the columns' standardised values, each with its sign."""
    mean, spread = _scale(x)
    signs = np.array([1.0 if auroc(labels, column) >= 0.5 else -1.0 for column in x.T])
    weights = signs / (spread * len(spread))
    return weights, float(-weights @ mean)


def _scale(x: Scores) -> tuple[Scores, Scores]:
    """The mean and the standard deviation of each column; 1 for the deviation of a column that never changes."""
    spread = x.std(axis=0)
    return x.mean(axis=0), np.where(spread > 0, spread, 1.0)
