"""The smallest deletion: the words without which the verdict is another."""

import asyncio
from collections.abc import Sequence

from scopewatch.explain.behind_flag import ranked_words, segments_behind
from scopewatch.explain.shortening import Word, words_of
from scopewatch.explain.texts import ReadTexts
from scopewatch.explain.word_search import Read, Shorter, WordSearch
from scopewatch.explanation import Deletion, Span
from scopewatch.pipeline.stages import Judged
from scopewatch.verdicts import Verdict

_MOST_NAMED = 8
_LONGEST = 40
_NOBODY_WROTE = "What is left is a text that nobody wrote, and the reader may find it odd for that alone."


async def smallest_deletion(judged: Judged, read: Read, *, most_scored: int = 128) -> Deletion | None:
    """Looks for as few words as it can find without which the verdict is another.

    Words go from the texts that the flagged indicators read, themselves or by their parts: those of the response, as a
    rule, and the prompt's for an indicator that reads the prompt, which nothing in the response can change. Words are
    tried in the order of how much their tokens add to these scores, taken out until the verdict turns, then put back as
    far as it stays turned (`word_search`). Something that is seen stays of every segment.

    Args:
        judged: The pair.
        read: Reads and judges a pair; all pairs that are tried at once are read together.
        most_scored: How many shortened pairs are read, at most.

    Returns:
        The words and the verdict without them; None where the verdict is not FLAG.

    Raises:
        ScopewatchError: Reading failed for another reason than the shortened pair itself; such pairs are left out.
    """
    if judged.judgement.verdict is not Verdict.FLAG:
        return None
    segments = segments_behind(judged)
    words = await asyncio.to_thread(words_of, judged.asked.job.pair, segments)
    if not words:
        names = " and ".join(sorted(segment.name.lower() for segment in segments))
        return _not_turned(f"Nothing of the {names} can be left out: the caller sent it as tokens.")
    texts = ReadTexts.of(judged.asked.job.pair, judged.read.tokenised.readings[0])
    # Others are answered meanwhile.
    ranked = await asyncio.to_thread(ranked_words, judged, texts, words)
    search = WordSearch(judged, read, ranked, most_scored)
    found = await search.take_out()
    if not found.turned:
        return _not_turned(_why_not(search), scored=search.scored)
    found = await search.put_back(found)
    gone = sorted(found.cut, key=lambda word: (texts.number_of(word.segment, word.turn), word.start))
    return Deletion(
        turned=True,
        words=tuple(
            Span(text=texts.number_of(word.segment, word.turn), start=word.start, end=word.end) for word in gone
        ),
        scored=search.scored,
        verdict=found.verdict.value,
        conclusion=_found(found, gone, search),
    )


def _not_turned(conclusion: str, scored: int = 0) -> Deletion:
    return Deletion(turned=False, scored=scored, verdict="flag", conclusion=conclusion)


def _why_not(search: WordSearch) -> str:
    tried = f"{_count(search.scored)} scored{_failures(search)}, and the verdict of each is FLAG"
    if search.exhausted:
        return f"{tried}; more are not tried, so that there may be words without which it is another."
    return f"{tried}. Something has to stay of every text, and a greedy search may miss words that would turn it."


def _found(found: Shorter, gone: Sequence[Word], search: WordSearch) -> str:
    if len(gone) == 1:
        sure = "a greedy search found it, and other words may do the same"
    elif search.exhausted:
        sure = f"some of them may be needless, since the search ended when {_count(search.scored)} scored"
    elif search.failed:
        sure = "some of them may be needless"
    else:
        sure = "with any one of them it is FLAG. A greedy search found them, which may miss a smaller set"
    return f"Without {_named(gone)} the verdict is {found.verdict.name}; {sure}{_failures(search)}. {_NOBODY_WROTE}"


def _count(scored: int) -> str:
    return "1 shortened pair was" if scored == 1 else f"{scored} shortened pairs were"


def _failures(search: WordSearch) -> str:
    return f" ({search.failed} more could not be read)" if search.failed else ""


def _named(words: Sequence[Word]) -> str:
    """The words in quotes, a few of many."""
    quoted = [f"'{_plain(word.text)}'" for word in words[:_MOST_NAMED]]
    if more := len(words) - len(quoted):
        quoted.append(f"{more} more")
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _plain(text: str) -> str:
    """A word as it may stand in a sentence: cut if it is long, and with nothing in it that turns what is around it."""
    shown = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return "".join(char if char.isprintable() or char == "\u200d" else f"\\u{ord(char):04x}" for char in shown)
