"""The simple detectors that an indicator is measured beside, on the same pairs."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from scopewatch.calibration.evaluation import Baselines
from scopewatch.calibration.simple_detectors import Dense, cross_fitted, trained_on, unfitted
from scopewatch.config import Config
from scopewatch.engine.choices import choices
from scopewatch.engine.dictionary import build_dictionary
from scopewatch.errors import DataError, SaeError, TooLittleData
from scopewatch.pairs.kept_poolings import DENSE_POOLINGS
from scopewatch.pairs.labelled import LabelledPair, groups_of
from scopewatch.pairs.pooled import PooledPairs, encode_pairs
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.watchlist import Watchlist

_DENSE = f" The dense probe chose its pooling there too, of {', '.join(map(str, DENSE_POOLINGS))}."
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
        watchlist: The watchlist that the indicator is of.
        indicator: The indicator that is measured; without an SAE, as one not of kind `features` is, only text is read.
        pairs: The pairs that are scored.
        train: The pairs that are learnt from; empty for cross-fitting on `pairs`, where nothing is learnt if these are
            too few.
        config: Settings of the engine.

    Raises:
        DataError: A pair cannot be read, or `train` is too little to learn from.
    """
    with tempfile.TemporaryDirectory(prefix="scopewatch-") as folder:
        try:
            train_read, read = _read(watchlist, indicator, (train, pairs), config, Path(folder))
            blind, notes = "", read.notes if read else ()
        except SaeError as problem:
            train_read = read = None
            blind, notes = f" There is no dense baseline: {problem}.", ()
        train_dense, dense = (part.dense if part else None for part in (train_read, read))
        learnt = _trained(train, train_dense, pairs, dense) if train else _cross_fitted(pairs, dense)
    fitted_on = learnt.fitted_on + (_DENSE if "dense_probe" in learnt.scores else "")
    if indicator.segment != "response":
        fitted_on += f" Words and length are those of the response, though the indicator reads the {indicator.segment}."
    return Baselines(learnt.scores, fitted_on + blind, notes)


def _trained(
    train: Sequence[LabelledPair], train_dense: Dense | None, pairs: Sequence[LabelledPair], dense: Dense | None
) -> Baselines:
    try:
        scores = trained_on(train, train_dense, pairs, dense)
    except TooLittleData as problem:
        raise DataError(f"--train: {problem}") from None
    shared = len(set(groups_of(train)) & set(groups_of(pairs)))
    flattered = f"; groups in both: {shared:,}, which flatters whatever learnt from them" if shared else ""
    return Baselines(scores, f"The baselines that learn did so from the {len(train):,} pairs of --train{flattered}.")


def _cross_fitted(pairs: Sequence[LabelledPair], dense: Dense | None) -> Baselines:
    try:
        return Baselines(cross_fitted(pairs, dense), _CROSS_FITTED)
    except TooLittleData as problem:
        return Baselines(unfitted(pairs), f"No baseline learnt from these pairs: {problem}.")


def _read(
    watchlist: Watchlist, indicator: Indicator, parts: Sequence[Sequence[LabelledPair]], config: Config, folder: Path
) -> list[PooledPairs | None]:
    """What the reader makes of each of several lists of pairs, where the indicator's first SAE reads.

    Raises:
        SaeError: The indicator reads no SAE, or only a part of its SAE is there.
    """
    if indicator.kind != "features":
        raise SaeError(f"an indicator of kind {indicator.kind} reads no SAE")
    reader, saes = choices([watchlist])
    sae = next(choice.source for choice in saes if choice.name == indicator.features[0].key.sae)
    dictionary = build_dictionary(reader, sae, config)
    return [
        encode_pairs(part, dictionary, segment=indicator.read_segment, folder=folder, poolings=()) if part else None
        for part in parts
    ]
