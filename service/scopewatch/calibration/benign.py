"""The recipe for the threshold of an indicator that is there, from traffic that is benign and not labelled."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scopewatch.calibration.card_making import benign_card, data_files, made_with
from scopewatch.calibration.outcome import Outcome
from scopewatch.calibration.reference import names_of, scored_reference
from scopewatch.calibration.request import Request, score_all
from scopewatch.calibration.term_tables import combination_table, features_table, words_table
from scopewatch.calibration.thresholds import added_by_length, benign_threshold
from scopewatch.calibration.words_detector import text_of
from scopewatch.config import Config
from scopewatch.errors import ConfigError, DataError
from scopewatch.pairs.copies import join_copies
from scopewatch.pairs.data_files import read_texts
from scopewatch.pairs.labelled import LabelledPair, groups_of
from scopewatch.pairs.rows import digest_of
from scopewatch.pairs.scored import IndicatorScores
from scopewatch.report.tables import Table
from scopewatch.sources import SaeSource, today
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.watchlist import Watchlist


def set_benign_threshold(request: Request, config: Config, *, describe: bool = True) -> Outcome:
    """Sets the threshold of an indicator of the request's watchlist by benign traffic.

    Args:
        request: What is asked for; its data need no labels.
        config: Settings of the engine.
        describe: Whether the words of the data that an indicator of words counts are told.

    Raises:
        ScopewatchError: There is no such indicator, it could not be written, or the data cannot bound it.
    """
    indicator, base, wanted = _indicator(request), request.base, request.wanted
    reader, saes = base.absolute(base.reader), _saes(request, indicator)
    request.rehearse_writing(indicator, reader, saes)
    _refuse_fitted(indicator, request.data)
    read = join_copies(read_texts(*request.data, reading=request.reading), indicator.segment)
    benign_threshold(np.zeros(len(read.pairs)), groups_of(read.pairs), wanted)
    ran = score_all(read.pairs, [indicator.name], base, config, request.reading, pooled=True)
    pairs, tally = ran.scored.pairs, read.tally.without(ran.scored.left_out).need(indicator.name)
    found = ran.scored.by_indicator[indicator.name]
    added = added_by_length(indicator.threshold_by_length, found.n_tokens)
    threshold = benign_threshold(found.scores - added, groups_of(pairs), wanted)
    parts = {indicator.name, *(part.name for part in indicator.combines)}
    words = {name: counts_by for name, counts_by in base.words.items() if name in parts}
    made = made_with(ran.running, {sae.name: sae.digest for sae in ran.running.saes}, words)
    fpr = float((found.scores > threshold.value + added).mean())
    files = data_files(request, pairs)
    reference = scored_reference(f"{names_of(files)}: benign traffic", pairs, indicator, found)
    card = benign_card(
        *(threshold, wanted, files, made),
        fpr=fpr,
        date=today(),
        tally=tally,
        reference=reference,
        former=indicator.card,
    )
    bounded = indicator.model_copy(update={"threshold": threshold.value, "card": card})
    terms = _terms(bounded, base, pairs, found) if describe or bounded.kind != "words" else None
    return Outcome(bounded, reader, saes, threshold, None, tally, terms)


def _terms(
    indicator: Indicator, base: Watchlist, pairs: Sequence[LabelledPair], found: IndicatorScores
) -> Table | None:
    """The table of what the indicator is made of, with what benign traffic shows of it; None of one without terms."""
    labels = np.zeros(len(pairs), bool)
    if indicator.combines:
        return combination_table(indicator, {part.name: part for part in base.indicators}, found.pooled)
    if counts_by := base.words.get(indicator.name):
        return words_table(indicator, counts_by, [text_of(item.pair, indicator.segment) for item in pairs], labels)
    if not indicator.features:
        return None
    return features_table(indicator, labels, {name: values != 0 for name, values in found.pooled.items()})


def _saes(request: Request, indicator: Indicator) -> dict[str, SaeSource]:
    """The SAEs that the indicator, or what it combines, reads."""
    base = request.base
    combined = [part.indicator for part in indicator.combines if part.indicator]
    own = dict.fromkeys(feature.key.sae for feature in indicator.features)
    return request.saes_of(combined) | {name: base.absolute(base.saes[name]) for name in own}


def _indicator(request: Request) -> Indicator:
    base = request.base
    there = next((indicator for indicator in base.indicators if indicator.name == request.indicator), None)
    if not there:
        known = ", ".join(indicator.name for indicator in base.indicators)
        raise ConfigError(
            f"--indicator: {base.file} has no {request.indicator!r}, whose threshold --benign sets ({known})"
        )
    return there


def _refuse_fitted(indicator: Indicator, files: Sequence[Path]) -> None:
    """Refuses files that the indicator was fitted on, whose benign pairs score lower than others."""
    card = indicator.card
    fitted = {file.sha256 for file in card.data} if card and card.beats_bag_of_words is not None else ()
    for file in files:
        if fitted and digest_of(file) in fitted:
            raise DataError(f"{file.name}: {indicator.name} was fitted on this file; its threshold needs other traffic")
