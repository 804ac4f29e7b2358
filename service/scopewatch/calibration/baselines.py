"""The simple detectors that an indicator is measured beside, on the same pairs."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scopewatch.calibration.evaluate import Baselines
from scopewatch.config import Config
from scopewatch.engine.choices import choices
from scopewatch.engine.dictionary import build_dictionary
from scopewatch.errors import DataError, SaeError, TooLittleData
from scopewatch.pairs.labelled import LabelledPair, groups_of
from scopewatch.pairs.pooled import PooledPairs, encode_pairs
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.watchlist import Watchlist

try:
    from scopewatch.calibration import simple_detectors as company
except ImportError:
    raise DataError("baselines need scikit-learn: pip install 'scopewatch[calibration]'") from None

_DENSE = ("dense_probe", "difference_of_means")
_CROSS_FITTED = (
    "The baselines that learn did so from these same pairs, each part of the groups scored by what the others taught; "
    "--train with the pairs that the indicator was calibrated on compares like with like."
)


def measure_baselines(
    watchlist: Watchlist,
    indicator: Indicator,
    pairs: Sequence[LabelledPair],
    train: Sequence[LabelledPair],
    config: Config,
) -> Baselines:
    """Scores of simple detectors; the dense ones read where the indicator's first SAE does.

    Args:
        watchlist: The indicator's.
        indicator: One that is not of kind `features` has no such place, and only text is read.
        pairs: What is scored.
        train: What is learnt from; empty for cross-fitting on `pairs`, or nothing learnt where they are too few.
        config: Settings.

    Raises:
        DataError: A pair cannot be read, or `train` is too little to learn from.
    """
    try:
        train_read, read = _read(watchlist, indicator, (train, pairs), config)
        blind = ""
    except SaeError as problem:
        train_read, read = _unread(train), _unread(pairs)
        blind = f" There is no dense baseline: {problem}."
    if train:
        try:
            scores, fitted_on = company.trained_on(train, train_read, pairs, read), _trained_on(train, pairs)
        except TooLittleData as problem:
            raise DataError(f"--train: {problem}") from None
    else:
        try:
            scores, fitted_on = company.cross_fitted(pairs, read), _CROSS_FITTED
        except TooLittleData as problem:
            scores = {"response_length": company.response_length(pairs), "hedge_words": company.hedge_words(pairs)}
            fitted_on = f"No baseline learnt from these pairs: {problem}."
    if indicator.segment != "response":
        fitted_on += f" Words and length are those of the response, though the indicator reads the {indicator.segment}."
    return Baselines({name: scores[name] for name in scores if not (blind and name in _DENSE)}, fitted_on + blind)


def _trained_on(train: Sequence[LabelledPair], pairs: Sequence[LabelledPair]) -> str:
    shared = len(set(groups_of(train)) & set(groups_of(pairs)))
    flattered = f"; groups in both: {shared:,}, which flatters whatever learnt from them" if shared else ""
    return f"The baselines that learn did so from the {len(train):,} pairs of --train{flattered}."


def _read(
    watchlist: Watchlist, indicator: Indicator, parts: Sequence[Sequence[LabelledPair]], config: Config
) -> list[PooledPairs]:
    """What the reader makes of each part.

    Raises:
        SaeError: The indicator has no place where it reads, or its SAE is not there whole.
    """
    if indicator.kind != "features":
        raise SaeError(f"an indicator of kind {indicator.kind} reads no SAE")
    reader, saes = choices([watchlist])
    sae = next(choice.source for choice in saes if choice.name == indicator.features[0].key.sae)
    dictionary = build_dictionary(reader, sae, config)
    with tempfile.TemporaryDirectory(prefix="scopewatch-") as folder:
        return [
            encode_pairs(part, dictionary, segment=indicator.read_segment, folder=Path(folder), poolings=())
            if part
            else _unread(part)
            for part in parts
        ]


def _unread(pairs: Sequence[LabelledPair]) -> PooledPairs:
    """As a reader would that sees nothing."""
    n = len(pairs)
    nothing = np.zeros((n, 1), np.float32)
    return PooledPairs(n, 0, (), np.zeros(n, np.int32), np.zeros(n, np.bool_), nothing, nothing, ())
