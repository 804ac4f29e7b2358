"""By which poolings the features and the activations of a pair are kept; named without importing torch."""

from scopewatch.errors import ConfigError
from scopewatch.watch.poolings import Pooling

POOLINGS = (
    Pooling(kind="max"),
    Pooling(kind="mean"),
    Pooling(kind="sum"),
    Pooling(kind="fraction_active"),
    Pooling(kind="rolling_mean_max", window=8),
    Pooling(kind="k_of_n", k=2),
    Pooling(kind="last"),
    Pooling(kind="sentence_end", over="mean"),
)
"""What is kept of every feature."""
MEAN = Pooling(kind="mean")
DENSE_POOLINGS = (MEAN, Pooling(kind="last"), Pooling(kind="sentence_end", over="mean"))
"""What is kept of the reader's activations: of these the pooled score of a direction is the score of what is pooled."""


def pooling_named(word: str, option: str) -> Pooling:
    """The pooling of a kind, of those that are kept of every feature.

    Args:
        word: The kind.
        option: The option of the command line that gives it, for the error.

    Raises:
        ConfigError: No pooling of that kind is kept.
    """
    known = {pooling.kind: pooling for pooling in POOLINGS}
    if word not in known:
        raise ConfigError(f"{option}: expected one of {', '.join(known)}, not {word!r}")
    return known[word]
