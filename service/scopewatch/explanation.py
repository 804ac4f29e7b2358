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

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Text(Part):
    """One of the caller's texts that was read."""

    segment: SegmentName
    """The part of the conversation that it is."""
    turn: int = 0
    """Its index in the history, for a text of it; otherwise 0."""
    role: str = ""
    """Who said it, for a text of the history."""
    text: str
    """The text as the caller sent it."""


class Tokens(Part):
    """The n tokens of the caller's texts that were read, in their order, without those of the template.

    Each tuple has n entries.
    """

    text: tuple[int, ...] = ()
    """The index in `Explanation.texts` of the text that each token is of."""
    start: tuple[int, ...] = ()
    """The first code point of each token in its text."""
    end: tuple[int, ...] = ()
    """One past its last."""
    logprob: tuple[float, ...] = ()
    """The log-probability that the reader gave each token, in nats; empty where its head is not loaded."""


class Heat(Part):
    """Where something fired: the tokens, ascending, and how strongly at each."""

    token: tuple[int, ...] = ()
    """The indices of the tokens."""
    value: tuple[float, ...] = ()
    """The value at each of them."""


class Feature(Part):
    """A watched feature that fired on the caller's texts."""

    feature: str
    """`{sae}/{index}`."""
    label: str = ""
    """What it is said to mean; empty where nobody said it."""
    label_source: str = ""
    """Who wrote the label, as in `FeatureScore`."""
    heat: Heat = Heat()
    """Its activation."""


class Term(Part):
    """One summand of an indicator's score."""

    feature: str
    """The feature, the other indicator, the reader's signal or the word, as in `FeatureScore`."""
    label: str = ""
    """What it is said to mean; empty where nobody said it."""
    label_source: str = ""
    """Who wrote the label, as in `FeatureScore`."""
    pooling: str = ""
    """How its activations became one number; empty where it is no feature."""
    pooled: float
    """That number."""
    contribution: float
    """What it adds to the score: its number times its weight."""
    percentile: float | None = None
    """The share of the benign pairs of the card, 0 to 1, whose pooled value is below; None where the card does not
    know."""


class BenignPair(Part):
    """A benign pair that the card was made with, to compare with."""

    id: str
    """Its id in the data that the card names."""
    score: float
    """Its score."""
    percentile: float
    """The share of the benign pairs, 0 to 1, that score less than it."""


class IndicatorExplained(Part):
    """One indicator: the sum that its score is, and what stands behind its threshold.

    The score is the sum of `bias` and of the contributions of `terms`, rounded once, to the nearest double. The
    probability is 1 / (1 + exp(-(slope * score + intercept))).
    """

    name: str
    """Its name in the watchlist."""
    label: str = ""
    """What people call it; empty where the watchlist does not say."""
    kind: Literal["features", "probe", "combination", "obfuscation", "words"]
    """What its score is made of."""
    severity: Literal["info", "low", "medium", "high"]
    """What a flag of it means; `info` makes no verdict."""
    segment: SegmentName
    """What it reads."""
    score: float
    """Its score; 0 where it was skipped."""
    threshold: float
    """It flags where its score is above."""
    flagged: bool
    """Whether its score is above its threshold."""
    skipped_reason: str = ""
    """Why it was not scored; empty if it was."""
    calibrated: bool
    """Whether a card stands behind its threshold and speaks for what runs."""
    card_warning: str = ""
    """Why its card does not speak for what runs; empty if it does or there is none."""
    cleaned: bool = False
    """Whether the score is that of the cleaned reading, in which nothing is hidden by odd characters; of two readings
    the higher score counts."""
    bias: float
    """0 where it was skipped."""
    slope: float | None = None
    """The slope of the map to a probability; None, like the intercept, where it has none."""
    intercept: float | None = None
    """The intercept of that map, in log-odds."""
    probability: float | None = None
    """The calibrated probability of label 1; None where it is not known."""
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
    """What it is said to mean; empty where nobody said it."""
    label_source: str = ""
    """Who wrote the label, as in `FeatureScore`."""
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
    """The segment."""
    features: tuple[DictionaryFeature, ...] = ()
    """Those with the highest peak first; of equal ones, that with the lower index."""
    unexplained: float | None = None
    """The share of the variance of the reader's activations on this segment that the SAE does not reconstruct."""


class TokenFeatures(Part):
    """The features of a whole dictionary that fired most strongly on one token, the strongest first."""

    feature: tuple[int, ...] = ()
    """Their indices."""
    activation: tuple[float, ...] = ()
    """Their activations."""


class SaeExplained(Part):
    """What one whole dictionary made of the pair."""

    sae: str
    """Its name in the watchlist."""
    hookpoint: str
    """Where it reads."""
    d_sae: int
    """How many features it has."""
    segments: tuple[SegmentFeatures, ...] = ()
    """What fired most strongly, segment by segment."""
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
    """The name of the indicator."""
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
    """Its first code point."""
    end: int
    """One past its last visible character."""
    hedging: float | None = None
    """How much it hedges, by `Explanation.hedging_by`."""
    hedged: bool | None = None
    """Whether it hedges; None where that is not known."""
    logprob: float | None = None
    """The mean log-probability of its tokens, in nats; None where the reader's head is not loaded."""
    percentile: float | None = None
    """The share of the sentences of benign pairs, 0 to 1, that the reader expected less; None where no card knows."""
    surprising: bool | None = None
    """Whether the reader expected it less than nine of ten sentences of benign pairs; None where that is not known."""
    quadrant: Quadrant = ""
    """Where it stands."""
    knowledge: tuple[str, ...] = ()
    """The indicators of knowledge that were active on its own words."""


class Change(Part):
    """What became of a number when features were taken out of the reader."""

    name: str
    """The indicator; `response log-probability` for the mean log-probability of the response's tokens."""
    before: float
    """With the features."""
    after: float
    """Without them."""
    random_mean: float
    """The mean over random features of equal norm."""
    random_low: float
    """The lower end of the interval that holds 95 % of these; `random_high` is the upper."""
    random_high: float
    """The upper end of that interval."""
    beyond_random: bool
    """Whether the change lies outside of what random features of equal norm did."""


class WordChange(Part):
    """A word of the response whose log-probability changed most."""

    text: int
    """The index in `Explanation.texts`."""
    start: int
    """Its first code point."""
    end: int
    """One past its last."""
    change: float
    """After less before, in nats, its tokens added up."""


class Ablation(Part):
    """What a flagged indicator's features do: taken out of the reader where their SAE reads, at every token."""

    indicator: str
    """The name of the indicator."""
    features: tuple[str, ...] = ()
    """Those that raised its score."""
    controls: int = 0
    """How many random sets of features of equal norm it was held against."""
    removed: float = 0.0
    """The norm of what was taken out, as a share of the norm of the activations, the mean over tokens where any was."""
    changes: tuple[Change, ...] = ()
    """What changed, the response first."""
    words: tuple[WordChange, ...] = ()
    """The words whose log-probability changed most."""
    conclusion: str
    """What may be said of it, in a sentence; or why it could not be measured."""


class Span(Part):
    """A place in a text."""

    text: int
    """The index in `Explanation.texts`."""
    start: int
    """Its first code point."""
    end: int
    """One past its last."""


class Deletion(Part):
    """The words without which the verdict is another: as few as a greedy search found, which may not be the fewest."""

    turned: bool
    """Whether the verdict turned."""
    words: tuple[Span, ...] = ()
    """The words that were deleted."""
    scored: int = 0
    """How many shortened pairs were scored on the way."""
    verdict: Literal["pass", "flag", "incomplete"] = "pass"
    """The verdict without them."""
    conclusion: str
    """What may be said of it, in a sentence."""


class CoverageExplained(Part):
    """How much of the pair was read; as in `Coverage`."""

    tokens: int
    """The number of tokens that were read, those of the template included."""
    prompt_tokens: int
    """Those of the prompt."""
    response_tokens: int
    """Those of the response."""
    history_tokens: int
    """Those of the history."""
    truncated: bool = False
    """Whether something was cut to fit the reader."""
    windows: int = 1
    """In how many passes the response was read."""


class ProvenanceExplained(Part):
    """What produced the numbers; as in `Provenance`."""

    reader: str
    """The name of the reader."""
    reader_revision: str = ""
    """Its revision."""
    reader_digest: str
    """The digest of its weights."""
    watchlist: str
    """The name of the watchlist."""
    watchlist_digest: str
    """Its digest."""
    relation: Literal["same_model", "reader_model"]
    """Whether the reader wrote the response itself."""
    version: str
    """The version of scopewatch."""
    rendering_digest: str = ""
    """The digest of how conversations are rendered."""
    watchlists_version: int = 0
    """The version of the set of watchlists."""
    saes: dict[str, str] = Field(default_factory=dict)
    """The digest of each SAE, by its name."""
    batch_invariant: bool = False
    """Whether the pair's activations are the same whatever other pairs it was read with."""


class Explanation(Part):
    """Why a pair got its verdict, and how far that can be trusted."""

    request_id: str
    """The id that the caller gave the pair."""
    verdict: Literal["pass", "flag", "incomplete"]
    """`incomplete` where nothing flagged and not all was read or scored."""
    incomplete: tuple[str, ...] = ()
    """Why the pair was not judged whole; empty if it was."""
    summary: str
    """The first paragraph, for whoever is no engineer."""
    trust: tuple[str, ...] = ()
    """How far this may be trusted, and what may not be concluded, in sentences; the gravest first."""
    texts: tuple[Text, ...] = ()
    """The texts that were read: history, prompt, response."""
    tokens: Tokens = Tokens()
    """Their tokens."""
    indicators: tuple[IndicatorExplained, ...] = ()
    """The indicators, in the order of the watchlist."""
    features: tuple[Feature, ...] = ()
    """The watched features that fired."""
    groups: tuple[Group, ...] = ()
    """What knowledge was active."""
    saes: tuple[SaeExplained, ...] = ()
    """What each whole dictionary made of the pair."""
    hedging_by: str = ""
    """The indicator by which sentences hedge; `hedge words` where a list of words is counted."""
    sentences: tuple[Sentence, ...] = ()
    """The sentences of the response, in their order."""
    sentences_note: str = ""
    """How it was decided what hedges, and what of the sentences is not known, and why."""
    ablations: tuple[Ablation, ...] = ()
    """What features behind flags do to the reader; empty unless it was asked for."""
    deletion: Deletion | None = None
    """The words without which the verdict is another; None unless it was asked for."""
    coverage: CoverageExplained
    """How much of the pair was read."""
    provenance: ProvenanceExplained
    """What produced the numbers."""
    label_note: str = ""
    """What to make of labels that a machine wrote; empty where there is none."""
