"""Indicators, as a watchlist holds them: the features they are made of, and how those become a score."""

from math import log
from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)

from scopewatch.sources import Name, Several, Strict
from scopewatch.types import Segment
from scopewatch.watch.cards import Card, Sha256
from scopewatch.watch.poolings import Pooling, PoolingField
from scopewatch.watch.reference import term_name
from scopewatch.watch.terms import CombinedTerm, Finite, WatchedFeature
from scopewatch.words.lexicon import Lexicon, shipped_names

PROBE = "probe"
"""What a file of dense directions has for an architecture, where an SAE has jumprelu or topk."""
_PROBE_POOLINGS = ("max", "mean", "sum", "last", "sentence_end")
"""Poolings of probes; the others ask whether a feature fires at all, and a probe has a value everywhere."""


class Probability(Strict):
    """Platt scaling: probability = 1 / (1 + exp(-(slope * score + intercept)))."""

    slope: Finite = Field(gt=0)
    intercept: Finite


def _lexicon(value: object) -> str | tuple[str, ...]:
    """The name of a lexicon that there is, or words and phrases that make one."""
    if isinstance(value, str):
        if value not in shipped_names():
            raise ValueError(f"there is no lexicon {value!r} (there: {', '.join(shipped_names())}); or list its words")
        return value
    entries = tuple(value) if isinstance(value, (list, tuple)) else ()
    if not entries or not all(isinstance(entry, str) for entry in entries):
        raise ValueError("is the name of a lexicon, or a list of words and phrases; quote what is no text otherwise")
    Lexicon(entries)
    return entries


def _plain_lexicon(value: str | tuple[str, ...] | None) -> object:
    return list(value) if isinstance(value, tuple) else value


class BagSource(Strict):
    """The file of a hashed bag of words, as `calibrate` writes it."""

    path: str = Field(min_length=1)
    """Counts from the watchlist's folder, unless it is absolute."""
    sha256: Sha256
    """SHA-256 of the file's bytes."""


class ByLength(Strict):
    """How a threshold goes with the length of the segment: slope * (ln(n_tokens) - ln(reference_tokens)) is added."""

    slope: Finite
    """How much higher the threshold is where the segment has e (2.718) times as many tokens."""
    reference_tokens: int = Field(ge=1)
    """The number of tokens at which the threshold is the one that is written."""

    def added(self, n_tokens: int) -> float:
        """What is added to the threshold for a segment of `n_tokens` tokens; one of none counts as one of one."""
        return self.slope * (log(max(1, n_tokens)) - log(self.reference_tokens))


class Indicator(Strict):
    name: Name
    label: str = Field("", max_length=200)
    kind: Literal["features", "probe", "combination", "obfuscation", "words"] = "features"
    """Whether it is made of SAE features, of dense probe directions, of other indicators' scores, of the share of the
    segment's characters that hide or imitate letters, or of its words."""
    segment: Literal["prompt", "response", "history"] = "response"
    severity: Literal["info", "low", "medium", "high"] = "medium"
    """How grave a flag is; `info` is for the record and never makes the verdict FLAG."""
    shows: Literal["", "hedging", "knowledge"] = ""
    """What it shows of a single sentence in an explanation: that it hedges, or that knowledge of a domain is active."""
    pooling: PoolingField = Pooling(kind="max")
    features: Several[WatchedFeature] = Field((), max_length=4096, validate_default=True)
    combines: Several[CombinedTerm] = Field((), max_length=64, validate_default=True)
    lexicon: Annotated[str | tuple[str, ...] | None, PlainValidator(_lexicon), PlainSerializer(_plain_lexicon)] = None
    """The name of a list of words that comes with the package, or words and phrases; the score is their share."""
    bag: BagSource | None = None
    """A weighted bag of words and pairs of words."""
    bias: Finite = 0.0
    threshold: Finite
    threshold_by_length: ByLength | None = None
    """How the threshold goes with the number of the segment's tokens; None where it is the same for all."""
    probability: Probability | None = None
    card: Annotated[Card | None, BeforeValidator(lambda card: None if card == "uncalibrated" else card)] = None
    """The evidence for the threshold; None is written `uncalibrated`, or left out."""

    @field_validator("pooling")
    @classmethod
    def _is_of_features(cls, value: Pooling, info: ValidationInfo) -> Pooling:
        if info.data.get("kind") == "combination":
            raise ValueError("a combination pools nothing; its parts say how they are pooled")
        if info.data.get("kind") == "obfuscation":
            raise ValueError("an indicator of kind obfuscation pools nothing; it counts characters")
        if info.data.get("kind") == "words":
            raise ValueError("an indicator of kind words pools nothing; it counts words")
        return value

    @field_validator("features", "combines")
    @classmethod
    def _is_what_the_kind_needs(cls, value: tuple[Strict, ...], info: ValidationInfo) -> tuple[Strict, ...]:
        if kind := info.data.get("kind"):
            needed = {"combination": "combines", "obfuscation": "", "words": ""}.get(kind, "features")
            if info.field_name == needed and not value:
                raise ValueError("needs at least one entry")
            if info.field_name != needed and value:
                mend = (
                    f"{needed} instead" if needed else f"none; it counts {'words' if kind == 'words' else 'characters'}"
                )
                raise ValueError(f"an indicator of kind {kind} has {mend}")
        return value

    @field_validator("features")
    @classmethod
    def _terms_are_distinct(cls, value: tuple[WatchedFeature, ...], info: ValidationInfo) -> tuple[WatchedFeature, ...]:
        seen: set[tuple[str, Pooling]] = set()
        for term in value:
            pooling: Pooling | None = term.pooling or info.data.get("pooling")
            if pooling is None:
                continue
            if (term.feature, pooling) in seen:
                raise ValueError(f"feature {term.feature} stands twice with pooling {pooling}; add the weights")
            if info.data.get("kind") == "probe" and pooling.kind not in _PROBE_POOLINGS:
                raise ValueError(f"{term.feature}: a probe is pooled by {', '.join(_PROBE_POOLINGS)}, not by {pooling}")
            seen.add((term.feature, pooling))
        return value

    @field_validator("combines")
    @classmethod
    def _parts_are_distinct(cls, value: tuple[CombinedTerm, ...]) -> tuple[CombinedTerm, ...]:
        names = [term.name for term in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name} stands twice; add the weights")
        return value

    @model_validator(mode="after")
    def _counts_one(self) -> Self:
        given = sum(source is not None for source in (self.lexicon, self.bag))
        if given != (self.kind == "words"):
            wanted = "either lexicon or bag" if self.kind == "words" else "neither lexicon nor bag"
            raise ValueError(f"an indicator of kind {self.kind} has {wanted}")
        return self

    @property
    def calibrated(self) -> bool:
        return self.card is not None

    def threshold_for(self, n_tokens: int) -> float:
        """The threshold for a segment of `n_tokens` tokens."""
        return self.threshold + (self.threshold_by_length.added(n_tokens) if self.threshold_by_length else 0.0)

    @property
    def threshold_in_words(self) -> str:
        """The threshold, and how it goes with the length."""
        slope = self.threshold_by_length
        by_length = f" at {slope.reference_tokens} tokens, {slope.slope:+.4g} for e times as many" if slope else ""
        return f"{self.threshold:.6g}{by_length}"

    @property
    def made_of(self) -> str:
        """How many features or other indicators it is made of, or what words it counts."""
        if self.kind != "words":
            return str(len(self.features) or len(self.combines))
        return "bag" if self.bag else self.lexicon if isinstance(self.lexicon, str) else "lexicon"

    @property
    def term_names(self) -> tuple[str, ...]:
        """What a card's reference calls the terms; none where words or characters are counted."""
        if self.combines:
            return tuple(part.name for part in self.combines)
        return tuple(term_name(term.key, term.pooling or self.pooling) for term in self.features)

    @property
    def read_segment(self) -> Segment:
        return Segment[self.segment.upper()]
