"""Each sentence of the response: whether it hedges or asserts, whether the reader expected it, and what it knew there.

A sentence hedges by the indicator that shows hedging: where it scores above the 95th percentile of single sentences of
benign pairs, or above its threshold where no card knows these. Without such an indicator hedge words are counted. It
is surprising where its mean log-probability is below the 10th percentile of such sentences'.

Knowledge was active on a sentence where an indicator that shows it is above its threshold on that sentence alone. That
a feature of it fires there would be no sign: of several dozen features one fires on nearly every sentence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scopewatch.explain.sentence_scores import SentenceScores, sentence_scores
from scopewatch.explain.texts import ReadTexts
from scopewatch.explanation import Quadrant, Sentence
from scopewatch.pipeline.compiled import CompiledWatchlist
from scopewatch.pipeline.signals import HEDGED, hedge_shares
from scopewatch.sentences import SegmentSentences
from scopewatch.types import CoveredActivations, Float64, Segment
from scopewatch.verdicts import IndicatorScore
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.reference import LEVELS, Reference, percentile

HEDGE_WORDS = "hedge words"
_HEDGES_ABOVE = LEVELS.index(0.95)
_SURPRISES_BELOW = LEVELS.index(0.1)
_QUADRANTS: dict[tuple[bool | None, bool | None], Quadrant] = {
    (False, False): "solid",
    (True, False): "cautious",
    (True, True): "speculative",
    (False, True): "check_first",
}
"""By whether a sentence hedges and whether it is surprising."""
_NO_HEAD = (
    "Whether the reader expected a sentence is not known, for its head is not loaded; the setting explain_whole loads "
    "it."
)
_NO_BENIGN_SENTENCES = (
    "Whether a sentence is surprising is not known, for no card says how well the reader expects sentences of benign "
    "pairs; `scopewatch watchlist reference` measures that."
)
_KNOWLEDGE = (
    "Knowledge is named where its indicator is above its threshold on the sentence alone; that threshold was set on "
    "whole responses, so that a sentence without a name may well rest on knowledge."
)


@dataclass(frozen=True, slots=True)
class Sentences:
    """The sentences of a response."""

    by: str
    """By what they hedge, as in `Explanation.hedging_by`."""
    sentences: tuple[Sentence, ...]
    note: str
    """As in `Explanation.sentences_note`."""


@dataclass(frozen=True, slots=True)
class _Hedging:
    """How much each of the n sentences hedges; None where it cannot be told."""

    by: str
    amounts: Sequence[float | None]
    hedged: Sequence[bool | None]
    note: str


def sentences_told(
    watchlist: CompiledWatchlist,
    references: Sequence[Reference | None],
    texts: ReadTexts,
    covered: CoveredActivations,
    logprobs: Float64 | None,
) -> Sentences:
    """What there is to say of each sentence of a response.

    Args:
        watchlist: The watchlist.
        references: Where the benign pairs lie, of each of its indicators.
        texts: The texts, with the n tokens of the explanation.
        covered: What fired on the pair's tokens.
        logprobs: The log-probability of each of the pair's tokens, in nats; None where the reader's head is not loaded.
    """
    of_response = [one.source for one in watchlist.indicators if one.segment is Segment.RESPONSE]
    knows = [source for source in of_response if source.shows == "knowledge"]
    hedgers = [source for source in of_response if source.shows == "hedging"][:1]
    asked = _only(watchlist, [*hedgers, *knows])
    found = list(sentence_scores(asked, texts.pair, covered, Segment.RESPONSE))
    if not found:
        return Sentences("", (), "No sentence of the response was read.")
    scores = [{score.name: score for score in one.indicators} for one in found]
    if hedgers:
        place = [one.source for one in watchlist.indicators].index(hedgers[0])
        hedging = _by_indicator([own[hedgers[0].name] for own in scores], references[place])
    else:
        hedging = _by_words(texts)
    benign = next((one.sentence_logprob for one in references if one and one.sentence_logprob), None)
    told = []
    for one, own, amount, hedged in zip(found, scores, hedging.amounts, hedging.hedged, strict=True):
        logprob = None if logprobs is None else float(logprobs[one.positions].mean())
        below = surprising = None
        if benign and logprob is not None:
            below, surprising = percentile(benign, logprob), logprob < benign[_SURPRISES_BELOW]
        text = texts.number_of(Segment.RESPONSE, one.turn)
        told.append(
            Sentence(
                text=text,
                start=_first_visible(texts.texts[text].text, one),
                end=one.end,
                hedging=amount,
                hedged=hedged,
                logprob=logprob,
                percentile=below,
                surprising=surprising,
                quadrant=_QUADRANTS.get((hedged, surprising), ""),
                knowledge=tuple(source.name for source in knows if own[source.name].flagged),
            )
        )
    expected = _NO_HEAD if logprobs is None else _NO_BENIGN_SENTENCES if benign is None else ""
    notes = (hedging.note, expected, _KNOWLEDGE if knows else "")
    return Sentences(hedging.by, tuple(told), " ".join(filter(None, notes)))


def _only(watchlist: CompiledWatchlist, asked: Sequence[Indicator]) -> CompiledWatchlist:
    """The watchlist with no other indicators than these and those that they are combinations of."""
    names = {name for source in asked for name in (source.name, *(term.name for term in source.combines))}
    return replace(watchlist, indicators=tuple(one for one in watchlist.indicators if one.source.name in names))


def _by_indicator(scores: Sequence[IndicatorScore], reference: Reference | None) -> _Hedging:
    """How much sentences hedge by what one indicator says of each."""
    benign = reference.sentence_score if reference else None
    name = scores[0].name
    if benign:
        note = f"A sentence hedges where it scores higher by {name} than 95 % of the sentences of benign pairs."
    else:
        note = (
            f"A sentence hedges where it is above the threshold of {name}, which was set on whole responses; "
            "`scopewatch watchlist reference` measures how single sentences of benign pairs score."
        )
    above = [one.score > benign[_HEDGES_ABOVE] if benign else one.flagged for one in scores]
    return _Hedging(
        name,
        [None if one.skipped_reason else one.score for one in scores],
        [None if one.skipped_reason else hedged for one, hedged in zip(scores, above, strict=True)],
        note,
    )


def _by_words(texts: ReadTexts) -> _Hedging:
    """How much sentences hedge by the share of their words that are hedges."""
    shares = hedge_shares(SegmentSentences(texts.pair, Segment.RESPONSE))
    note = (
        f"A sentence hedges where {100 * HEDGED:.0f} % of its words or more are hedge words, for no indicator of this "
        "watchlist shows hedging."
    )
    return _Hedging(HEDGE_WORDS, shares.tolist(), (shares >= HEDGED).tolist(), note)


def _first_visible(text: str, sentence: SentenceScores) -> int:
    """Where a sentence begins without the white space before it."""
    own = text[sentence.start : sentence.end]
    return sentence.start + len(own) - len(own.lstrip())
