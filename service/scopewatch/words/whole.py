"""Whole words: what people see of a span that begins or ends inside of one, as tokens do."""

import unicodedata

_ZERO_WIDTH_JOINER = "\u200d"
_SKIN_TONES = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"


def whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """The span of the whole words that a span touches, white space left out; an emoji of several characters is one.

    Args:
        text: The text.
        start: The first character of the span.
        end: One past its last.
    """
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    while start < end and _joined(text, start):
        start -= 1
    while start < end and _joined(text, end):
        end += 1
    return start, end


def _joined(text: str, at: int) -> bool:
    """Whether the characters before and at a position belong together: one word, or one emoji of several."""
    if not 0 < at < len(text):
        return False
    before, after = text[at - 1], text[at]
    modifies = unicodedata.category(after).startswith("M") or after in _SKIN_TONES or after == _ZERO_WIDTH_JOINER
    word = (before.isalnum() or unicodedata.category(before).startswith("M")) and after.isalnum()
    return modifies or word or before == _ZERO_WIDTH_JOINER
