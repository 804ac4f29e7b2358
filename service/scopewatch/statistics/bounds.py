"""False-positive rates that are bounded: of a threshold that is given, and the threshold for a rate that is wanted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scopewatch.errors import DataError, TooLittleData
from scopewatch.statistics.scores import Rows, Scores, check_finite, check_share

try:
    from scipy import special, stats
except ImportError:
    raise DataError("calibration needs SciPy: pip install 'scopewatch[calibration]'") from None


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold whose false-positive rate is bounded; a pair is flagged whose score is above `value`."""

    value: float
    exceeding: int
    """How many of the `n` benign pairs score above it."""
    n: int
    """How many benign pairs, independent of each other, set it."""
    fpr_upper: float
    """The highest false-positive rate that it has, with `confidence`."""
    confidence: float

    @property
    def fpr(self) -> float:
        """The share of the benign pairs that set it that score above it; what `fpr_upper` bounds."""
        return self.exceeding / self.n


def false_positive_bound(exceeding: int, n: int, confidence: float = 0.95) -> float:
    """The one-sided Clopper-Pearson upper bound of a rate, where `exceeding` of `n` independent pairs exceed.

    Raises:
        DataError: There are no pairs or more exceed than there are, or the confidence is outside (0, 1).
    """
    check_share("confidence", confidence)
    if not 0 <= exceeding <= n or n < 1:
        raise DataError(f"false positives: {exceeding} of {n} pairs")
    return 1.0 if exceeding == n else float(special.betaincinv(exceeding + 1, n - exceeding, confidence))


def threshold_for(benign: Scores, max_fpr: float, confidence: float = 0.95) -> Threshold:
    """The lowest threshold whose false-positive rate is at most `max_fpr` with `confidence`, whatever the distribution.

    It is the (k+1)-th largest of the n benign scores, k being the most that may exceed it for the Clopper-Pearson bound
    of k of n to be at most `max_fpr`. That bound is meant for a threshold fixed before the scores are seen, yet holds
    for this one, and exactly: of independent scores with a continuous distribution, the share of the population above
    the (k+1)-th largest is Beta(k+1, n-k) distributed (Wilks 1941), and the bound is the `confidence` quantile of just
    that distribution. Where scores tie the share above is stochastically smaller, so that the bound errs to the safe
    side; it remains that of k, even if fewer exceed a tied threshold, since how many do is chosen by the data too.

    The scores must be independent of each other and of the indicator's weights: one pair per group (`one_per_group`),
    none that the indicator was fitted on.

    Args:
        benign: Scores of pairs on which the indicator should not fire, shape (n,).
        max_fpr: The highest false-positive rate that is wanted, in (0, 1).
        confidence: How surely the rate is to be at most that, in (0, 1).

    Raises:
        TooLittleData: There are so few pairs that even a threshold that none of them exceeds has a higher bound.
        DataError: A score is no finite number, or a share is outside (0, 1).
    """
    check_share("max_fpr", max_fpr)
    check_share("confidence", confidence)
    check_finite(benign)
    n = len(benign)
    _check_enough(n, max_fpr, confidence)
    # The quantile is the fewest that are too many, but for rounding.
    allowed = max(0, int(stats.binom.ppf(1 - confidence, n, max_fpr)) - 1)
    value = float(np.partition(benign, n - 1 - allowed)[n - 1 - allowed])
    return Threshold(
        value=value,
        exceeding=int((benign > value).sum()),
        n=n,
        fpr_upper=false_positive_bound(allowed, n, confidence),
        confidence=confidence,
    )


def _check_enough(n: int, max_fpr: float, confidence: float) -> None:
    """Refuses fewer pairs than it takes to bound the rate when none of them exceeds the threshold."""
    best = false_positive_bound(0, n, confidence) if n else 1.0
    if best > max_fpr:
        needed = math.ceil(math.log1p(-confidence) / math.log1p(-max_fpr))
        raise TooLittleData(
            f"{n} benign pairs support a false-positive rate of {best:.2g} at best ({confidence:.0%} confidence); "
            f"{max_fpr:g} needs at least {needed}",
            n=n,
            needed=needed,
        )


def one_per_group(groups: Sequence[str], seed: int = 0) -> Rows:
    """Numbers of one pair of each group, ascending; every pair of a group is as likely to be taken."""
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    _, first = np.unique(np.array(groups, dtype=object)[shuffled], return_index=True)
    return np.sort(shuffled[first])
