"""A combination of features, or a probe, on pairs that are read again, and fitted on others than it was."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scopewatch.calibration.calibrate import Found
from scopewatch.calibration.chosen_features import fitted
from scopewatch.calibration.fragility.table import Reread
from scopewatch.calibration.simple_detectors import dense_probe, rows_of
from scopewatch.calibration.wanted import Wanted
from scopewatch.engine.dictionary import DictionaryEngine
from scopewatch.pairs.labelled import LabelledPair, labels_of
from scopewatch.pairs.pooled import PooledPairs, StoredFeatures, encode_pairs
from scopewatch.statistics.folds import grouped_folds
from scopewatch.statistics.scores import Rows, Scores
from scopewatch.types import Rounding, Segment


@dataclass(frozen=True, slots=True)
class FittedOnFeatures:
    """A detector as `calibrate` found it, with what it was found from."""

    found: Found
    pairs: Sequence[LabelledPair]
    pooled: PooledPairs
    """What the reader and the SAE make of these pairs."""
    wanted: Wanted
    segment: Segment
    dictionary_of: Callable[[Rounding], DictionaryEngine]
    """The reader, with its weights rounded, and the SAE."""
    work_dir: Path
    """The folder in which pooled features are found and left."""

    def rescore(self, pairs: Sequence[LabelledPair], rounding: Rounding = "none") -> Reread:
        """The detector on pairs that are read again."""
        # The identity of a reader, by which pooled features are found, does not say that its weights are rounded.
        folder = self.work_dir if rounding == "none" else self.work_dir / rounding
        pooled = encode_pairs(pairs, self.dictionary_of(rounding), segment=self.segment, folder=folder)
        if self.found.combination is None:
            assert self.found.probe is not None
            scores = self.found.probe.scores(pooled.dense)
            terms = scores[:, None]
        else:
            features = {pooling: pooled.features(pooling) for pooling in pooled.poolings}
            terms = self.found.combination.values(features)
            scores = self.found.combination.scores(features)
        return Reread(np.where(pooled.tokens > 0, scores, np.nan), terms)

    def refit(self, fit: Rows, out: Rows) -> Scores:
        """The scores of some pairs by a detector of as many features that was fitted on others."""
        labels = labels_of(self.pairs)[fit]
        groups = [self.pairs[row].group for row in fit]
        if self.found.combination is None:
            probe = dense_probe(rows_of(self.pooled.dense, fit), labels, groups)
            return probe.scores(rows_of(self.pooled.dense, out))
        fit_features, out_features = (StoredFeatures(self.pooled, rows, self.wanted.poolings) for rows in (fit, out))
        folds, terms = grouped_folds(labels, groups), len(self.found.combination.terms)
        return fitted(fit_features, labels, folds, self.wanted, terms=terms).scores(out_features)
