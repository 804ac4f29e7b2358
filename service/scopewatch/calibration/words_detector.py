"""The recipe for an indicator of words: the threshold of a lexicon, or a hashed bag that is fitted and written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scopewatch.calibration.calibrate import text_detectors
from scopewatch.calibration.card_making import data_files, labelled_card, made_with
from scopewatch.calibration.evidence import Fitted, assert_enough, measure
from scopewatch.calibration.hashed_bag import HashedBag, hashed_bag
from scopewatch.calibration.outcome import Outcome
from scopewatch.calibration.request import Request, score_all
from scopewatch.calibration.sparse_fit import platt
from scopewatch.calibration.split import split
from scopewatch.config import Config
from scopewatch.pairs.labelled import LabelledPair, groups_of, labels_of
from scopewatch.sources import today
from scopewatch.statistics.ranking import auroc
from scopewatch.statistics.scores import Bool, Scores
from scopewatch.types import Pair
from scopewatch.watch.indicators import Probability
from scopewatch.watch.watchlist import lexicon_of

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


def calibrate_words(request: Request, lexicon: Named | None, config: Config) -> Outcome:
    """Calibrates an indicator of words, which the online scorer then scores as it will when it runs.

    Args:
        request: What is asked for, of kind `words`.
        lexicon: The lexicon whose share of words is the score; None to fit a bag of words.
        config: Settings of the engine.

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
    scores = ran.scored.by_indicator[request.indicator].scores + (fitted.bias if fitted else 0.0)
    parts = split(pairs, wanted.held_out, np.ones(len(pairs), bool))
    own: Fitted = fitted or _Ranked.of(scores[parts.fit], labels_of(pairs)[parts.fit])
    evidence = measure(
        pairs,
        parts,
        scores[parts.held_out],
        fitted=own,
        alternatives=lambda: text_detectors(pairs, parts),
        wanted=wanted,
    )
    made = made_with(ran.running, {}, {request.indicator: counts_by})
    card = labelled_card(evidence, wanted, data_files(request, pairs), made, date=today(), tally=tally)
    source = _written(request, fitted) if fitted else {"lexicon": lexicon}
    indicator = request.made_indicator(kind="words", card=card, **source, **evidence.as_fields())
    return Outcome(indicator, reader, {}, evidence.threshold, evidence, tally)


def _fitted_bag(request: Request, pairs: Sequence[LabelledPair]) -> HashedBag:
    """The bag that the pairs teach that are not held out."""
    rows = split(pairs, request.wanted.held_out, np.ones(len(pairs), bool)).fit.tolist()
    fit = [pairs[row] for row in rows]
    return hashed_bag([_text(item.pair, request.segment) for item in fit], labels_of(fit), groups_of(fit))


def _text(pair: Pair, segment: str) -> str:
    texts = {"prompt": [pair.prompt], "response": [pair.response], "history": [turn.content for turn in pair.history]}
    return "\n".join(texts[segment])


def _written(request: Request, fitted: HashedBag) -> Mapping[str, Any]:
    """What an indicator says of a bag, whose file is written beside the watchlist."""
    file = request.out.absolute().with_name(f"{request.out.stem}.{request.indicator}.safetensors")
    fitted.bag.write(file)
    return {"bag": {"path": file.name, "sha256": fitted.bag.digest}, "bias": fitted.bias}
