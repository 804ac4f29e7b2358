"""What is told of a pair when somebody asks why: one document, for the wire, for a file and for a page.

Its fields are those of the messages of `protos/scopewatch/v1/monitor.proto` that have these names. Enumerations are
plain words here. A place in a text is a half-open range of Unicode code points of the caller's own text, and a token is
known by its index in `Explanation.tokens`.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SegmentName = Literal["prompt", "response", "history"]
Quadrant = Literal["", "solid", "cautious", "speculative", "check_first"]
"""Where a sentence stands: `solid` asserts what the reader expected, `cautious` hedges it, `speculative` hedges what
the reader did not expect, `check_first` asserts what it did not expect; empty where one of the two is not known."""

MOST_TOP = 64
"""The largest `Wants.top`."""


@dataclass(frozen=True, slots=True)
class Wants:
    """What is wanted of an explanation beyond the sums."""

    top: int = 8
    """How many features of the whole dictionary are told of each segment and of each token, at most."""
    ablate: bool = False
    """Whether it is measured what the flagged indicators' features do to the reader."""
    delete: bool = False
    """Whether the smallest deletion of words is looked for after which the verdict is another."""
    controls: int = 20
    """How many random sets of features an ablation is held against."""


class Part(BaseModel):
    """A part of an explanation: immutable, and with no other fields than its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Text(Part):
    """One of the caller's texts that was read."""

    segment: SegmentName
    turn: int = 0
    """Its index in the history, for a text of it; otherwise 0."""
    role: str = ""
    """Who said it, for a text of the history."""
    text: str


class Tokens(Part):
    """The n tokens of the caller's texts that were read, in their order, without those of the template.

    Each tuple has n entries.
    """

    text: tuple[int, ...] = ()
    """The index in `Explanation.texts` of the text that each token is of."""
    start: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    logprob: tuple[float, ...] = ()
    """The log-probability that the reader gave each token, in nats; empty where its head is not loaded."""


class Heat(Part):
    """Where something fired: the tokens, ascending, and how strongly at each."""

    token: tuple[int, ...] = ()
    value: tuple[float, ...] = ()


class Feature(Part):
    """A watched feature that fired on the caller's texts."""

    feature: str
    """`{sae}/{index}`."""
    label: str = ""
    label_source: str = ""
    """Who wrote the label, as in `FeatureScore`."""
    heat: Heat = Heat()
    """Its activation."""


class Term(Part):
    """One summand of an indicator's score."""

    feature: str
    """The feature, the other indicator, the reader's signal or the word, as in `FeatureScore`."""
    label: str = ""
    label_source: str = ""
    pooling: str = ""
    pooled: float
    contribution: float
    percentile: float | None = None
    """The share of the benign pairs of the card, 0 to 1, whose pooled value is below; None where the card does not
    know."""


class BenignPair(Part):
    """A benign pair that the card was made with, to compare with."""

    id: str
    """Its id in the data that the card names."""
    score: float
    percentile: float


class IndicatorExplained(Part):
    """One indicator: the sum that its score is, and what stands behind its threshold.

    The score is the sum of `bias` and of the contributions of `terms`, rounded once, to the nearest double. The
    probability is 1 / (1 + exp(-(slope * score + intercept))).
    """

    name: str
    label: str = ""
    kind: Literal["features", "probe", "combination", "obfuscation", "words"]
    severity: Literal["info", "low", "medium", "high"]
    segment: SegmentName
    score: float
    threshold: float
    flagged: bool
    skipped_reason: str = ""
    calibrated: bool
    card_warning: str = ""
    cleaned: bool = False
    """Whether the score is that of the cleaned reading, in which nothing is hidden by odd characters; of two readings
    the higher score counts."""
    bias: float
    """0 where it was skipped."""
    slope: float | None = None
    intercept: float | None = None
    probability: float | None = None
    terms: tuple[Term, ...] = ()
    """Every summand that is not 0, the largest first. A summand of a combination that is another indicator has that
    indicator's name, and its own sum stands with that indicator. Of words at most 32 are named; the rest of them are
    the last summand, `other words`."""
    percentile: float | None = None
    """The share of the benign pairs of the card, 0 to 1, that score less; None where the card does not know."""
    benign_pairs: tuple[BenignPair, ...] = ()
    """The benign pairs whose scores are next below and next above, of those that the card names."""
    heat: Heat = Heat()
    """What each token adds to the score: with the bias that is the score. Of a maximum it is the token that has it; the
    tokens of a word share what the word adds; of a combination it is its parts' heat times their weights."""
    card: tuple[str, ...] = ()
    """What its card says, in sentences."""


class DictionaryFeature(Part):
    """A feature of a whole dictionary on one segment."""

    feature: int
    """Its index."""
    label: str = ""
    label_source: str = ""
    peak: float
    """Its highest activation."""
    mean: float
    """Its mean activation over the segment's tokens."""
    tokens: int
    """On how many of them it fired."""
    watched: bool = False
    """Whether the watchlist watches it."""


class SegmentFeatures(Part):
    """The features of a whole dictionary that fired most strongly on one segment."""

    segment: SegmentName
    features: tuple[DictionaryFeature, ...] = ()
    """Those with the highest peak first; of equal ones, that with the lower index."""
    unexplained: float | None = None
    """The share of the variance of the reader's activations on this segment that the SAE does not reconstruct."""


class TokenFeatures(Part):
    """The features of a whole dictionary that fired most strongly on one token, the strongest first."""

    feature: tuple[int, ...] = ()
    activation: tuple[float, ...] = ()


class SaeExplained(Part):
    """What one whole dictionary made of the pair."""

    sae: str
    """Its name in the watchlist."""
    hookpoint: str
    d_sae: int
    segments: tuple[SegmentFeatures, ...] = ()
    tokens: tuple[TokenFeatures, ...] = ()
    """One for each token."""
    unexplained: tuple[float, ...] = ()
    """For each token the share of the reader's activation, squared and less the mean of its text, that the SAE does not
    reconstruct; above 1 where the reconstruction is worse than that mean. Empty where it could not be measured."""
    l0: float | None = None
    """How many features fired on a token, on average."""
    problem: str = ""
    """Why something of this could not be told; empty if all of it was."""


class Group(Part):
    """What of one domain was active: the features of an indicator that spoke for it."""

    name: str
    """The label of the indicator, or its name."""
    indicator: str
    features: int
    """How many features that speak for it fired."""
    of: int
    """How many it has."""
    words: tuple[str, ...] = ()
    """The words on which they were strongest, the strongest first."""


class Sentence(Part):
    """One sentence of the response."""

    text: int
    """The index in `Explanation.texts`."""
    start: int
    end: int
    hedging: float | None = None
    """How much it hedges, by `Explanation.hedging_by`."""
    hedged: bool | None = None
    logprob: float | None = None
    """The mean log-probability of its tokens, in nats; None where the reader's head is not loaded."""
    percentile: float | None = None
    """The share of the sentences of benign pairs, 0 to 1, that the reader expected less; None where no card knows."""
    surprising: bool | None = None
    quadrant: Quadrant = ""
    knowledge: tuple[str, ...] = ()
    """The indicators of knowledge that were active on its own words."""


class Change(Part):
    """What became of a number when features were taken out of the reader."""

    name: str
    """The indicator; `response log-probability` for the mean log-probability of the response's tokens."""
    before: float
    after: float
    random_mean: float
    """The mean over random features of equal norm."""
    random_low: float
    """The lower end of the interval that holds 95 % of these; `random_high` is the upper."""
    random_high: float
    beyond_random: bool
    """Whether the change lies outside of what random features of equal norm did."""


class WordChange(Part):
    """A word of the response whose log-probability changed most."""

    text: int
    start: int
    end: int
    change: float
    """After less before, in nats, its tokens added up."""


class Ablation(Part):
    """What a flagged indicator's features do: taken out of the reader where their SAE reads, at every token."""

    indicator: str
    features: tuple[str, ...] = ()
    """Those that raised its score."""
    controls: int = 0
    """How many random sets of features of equal norm it was held against."""
    removed: float = 0.0
    """The norm of what was taken out, as a share of the norm of the activations, the mean over tokens where any was."""
    changes: tuple[Change, ...] = ()
    words: tuple[WordChange, ...] = ()
    conclusion: str
    """What may be said of it, in a sentence; or why it could not be measured."""


class Span(Part):
    """A place in a text."""

    text: int
    start: int
    end: int


class Deletion(Part):
    """The words without which the verdict is another: as few as a greedy search found, which may not be the fewest."""

    turned: bool
    """Whether the verdict turned."""
    words: tuple[Span, ...] = ()
    scored: int = 0
    """How many shortened pairs were scored on the way."""
    verdict: Literal["pass", "flag", "incomplete"] = "pass"
    """The verdict without them."""
    conclusion: str


class CoverageExplained(Part):
    """How much of the pair was read; as in `Coverage`."""

    tokens: int
    prompt_tokens: int
    response_tokens: int
    history_tokens: int
    truncated: bool = False
    windows: int = 1


class ProvenanceExplained(Part):
    """What produced the numbers; as in `Provenance`."""

    reader: str
    reader_revision: str = ""
    reader_digest: str
    watchlist: str
    watchlist_digest: str
    relation: Literal["same_model", "reader_model"]
    version: str
    rendering_digest: str = ""
    watchlists_version: int = 0
    saes: dict[str, str] = Field(default_factory=dict)
    """The digest of each SAE, by its name."""


class Explanation(Part):
    """Why a pair got its verdict, and how far that can be trusted."""

    request_id: str
    verdict: Literal["pass", "flag", "incomplete"]
    incomplete: tuple[str, ...] = ()
    summary: str
    """The first paragraph, for whoever is no engineer."""
    trust: tuple[str, ...] = ()
    """How far this may be trusted, and what may not be concluded, in sentences; the gravest first."""
    texts: tuple[Text, ...] = ()
    tokens: Tokens = Tokens()
    indicators: tuple[IndicatorExplained, ...] = ()
    features: tuple[Feature, ...] = ()
    groups: tuple[Group, ...] = ()
    saes: tuple[SaeExplained, ...] = ()
    hedging_by: str = ""
    """The indicator by which sentences hedge; `hedge words` where a list of words is counted."""
    sentences: tuple[Sentence, ...] = ()
    sentences_note: str = ""
    """How it was decided what hedges, and what of the sentences is not known, and why."""
    ablations: tuple[Ablation, ...] = ()
    deletion: Deletion | None = None
    coverage: CoverageExplained
    provenance: ProvenanceExplained
    label_note: str = ""
    """What to make of labels that a machine wrote; empty where there is none."""
