"""The recipe for an indicator of words: the threshold of a lexicon, or a hashed bag that is fitted and written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scopewatch.calibration.calibrate import text_detectors
from scopewatch.calibration.card_making import data_files, labelled_card, made_with
from scopewatch.calibration.evidence import Fitted, assert_enough, measure
from scopewatch.calibration.fragility.table import Reread, table_of
from scopewatch.calibration.hashed_bag import HashedBag, hashed_bag
from scopewatch.calibration.log_odds import platt
from scopewatch.calibration.outcome import Outcome
from scopewatch.calibration.reference import held_out_reference
from scopewatch.calibration.request import Request, score_all
from scopewatch.calibration.split import split
from scopewatch.calibration.term_tables import words_table
from scopewatch.calibration.thresholds import Lengths
from scopewatch.config import Config
from scopewatch.pairs.data_files import Reading
from scopewatch.pairs.labelled import LabelledPair, groups_of, labels_of
from scopewatch.sources import today
from scopewatch.statistics.ranking import auroc
from scopewatch.statistics.scores import Bool, Rows, Scores
from scopewatch.types import Pair, Rounding
from scopewatch.watch.indicators import Probability
from scopewatch.watch.watchlist import Watchlist, lexicon_of

Named = str | tuple[str, ...]
"""A lexicon as a watchlist names it: by its name, or by its words and phrases."""


@dataclass(frozen=True, slots=True)
class _Ranked:
    """What a detector to which nothing was fitted makes of the pairs that are not held out."""

    cv_auroc: float
    probability: Probability

    @classmethod
    def of(cls, scores: Scores, labels: Bool) -> "_Ranked":
        return cls(auroc(labels, scores), platt(scores, labels))


def calibrate_words(request: Request, lexicon: Named | None, config: Config, *, describe: bool = True) -> Outcome:
    """Calibrates an indicator of words, which the online scorer then scores as it will when it runs.

    Args:
        request: What is asked for, of kind `words`.
        lexicon: The lexicon whose share of words is the score; None to fit a bag of words.
        config: Settings of the engine.
        describe: Whether the words of the data that it counts are told.

    Raises:
        ScopewatchError: The indicator could not be written, or the data do not support it.
    """
    wanted, base = request.wanted, request.base
    read, reader = request.labelled_pairs(), base.absolute(base.reader)
    draft = request.made_indicator(kind="words", lexicon=lexicon or ("word",), threshold=0.0)
    request.rehearse_writing(draft, reader, {})
    assert_enough(read.pairs, wanted)
    fitted = None if lexicon else _fitted_bag(request, read.pairs)
    counts_by = fitted.bag if fitted else lexicon_of(draft)
    # The reader runs no deeper than it must to be one: of the watchlist's indicators this one alone is scored.
    trial = replace(base, indicators=(draft,), words={request.indicator: counts_by})
    ran = score_all(read.pairs, [request.indicator], trial, config, request.reading)
    pairs, tally = ran.scored.pairs, read.tally.without(ran.scored.left_out).need(request.indicator)
    told = ran.scored.by_indicator[request.indicator]
    scores = told.scores + (fitted.bias if fitted else 0.0)
    parts = split(pairs, wanted.held_out, np.ones(len(pairs), bool))
    own: Fitted = fitted or _Ranked.of(scores[parts.fit], labels_of(pairs)[parts.fit])
    evidence = measure(
        pairs,
        parts,
        scores[parts.held_out],
        fitted=own,
        alternatives=lambda: text_detectors(pairs, parts),
        wanted=wanted,
        lengths=Lengths(scores[parts.fit], told.n_tokens),
    )
    fragility = None
    if wanted.fragility:
        detector = _FittedWords(request, pairs, scores, trial, config, is_bag=fitted is not None)
        fragility = table_of(pairs, parts, detector, segment=draft.read_segment, reads=False)
    made = made_with(ran.running, {}, {request.indicator: counts_by})
    files = data_files(request, pairs)
    reference = held_out_reference(files, pairs, parts, evidence)
    card = labelled_card(
        evidence, wanted, files, made, date=today(), tally=tally, reference=reference, fragility=fragility
    )
    source = _written(request, fitted) if fitted else {"lexicon": lexicon}
    indicator = request.made_indicator(kind="words", card=card, **source, **evidence.as_fields())
    texts = [text_of(pairs[row].pair, request.segment) for row in parts.held_out]
    terms = words_table(indicator, counts_by, texts, evidence.labels) if describe else None
    return Outcome(indicator, reader, {}, evidence.threshold, evidence, tally, terms)


@dataclass(frozen=True, slots=True)
class _FittedWords:
    """A lexicon or a bag, with the pairs that it was calibrated on; its only term is its score."""

    request: Request
    pairs: Sequence[LabelledPair]
    scores: Scores
    """The scores of these pairs."""
    watchlist: Watchlist
    """The watchlist of this indicator alone, without a bias."""
    config: Config
    is_bag: bool

    def rescore(self, pairs: Sequence[LabelledPair], rounding: Rounding = "none") -> Reread:
        """The words of other pairs, counted; a reader's weights, rounded or not, have no part in that."""
        del rounding
        name = self.request.indicator
        numbered = [replace(pair, line=row) for row, pair in enumerate(pairs)]
        scored = score_all(numbered, [name], self.watchlist, self.config, Reading()).scored
        scores = np.full(len(pairs), np.nan)
        for pair, score in zip(scored.pairs, scored.by_indicator[name].scores, strict=True):
            scores[pair.line] = score
        return Reread(scores, scores[:, None])

    def refit(self, fit: Rows, out: Rows) -> Scores:
        """The scores of some pairs by a bag that others taught; a lexicon learns nothing."""
        if not self.is_bag:
            return self.scores[out]
        taught = [self.pairs[row] for row in fit]
        texts = [text_of(item.pair, self.request.segment) for item in taught]
        bag = hashed_bag(texts, labels_of(taught), groups_of(taught)).bag
        anew = replace(self, watchlist=replace(self.watchlist, words={self.request.indicator: bag}))
        return anew.rescore([self.pairs[row] for row in out]).scores


def _fitted_bag(request: Request, pairs: Sequence[LabelledPair]) -> HashedBag:
    """The bag that the pairs teach that are not held out."""
    rows = split(pairs, request.wanted.held_out, np.ones(len(pairs), bool)).fit.tolist()
    fit = [pairs[row] for row in rows]
    return hashed_bag([text_of(item.pair, request.segment) for item in fit], labels_of(fit), groups_of(fit))


def text_of(pair: Pair, segment: str) -> str:
    """The text of a segment of a pair, whose words are counted."""
    texts = {"prompt": [pair.prompt], "response": [pair.response], "history": [turn.content for turn in pair.history]}
    return "\n".join(texts[segment])


def _written(request: Request, fitted: HashedBag) -> Mapping[str, Any]:
    """What an indicator says of a bag, whose file is written beside the watchlist."""
    file = request.out.absolute().with_name(f"{request.out.stem}.{request.indicator}.safetensors")
    fitted.bag.write(file)
    return {"bag": {"path": file.name, "sha256": fitted.bag.digest}, "bias": fitted.bias}
