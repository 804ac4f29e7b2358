"""The two parts of a pair that are read, what stands before the answer and the answer, with whose each text is."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scopewatch.errors import FieldViolation, InvalidRequest
from scopewatch.reader.cleaning.clean import Cleaned, clean, odd_chars
from scopewatch.reader.text.conversation import Conversations
from scopewatch.reader.text.traced import Piece, Traced, joined, pieces_of, traced
from scopewatch.reader.text.vocabulary import Encoded, Vocabulary
from scopewatch.scripts import main_script
from scopewatch.types import Coverage, Pair, ReadText, Segment


@dataclass(frozen=True, slots=True)
class Part:
    """A text that is read."""

    text: str
    """The text, with its pieces."""
    sources: tuple[ReadText, ...]
    """The caller's texts, by the numbers that the pieces give."""
    given: Encoded | None = None
    """The tokens of the text, where the caller gave tokens and the text is what they decode to."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Both parts of a pair."""

    head: Part
    """What stands before the answer."""
    answer: Part
    says: Coverage
    """What the template did to the texts, and the odd characters in them; how much is read is left open."""
    changed: bool
    """Whether cleaning changed a text."""
    odd_shares: Mapping[Segment, float]
    """The share of each segment's characters that hide or imitate letters."""

    @property
    def given(self) -> bool:
        """Whether the caller gave the tokens of either part."""
        return self.head.given is not None or self.answer.given is not None


def parts_of(pair: Pair, vocabulary: Vocabulary, conversations: Conversations, *, cleaned: bool) -> Parts:
    """Takes a pair apart.

    Args:
        pair: The pair.
        vocabulary: The reader's tokenizer.
        conversations: Renders what stands before the answer.
        cleaned: Whether the texts are read without what hides or imitates letters.

    Raises:
        InvalidRequest: The template refuses the messages, or the caller's tokens and texts do not go together.
    """
    for name in ("prompt_token_ids", "response_token_ids"):
        _check_ids(name, getattr(pair, name), vocabulary.size)
    answer = _answer(pair, vocabulary)
    own = pair.response or str.__str__(answer.text)
    texts = [*(turn.content for turn in pair.history), pair.prompt, own]
    segments = [Segment.HISTORY] * len(pair.history) + [Segment.PROMPT, Segment.RESPONSE]
    says, odd_shares = _oddities(texts, segments)
    says = replace(says, script=main_script(own))
    sources = [ReadText(Segment.HISTORY, turn.content, number) for number, turn in enumerate(pair.history)]
    sources.append(ReadText(Segment.PROMPT, pair.prompt))
    changed = False
    if cleaned:
        clean_texts = [clean(text) for text in texts]
        changed = any(one.text != text for one, text in zip(clean_texts, texts, strict=True))
        sources = [_of(source, text) for source, text in zip(sources, clean_texts, strict=False)]
        answer = _whole(_of(ReadText(Segment.RESPONSE, own), clean_texts[-1]))
        turns = [replace(turn, content=one.text) for turn, one in zip(pair.history, clean_texts, strict=False)]
        pair = replace(pair, history=tuple(turns), prompt=clean_texts[-2].text)
    if pair.prompt_token_ids:
        # Tokens are as they are, so it is the caller's own text that is looked for in them.
        head = _given(pair.prompt_token_ids, ReadText(Segment.PROMPT, texts[-2]), vocabulary)
        lost = () if pieces_of(head.text) else ("prompt",)
        return Parts(head, answer, replace(says, unlocated=lost), changed, odd_shares)
    rendered = conversations.render(pair)
    unlocated, shortened = _losses(rendered.text, [*(turn.content for turn in pair.history), pair.prompt])
    says = replace(says, unlocated=unlocated, shortened=shortened, folded=rendered.folded)
    return Parts(Part(rendered.text, tuple(sources)), answer, says, changed, odd_shares)


def joined_parts(head: Part, answer: Part) -> Part:
    """Both parts as one text."""
    shifted = [piece._replace(source=piece.source + len(head.sources)) for piece in pieces_of(answer.text)]
    text = joined((head.text, Traced.of(answer.text, shifted)))
    return Part(text, (*head.sources, *answer.sources))


def _oddities(texts: Sequence[str], segments: Sequence[Segment]) -> tuple[Coverage, dict[Segment, float]]:
    """What there is to say of texts: which segments hold any, how many characters hide or imitate letters in all of
    them, and their share of each segment's characters.
    """
    invisible, lookalike = 0, 0
    odd, length = Counter[Segment](), Counter[Segment]()
    for text, segment in zip(texts, segments, strict=True):
        found = odd_chars(text)
        invisible += found.invisible_chars
        lookalike += found.lookalike_chars
        odd[segment] += found.invisible_chars + found.lookalike_chars
        length[segment] += len(text)
    shares = {segment: odd[segment] / length[segment] for segment in length if odd[segment]}
    written = dict.fromkeys(
        segment.name.lower() for text, segment in zip(texts, segments, strict=True) if text and not text.isspace()
    )
    says = Coverage(0, 0, 0, 0, unscored=tuple(written), invisible_chars=invisible, lookalike_chars=lookalike)
    return says, shares


def _answer(pair: Pair, vocabulary: Vocabulary) -> Part:
    own = ReadText(Segment.RESPONSE, pair.response)
    if not pair.response_token_ids:
        return _whole(own)
    part = _given(pair.response_token_ids, own, vocabulary)
    if pair.response and not pieces_of(part.text):
        raise InvalidRequest(
            FieldViolation("response", "does not stand in what response_token_ids decode to; leave it empty")
        )
    return part


def _whole(text: ReadText) -> Part:
    return Part(traced(text.text, 0), (text,))


def _given(ids: Sequence[int], own: ReadText, vocabulary: Vocabulary) -> Part:
    """Tokens that a caller gave. Where the caller gave the text too, it is the last place in them where that stands."""
    decoded, encoded = vocabulary.decode(ids)
    text = own.text
    # Some tokenizers leave out a space at the beginning.
    wanted = [text, text.lstrip()] if text else [decoded]
    found = next((one for one in wanted if one and one in decoded), "")
    at = decoded.rfind(found)
    pieces = [Piece(at, at + len(found), 0, text.find(found) if text else 0)] if found else []
    return Part(Traced.of(decoded, pieces), (replace(own, text=text or decoded),), encoded)


def _of(own: ReadText, text: Cleaned) -> ReadText:
    return replace(own, text=text.text, starts=text.starts, ends=text.ends)


def _losses(rendered: str, texts: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of texts of which nothing is found in the rendering, and of those of which something is missing."""
    found: dict[int, list[Piece]] = {}
    for piece in pieces_of(rendered):
        found.setdefault(piece.source, []).append(piece)
    unlocated, shortened = [], []
    for number, text in enumerate(texts):
        name = f"history[{number}].content" if number < len(texts) - 1 else "prompt"
        if number not in found and text.strip():
            unlocated.append(name)
        elif number in found and not _is_covered(text, found[number]):
            shortened.append(name)
    return tuple(unlocated), tuple(shortened)


def _is_covered(text: str, pieces: Sequence[Piece]) -> bool:
    """Whether the pieces hold all of a text but white space."""
    if len(pieces) == 1 and pieces[0].end - pieces[0].start == len(text):
        return True
    missing = np.ones(len(text), np.bool_)
    for piece in pieces:
        missing[piece.offset : piece.offset + piece.end - piece.start] = False
    return not any(not text[place].isspace() for place in np.flatnonzero(missing).tolist())


def _check_ids(name: str, ids: Sequence[int], size: int) -> None:
    for place, one in enumerate(ids):
        if not 0 <= one < size:
            raise InvalidRequest(FieldViolation(f"{name}[{place}]", f"is {one}; the reader has {size} tokens"))
