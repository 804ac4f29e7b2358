"""The one in-memory form of an SAE's encoder, whatever file it came from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scopewatch.errors import NoSuchFeature

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EncoderColumns:
    """The watched columns of a JumpReLU encoder; n is the number of watched features.

    `pre = x @ W_enc + b_enc; f = pre * (pre > threshold)`, x the raw activation in float32 with no centring and no
    scaling (Gemma Scope, arXiv 2408.05147, appendix A: both are folded into the release).
    """

    W_enc: Float32
    """Shape (d_in, n)."""
    b_enc: Float32
    """Shape (n,)."""
    threshold: Float32
    """Shape (n,)."""
    d_sae: int
    """Width of the whole SAE."""
    digest: str
    """SHA-256 of the file."""
    format: str
    architecture: str

    @property
    def d_in(self) -> int:
        return int(self.W_enc.shape[0])


def checked_features(features: Sequence[int], d_sae: int, file: object) -> NDArray[np.intp]:
    """Feature indices, ascending and within the SAE.

    Raises:
        NoSuchFeature: Names the first index that is out of range.
    """
    for feature in features:
        if not 0 <= feature < d_sae:
            raise NoSuchFeature(f"there is no feature {feature} in {file}; it has 0 to {d_sae - 1}", feature)
    return np.array(sorted(set(features)), np.intp)
