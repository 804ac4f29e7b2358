"""What an indicator weighs, as a watchlist holds it: features, other indicators, the reader's own predictions."""

import re
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from scopewatch.identity import ENTROPY, LOGPROB, FeatureKey
from scopewatch.sources import SOURCE, Name, Strict
from scopewatch.watch.poolings import PoolingField

_FEATURE = re.compile(rf"(?P<sae>[A-Za-z][A-Za-z0-9_.-]{{0,63}}|{SOURCE})/(?P<index>0|[1-9][0-9]{{0,8}})\Z")
Finite = Annotated[float, Field(allow_inf_nan=False)]


def _not_zero(weight: float) -> float:
    if weight == 0:
        raise ValueError("a weight of 0 watches nothing; remove the entry")
    return weight


Weight = Annotated[Finite, AfterValidator(_not_zero)]


class WatchedFeature(Strict):
    feature: str
    """`{sae}/{index}`; the SAE is a name under `saes`, or a Neuronpedia source such as
    gemma-2-2b/20-gemmascope-res-16k."""
    weight: Weight = 1.0
    pooling: PoolingField | None = None
    label: str = Field("", max_length=200)
    citation: str = Field("", max_length=400)
    """Where the feature was published, if it was."""

    @field_validator("feature")
    @classmethod
    def _names_a_known_sae(cls, value: str, info: ValidationInfo) -> str:
        match = _FEATURE.match(value)
        if not match:
            raise ValueError(
                f"a feature is written sae/index, for instance res/1234 or gemma-2-2b/20-gemmascope-res-16k/1234, "
                f"not {value!r}"
            )
        known = (info.context or {}).get("saes")
        if known is not None and match["sae"] not in known and "/" not in match["sae"]:
            raise ValueError(
                f"there is no SAE {match['sae']!r} under saes (there: {', '.join(sorted(known)) or 'none'})"
            )
        return value

    @property
    def key(self) -> FeatureKey:
        sae, _, index = self.feature.rpartition("/")
        return FeatureKey(sae, int(index))


Signal = Literal[
    "mean_logprob", "mean_entropy", "lowest_sentence_logprob", "highest_sentence_entropy", "surprising_assertion"
]
SIGNALS: tuple[Signal, ...] = get_args(Signal)
"""The numbers of the reader's own predictions that a combination may have for terms."""
ASSERTION_LEXICON = "hedges"
"""The name of the lexicon of words by which a sentence asserts less."""


class CombinedTerm(Strict):
    """Another indicator's score, or a number of the reader's own predictions."""

    indicator: Name | None = None
    signal: Signal | None = None
    """In nats per token; each makes the reader run whole, with its head.

    mean_logprob: mean log-probability the reader gives the segment's tokens. mean_entropy: mean entropy of the
    distributions it expected them from. lowest_sentence_logprob, highest_sentence_entropy: the lowest or highest of the
    means over one sentence's tokens, short sentences' drawn towards the segment's (`pipeline.signals`).
    surprising_assertion: the highest, over sentences, of -(mean log-probability) times max(0, 1 - h / 0.1), h the share
    of the sentence's words that are in the lexicon `hedges`; at least 0, and 0 where every sentence is hedged."""
    weight: Weight

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.indicator is None) == (self.signal is None):
            raise ValueError("give either indicator or signal")
        return self

    @property
    def name(self) -> str:
        return self.indicator or self.signal or ""

    @property
    def key(self) -> FeatureKey | None:
        """The feature that stands for a signal among what the engine computes; None for an indicator."""
        if self.signal is None:
            return None
        return ENTROPY if self.signal.endswith("entropy") else LOGPROB
