"""Values that cross module borders. Immutable, named, with units and shapes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

import numpy as np
from numpy.typing import NDArray

from scopewatch.identity import FeatureKey, FeatureTable

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]
TokenIds = Int32
"""Token ids of one text, shape (n_tokens,)."""


class Segment(IntEnum):
    """Part of the conversation a token belongs to; TEMPLATE covers BOS, special and separator tokens."""

    TEMPLATE = 0
    PROMPT = 1
    RESPONSE = 2
    HISTORY = 3


class Verdict(StrEnum):
    PASS = "pass"  # noqa: S105 - not a password
    FLAG = "flag"


class Relation(StrEnum):
    """Whether the reader wrote the response itself or reads another model's text."""

    SAME_MODEL = "same_model"
    READER_MODEL = "reader_model"


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Pair:
    """What a caller wants scored."""

    prompt: str
    response: str
    history: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of a pair the reader reads, in tokens."""

    tokens: int
    prompt_tokens: int
    response_tokens: int
    history_tokens: int
    prompt_tokens_dropped: int = 0
    response_tokens_dropped: int = 0
    history_tokens_dropped: int = 0

    @property
    def truncated(self) -> bool:
        return bool(self.prompt_tokens_dropped or self.response_tokens_dropped or self.history_tokens_dropped)


@dataclass(frozen=True, slots=True)
class TokenisedPair:
    """A pair as the reader reads it; all arrays have shape (n_tokens,)."""

    ids: TokenIds
    segments: Int8
    """`Segment` of each token."""
    turns: Int32
    """Index into the history for HISTORY tokens, else 0."""
    starts: Int32
    """First code point of the token in its segment's text; 0 for TEMPLATE."""
    ends: Int32
    """One past the last code point; 0 for TEMPLATE."""
    coverage: Coverage


@dataclass(frozen=True, slots=True)
class Activations:
    """Sparse activations of the watched features on one pair: what the engine gives and the cache keeps.

    The three arrays have shape (n_fired,), ordered by token, then column. Values are finite and greater than 0, but for
    those of probes and of the reader's head.
    """

    n_tokens: int
    token: Int32
    column: Int32
    """Index into the features of a `FeatureTable`, which stands beside the activations."""
    value: Float32


@dataclass(frozen=True, slots=True)
class CoveredActivations:
    """The activations of one pair, and which features they cover."""

    activations: Activations
    table: FeatureTable
    """The features of the activations' columns."""


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """The engine's answer for one batch."""

    activations: list[Activations | Exception]
    """In the order of the input; an exception where the reader failed on that pair alone."""
    forward_s: float
    encode_s: float
    reused_tokens: int = 0
    """Tokens that were not computed, since the same beginning had been before."""
    table: FeatureTable = field(default_factory=FeatureTable)
    """The features that the columns of these activations belong to."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds per stage; 0 where a stage did not run."""

    tokenise_s: float = 0.0
    cache_s: float = 0.0
    queue_s: float = 0.0
    forward_s: float = 0.0
    encode_s: float = 0.0
    score_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Label:
    """What a feature is said to mean, on one line, and who says so."""

    text: str
    source: str
    """`watchlist`, or `neuronpedia: {method}, {model}` for a description from the label index; empty without a text."""


LABEL_NOTE = (
    "A label from Neuronpedia is a machine-written description, not evidence: features picked by such labels averaged "
    "AUROC .70, features picked on labelled data .92 (AxBench, arXiv 2501.17148)."
)
"""Stands wherever labels of the index are shown."""


@dataclass(frozen=True, slots=True)
class FeatureScore:
    """What one term added to an indicator's score."""

    feature: FeatureKey | str
    """Of a combination, the name of the other indicator or of the reader's signal."""
    label: str
    pooling: str
    pooled: float
    contribution: float
    label_source: str = ""
    """As in `Label.source`."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A span of the caller's own text, in Unicode code points."""

    start: int
    end: int
    feature: FeatureKey
    activation: float
    segment: Segment
    turn: int


@dataclass(frozen=True, slots=True)
class IndicatorScore:
    name: str
    score: float
    threshold: float
    flagged: bool
    severity: str
    calibrated: bool
    """Whether its card, if it has one, speaks for what runs."""
    probability: float | None = None
    card_warning: str = ""
    """Why it does not."""
    features: tuple[FeatureScore, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    skipped_reason: str = ""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What produced a judgement's numbers: the same for every pair that one version of a watchlist judges."""

    watchlist: str
    watchlist_digest: str
    """SHA-256 of the watchlist's file."""
    relation: Relation
    reader: str
    reader_revision: str
    reader_digest: str


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Judgement:
    """What a watchlist says of a pair: made once, and the same object every time the pair comes again.

    Judgements are compared by identity, so that others can remember what they derive from one (a serialised reply, the
    series it counts in) for as long as it lives.
    """

    made_by: Provenance
    verdict: Verdict
    indicators: tuple[IndicatorScore, ...]
    coverage: Coverage
    fired: NDArray[np.intp]
    """Columns, ascending, of the features that fired on the caller's text; each stands once."""
    table: FeatureTable
    """The features that these columns belong to."""


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A pair's judgement, and what this answer cost."""

    judgement: Judgement
    timings: Timings
    cached: bool

    @property
    def verdict(self) -> Verdict:
        return self.judgement.verdict

    @property
    def indicators(self) -> tuple[IndicatorScore, ...]:
        return self.judgement.indicators

    @property
    def coverage(self) -> Coverage:
        return self.judgement.coverage

    @property
    def watchlist(self) -> str:
        """The name of the watchlist that judged."""
        return self.judgement.made_by.watchlist


@dataclass(frozen=True, slots=True)
class ScoreJob:
    """One pair on its way through the pipeline."""

    pair: Pair
    watchlist: str
    request_id: str
    include_evidence: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    deadline_s: float | None = None
    """When the caller stops waiting, on the clock of `time.monotonic`; None for never."""
