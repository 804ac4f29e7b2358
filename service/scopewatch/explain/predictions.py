"""What the reader's head says of a pair's tokens, out of the activations that hold it."""

import numpy as np

from scopewatch.identity import LOGPROB, prediction_id
from scopewatch.types import CoveredActivations, Float64


def logprobs(covered: CoveredActivations, reader_digest: str) -> Float64 | None:
    """The log-probability of each token in nats, shape (n_tokens,); None where the activations do not hold it."""
    wanted = prediction_id(LOGPROB, reader_digest)
    if wanted not in covered.table.features:
        return None
    mine = covered.activations.column == covered.table.features.index(wanted)
    found = np.zeros(covered.activations.n_tokens)
    found[covered.activations.token[mine]] = covered.activations.value[mine]
    return found
