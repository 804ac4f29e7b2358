"""How far an explanation may be trusted, and what may not be concluded from it: sentences, the gravest first.

Each sentence stands where it is true of the very numbers, and nowhere else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scopewatch.engine.looks import Looked
from scopewatch.explain.phrases import called, listed, percent
from scopewatch.explain.sums import Summed, differing_parts
from scopewatch.explanation import Ablation, Deletion
from scopewatch.identity import Relation
from scopewatch.types import Segment
from scopewatch.verdicts import Judgement
from scopewatch.watch.cards import Card

_FRAGILE = 0.25
"""Which part of its AUROC's way above chance an indicator loses where it is called fragile."""


@dataclass(frozen=True, slots=True)
class Known:
    """What an explanation stands on."""

    judgement: Judgement
    sums: Sequence[Summed]
    looked: Sequence[Looked]
    ablations: Sequence[Ablation]
    deletion: Deletion | None
    shows_labels: bool
    """Whether it shows what a feature is said to mean."""

    @property
    def scored(self) -> list[Summed]:
        """The indicators that were scored."""
        return [one for one in self.sums if not one.score.skipped_reason]


def trust(known: Known) -> tuple[str, ...]:
    """How far an explanation may be trusted, in sentences."""
    parts = (_measured, _unexplained, _unread, _beside_words, _fragile, _leaky, _readings, _reader, _cause, _words)
    return tuple(sentence for part in parts for sentence in part(known))


def _measured(known: Known) -> Iterator[str]:
    """Thresholds that nobody measured on what runs."""
    for one in known.scored:
        if one.score.card_warning:
            yield f"The card of {called(one.source)} does not speak for what runs here: {one.score.card_warning}."
    if by_hand := [called(one.source) for one in known.scored if one.source.card is None]:
        thresholds = "threshold" if len(by_hand) == 1 else "thresholds"
        yield f"Uncalibrated: nobody measured how often the {thresholds} of {listed(by_hand)} is right."


def _unexplained(known: Known) -> Iterator[str]:
    """What the SAEs do not see of the response."""
    for one in known.looked:
        share = one.shares.get(Segment.RESPONSE)
        if share is not None and share > 0.5:
            yield (
                f"This explanation stands on {percent(share)} unexplained activation: so much of the variance of what "
                f"the reader computed on the response at {one.hookpoint} is not in what the SAE {one.sae} makes of it."
            )
        if one.problem:
            yield f"Of the SAE {one.sae} something could not be told: {one.problem}."


def _unread(known: Known) -> Iterator[str]:
    """What was not read, not scored, or not read in one piece."""
    for reason in known.judgement.incomplete:
        yield f"Not all of it was read, and what was not may hold anything: {reason}."
    if skipped := [called(one.source) for one in known.sums if one.score.skipped_reason]:
        yield f"Nothing is said by {listed(skipped)}: there is no text that it judges."
    coverage = known.judgement.coverage
    if coverage.windows > 1:
        yield f"The response was read in {coverage.windows} passes, and in each the reader saw only a part of it."
    if coverage.folded:
        yield "The reader's chat template refused the roles, and messages were folded into others."
    if coverage.shortened:
        yield f"The reader's chat template left out a part of {listed(coverage.shortened)}."


def _beside_words(known: Known) -> Iterator[str]:
    """Indicators that counting words might replace."""
    cards = [(one, one.source.card) for one in known.scored if one.source.card]
    if no_better := [called(one.source) for one, card in cards if card.beats_bag_of_words is False]:
        does = "does" if len(no_better) == 1 else "do"
        yield (
            f"On the pairs of the card, {listed(no_better)} {does} not do clearly better than a bag of words, which "
            "only counts words."
        )
    for one, card in cards:
        if card.stands_on:
            yield (
                f"{called(one.source)} stands on one word: without “{card.stands_on}” it loses more than half of what "
                "it is better than chance."
            )
    deletion = known.deletion
    if deletion and deletion.turned and len(deletion.words) == 1:
        yield "The verdict stands on one word of this pair: without it, it is another."


def _fragile(known: Known) -> Iterator[str]:
    """Indicators that do much worse where something is changed that should not matter."""
    for one in known.scored:
        if one.source.card and (found := _most_fragile(one.source.card)):
            yield f"{called(one.source)} is fragile: {found}."


def _most_fragile(card: Card) -> str:
    """The change under which an indicator does worst, in words; empty where it does not lose much."""
    if not card.fragility:
        return ""
    plain, *changed = card.fragility
    worst = min(changed, key=lambda row: row.auroc, default=plain)
    if plain.auroc - worst.auroc <= _FRAGILE * (plain.auroc - 0.5):
        return ""
    return f"its AUROC on held-out pairs is {plain.auroc:.2f}, and {worst.auroc:.2f} under “{worst.change}”"


def _leaky(known: Known) -> Iterator[str]:
    """Data that give the label away without any reading."""
    for one in known.scored:
        for leak in one.source.card.leaks if one.source.card else ():
            yield f"The data that {called(one.source)} was calibrated on are leaky: {leak}."


def _readings(known: Known) -> Iterator[str]:
    """Indicators whose score is that of the cleaned texts."""
    if cleaned := [called(one.source) for one in known.scored if one.cleaned]:
        yield (
            f"{listed(cleaned)}: judged is what the texts say without characters that hide or imitate letters, not the "
            "texts as they were sent."
        )
    sums = {one.source.name: one for one in known.scored}
    for name, parts in differing_parts(sums).items():
        yield (
            f"{called(sums[name].source)} was judged on another reading of the texts than {listed(parts)}, and "
            "its summands are the scores of its own."
        )


def _reader(known: Known) -> Iterator[str]:
    """Whose activations these are."""
    made_by = known.judgement.made_by
    if made_by.relation is Relation.READER_MODEL:
        yield (
            f"Another model wrote the response: this is what {made_by.reader} makes of it while it reads, a reader's "
            "impression, and not what was active in the model that wrote it."
        )
    else:
        yield f"The watchlist says that {made_by.reader} wrote the response itself; nothing here checks that."


def _cause(known: Known) -> Iterator[str]:
    """What activation does not show."""
    measured = [one for one in known.ablations if one.changes]
    for one in measured:
        if not any(change.beyond_random for change in one.changes):
            yield (
                f"Taking out the features behind {one.indicator} does no more to the reader than taking out random "
                "ones of equal norm."
            )
    if not measured:
        yield "That a feature was active does not show that it caused anything: no feature was taken out to see."


def _words(known: Known) -> Iterator[str]:
    """What labels are."""
    if known.shows_labels:
        yield "What a feature is said to mean is a description of where it was seen to be active, not evidence."
