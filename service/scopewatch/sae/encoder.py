"""The encoder of an SAE's watched features, as the engine takes it, and what is known of the SAE."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from scopewatch.types import Float32, Indices

Normalise = Literal["none", "layer_norm", "root_d"]
"""How each activation vector is normalised before anything else is done to it.

layer_norm: `(x - mean) / (std + 1e-5)`, std unbiased, no affine. root_d: `x * sqrt(d_in) / ||x||` (SAELens'
`constant_norm_rescale`).
"""


@dataclass(frozen=True, slots=True)
class Contest:
    """Only the `winners` largest of every `group` neighbouring columns fire (TopK: one group; groupmax: one winner)."""

    group: int
    winners: int


@dataclass(frozen=True, slots=True)
class Training:
    """What an SAE's files say of the texts that it was trained on, as far as a reader may give it others."""

    prepend_bos: bool | None = None
    """Whether texts began with BOS; None when the files do not say."""
    excluded_tokens: tuple[int, ...] = ()
    """Ids of tokens on which it was not trained."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """The part of an SAE's encoder that watched features need; n columns.

    `pre = normalise(x) @ W_enc + b_enc`, x in float32. A feature fires where pre is greater than its threshold and
    the feature wins its contest, if there is one. Its activation is then pre or, if the encoder has a scale and an
    offset, `relu(scale * pre + offset)`.
    """

    normalise: Normalise
    W_enc: Float32
    """Shape (d_in, n)."""
    b_enc: Float32
    """Shape (n,)."""
    threshold: Float32
    """Shape (n,), at least 0; minus infinity for a probe, which always fires."""
    watched: Indices
    """Columns of the watched features, in ascending order of the features; all n unless there is a contest."""
    contest: Contest | None = None
    scale: Float32 | None = None
    """Shape (n,); None together with `offset`."""
    offset: Float32 | None = None
    """Shape (n,)."""
    max_norm_multiple: float | None = None
    """Nothing fires on a token whose activation's norm is more than so many times the median of its text's tokens; None
    for no such bound."""

    @property
    def arrays(self) -> dict[str, Float32]:
        """The arrays that the encoder has, by the names of its fields."""
        named = {name: getattr(self, name) for name in ("W_enc", "b_enc", "threshold", "scale", "offset")}
        return {name: array for name, array in named.items() if array is not None}


@dataclass(frozen=True, slots=True)
class WatchedSae:
    """The encoder of an SAE's watched features, and what is known of the whole SAE."""

    encoder: Encoder
    features: tuple[int, ...]
    """Indices of the watched features, ascending: the features that `encoder.watched` has the columns of."""
    format: str
    architecture: str
    hookpoint: str
    """Where the SAE reads, as its publisher writes it; empty when the files do not say."""
    model: str
    """The model that the SAE was made for, as its publisher writes it."""
    d_sae: int
    digest: str
    """SHA-256 of the weights file, or one over all files and settings that the numbers come from."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file, by name."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Hub repository and commit, where the files came from there."""
    training: Training = Training()

    @property
    def d_in(self) -> int:
        return int(self.encoder.W_enc.shape[0])
