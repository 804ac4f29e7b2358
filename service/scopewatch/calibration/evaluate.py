"""How well an indicator separates labelled pairs."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from scopewatch.calibration.data import LabelledPair
from scopewatch.errors import DataError, ScopewatchError
from scopewatch.types import ScoredPair, ScoreJob

Score = Callable[[Sequence[ScoreJob]], Awaitable[list[ScoredPair | ScopewatchError]]]
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result; rates are at the watchlist's threshold."""

    indicator: str
    watchlist: str
    n: int
    n_positive: int
    auroc: float
    threshold: float
    tpr: float
    """Share of label 1 that is flagged."""
    fpr: float
    """Share of label 0 that is flagged."""
    precision: float | None
    """Share of the flagged that is label 1; None when nothing is flagged."""
    truncated: int
    """Pairs that did not fit the reader whole."""
    calibrated: bool


async def evaluate(pairs: Sequence[LabelledPair], indicator: str, watchlist: str, score: Score) -> Evaluation:
    """Scores labelled pairs and compares.

    Args:
        pairs: Both labels present.
        indicator: Name in the watchlist.
        watchlist: Its name; empty for the default.
        score: The online scorer.

    Raises:
        DataError: A pair cannot be scored, or the watchlist has no such indicator.
    """
    try:
        from sklearn.metrics import roc_auc_score
    except ImportError:
        raise DataError("evaluate needs scikit-learn: pip install 'scopewatch[calibration]'") from None
    scores: list[float] = []
    flags: list[bool] = []
    truncated = 0
    found, name = None, watchlist
    for first in tqdm(range(0, len(pairs), _CHUNK), desc="scoring", unit="batch", disable=None):
        chunk = pairs[first : first + _CHUNK]
        jobs = [ScoreJob(item.pair, watchlist, request_id=str(item.line)) for item in chunk]
        for item, outcome in zip(chunk, await score(jobs), strict=True):
            if isinstance(outcome, ScopewatchError):
                raise DataError(f"line {item.line}: {outcome}")
            found = next((part for part in outcome.indicators if part.name == indicator), None)
            if found is None:
                known = ", ".join(part.name for part in outcome.indicators)
                raise DataError(f"indicator {indicator!r}: watchlist {outcome.watchlist} has {known}")
            if found.skipped_reason:
                raise DataError(f"line {item.line}: {indicator} cannot be scored: {found.skipped_reason}")
            name = outcome.watchlist
            scores.append(found.score)
            flags.append(found.flagged)
            truncated += outcome.coverage.truncated
    labels = np.array([item.label for item in pairs], bool)
    flagged = np.array(flags)
    assert found is not None
    return Evaluation(
        indicator=indicator,
        watchlist=name,
        n=len(labels),
        n_positive=int(labels.sum()),
        auroc=float(roc_auc_score(labels, scores)),
        threshold=found.threshold,
        tpr=float(flagged[labels].mean()),
        fpr=float(flagged[~labels].mean()),
        precision=float(labels[flagged].mean()) if flagged.any() else None,
        truncated=truncated,
        calibrated=found.calibrated,
    )
