"""What is said of a pair: verdicts, scores, evidence and what produced them. Immutable, like all that crosses rooms."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import overload

import numpy as np
from numpy.typing import NDArray

from scopewatch.identity import FeatureKey, FeatureTable, Relation
from scopewatch.types import Coverage, Segment


class Verdict(StrEnum):
    """What a watchlist says of a pair as a whole.

    FLAG if one of its indicators is flagged; else INCOMPLETE if a text that one of them judges was not read whole;
    else PASS.
    """

    PASS = "pass"  # noqa: S105 - not a password
    FLAG = "flag"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True, slots=True)
class Timings:
    """The seconds that each stage took; 0 where a stage did not run."""

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
"""The sentence that stands wherever labels of the index are shown."""


@dataclass(frozen=True, slots=True)
class FeatureScore:
    """What one term added to an indicator's score."""

    feature: FeatureKey | str
    """The feature; in a combination, the name of the other indicator or of the reader's signal; of words, the word, the
    phrase or the pair of words."""
    label: str
    pooling: str
    pooled: float
    contribution: float
    label_source: str = ""
    """Who says what the feature means, as in `Label.source`."""


@dataclass(frozen=True, slots=True)
class Term:
    """One feature of an indicator, with what a reply says of it."""

    feature: FeatureKey
    label: Label
    pooling: str


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Terms:
    """The terms of an indicator, in its order: one object for all pairs, so that others remember what they derive."""

    terms: tuple[Term, ...]

    def __iter__(self) -> Iterator[Term]:
        return iter(self.terms)


class FeatureScores(Sequence[FeatureScore]):
    """What the terms of an indicator added to its score, those that added something, largest first.

    A pair has a hundred of them, and who serialises or counts them needs no object for each: `rows` has the numbers.

    Args:
        of: The indicator's terms.
        rows: For each that added something its place among the terms, the pooled value and what it added.
    """

    __slots__ = ("_made", "of", "rows")

    def __init__(self, of: Terms, rows: Sequence[tuple[int, float, float]]) -> None:
        self.of = of
        self.rows = rows
        self._made: tuple[FeatureScore, ...] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, key: int) -> FeatureScore: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[FeatureScore, ...]: ...
    def __getitem__(self, key: int | slice) -> FeatureScore | tuple[FeatureScore, ...]:
        if self._made is None:
            self._made = tuple(
                FeatureScore(term.feature, term.label.text, term.pooling, pooled, added, term.label.source)
                for place, pooled, added in self.rows
                for term in (self.of.terms[place],)
            )
        return self._made[key]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))


@dataclass(frozen=True, slots=True)
class Evidence:
    """A span of the caller's own text, in Unicode code points: where a feature fired, a word counted, or the sentence
    stands that decided a signal.
    """

    start: int
    end: int
    feature: FeatureKey | str
    """The feature; the word, phrase or pair of words; or the name of the signal."""
    activation: float
    """The feature's highest activation in the span, what the word adds to the score there, or the signal's value."""
    segment: Segment
    turn: int


@dataclass(frozen=True, slots=True)
class IndicatorScore:
    """What one indicator says of a pair, and why."""

    name: str
    score: float
    threshold: float
    """The threshold that this score was held against."""
    flagged: bool
    severity: str
    calibrated: bool
    """Whether the indicator has a card, and the card speaks for what runs."""
    probability: float | None = None
    card_warning: str = ""
    """Why the indicator's card does not speak for what runs; empty if it does, or if there is no card."""
    features: Sequence[FeatureScore] = ()
    evidence: tuple[Evidence, ...] = ()
    n_tokens: int = 0
    """How many tokens the segment has, by which the threshold may go."""
    skipped_reason: str = ""
    """Why the indicator was not scored; empty if it was."""


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
    batch_invariant: bool = False
    """As in `ReaderIdentity`."""


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
    incomplete: tuple[str, ...] = ()
    """What was to be judged and was not read whole, and why: one sentence each."""
    rendering_digest: str = ""
    """SHA-256 over everything but the texts that decided what was read."""


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A pair's judgement, and what this answer cost."""

    judgement: Judgement
    timings: Timings
    cached: bool
    watchlists_version: int = 0
    """The version of the watchlists that the call began with; 0 where there is only one for ever."""

    @property
    def verdict(self) -> Verdict:
        """The judgement's verdict."""
        return self.judgement.verdict

    @property
    def indicators(self) -> tuple[IndicatorScore, ...]:
        """The judgement's indicators, in the order of the watchlist."""
        return self.judgement.indicators

    @property
    def coverage(self) -> Coverage:
        """How much of the pair was read."""
        return self.judgement.coverage

    @property
    def watchlist(self) -> str:
        """The name of the watchlist that judged."""
        return self.judgement.made_by.watchlist
