"""The texts of a pair as HTML, cut into the pieces that heat lies on."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from scopewatch.explanation import Explanation, SegmentName, Sentence, Span
from scopewatch.report.visible import visible_html

MOST_PIECES = 10_000
_MOST_HTML = 900_000
"""The most bytes of HTML that the texts of a page take."""
MOST_SENTENCES = 200
"""How many sentences are told of one by one."""
_LONGEST_UNREAD = 240
"""The most characters that are shown of a stretch that was not read."""
_MOST_TEXTS = 60
_ORDER: dict[SegmentName, int] = {"history": 0, "prompt": 1, "response": 2}


@dataclass(frozen=True, slots=True)
class Piece:
    """What can be pointed at in a text: a token, or several that share a character."""

    start: int
    end: int
    tokens: tuple[int, ...]
    """Their indices in `Explanation.tokens`."""


@dataclass(frozen=True, slots=True)
class ShownText:
    """One text as HTML."""

    number: int
    """Its index in `Explanation.texts`."""
    segment: SegmentName
    title: str
    html: str
    pieces: tuple[Piece, ...]
    """Those that the HTML holds, each an element of the class `t`, in this order."""


def pieces_of(explanation: Explanation) -> list[list[Piece]]:
    """The pieces of each text, in their order."""
    tokens = explanation.tokens
    found: list[list[Piece]] = [[] for _ in explanation.texts]
    for token in sorted(range(len(tokens.text)), key=lambda at: (tokens.start[at], at)):
        mine, start, end = found[tokens.text[token]], tokens.start[token], tokens.end[token]
        if mine and (start < mine[-1].end or start == end):
            mine[-1] = Piece(mine[-1].start, max(end, mine[-1].end), (*mine[-1].tokens, token))
        else:
            mine.append(Piece(start, end, (token,)))
    return found


def shown_texts(explanation: Explanation, start_tag: Callable[[Piece], str]) -> list[ShownText]:
    """The texts in the order of the conversation. What there is room for is given to the response first.

    Args:
        explanation: The explanation.
        start_tag: What gives the start tag of a piece's `span`, which is of the class `t`.
    """
    pieces = pieces_of(explanation)
    chosen = [*range(len(explanation.texts))]
    chosen.sort(key=lambda at: (_ORDER[explanation.texts[at].segment], explanation.texts[at].turn), reverse=True)
    left = _Room(_MOST_HTML, MOST_PIECES)
    shown = []
    for number in chosen[:_MOST_TEXTS]:
        text = explanation.texts[number]
        sentences = {at: one for at, one in enumerate(explanation.sentences[:MOST_SENTENCES]) if one.text == number}
        writer = _Writer(text.text, left, start_tag, sentences)
        for piece in pieces[number]:
            if not writer.piece(piece):
                break
        shown.append(
            ShownText(number, text.segment, _title(text.segment, text.role), writer.close(), tuple(writer.pieces))
        )
    return shown[::-1]


def struck_out(text: str, spans: Sequence[Span], around: int = 160) -> str:
    """A text as HTML in which spans are struck out; what is far from all of them is left out."""
    parts, done = [], 0
    for span in sorted(spans, key=lambda one: one.start):
        start = max(span.start, done)
        parts.append(_between(text, done, start, around))
        parts.append(f"<del>{visible_html(text[start : span.end])}</del>")
        done = max(done, span.end)
    parts.append(_between(text, done, len(text), around))
    return "".join(parts)


def _between(text: str, start: int, end: int, around: int) -> str:
    """What stands between two places, without its middle if it is long."""
    if end - start <= 2 * around:
        return visible_html(text[start:end])
    left_out = f'<span class="cut">{end - start - 2 * around:,} characters</span>'
    return f"{visible_html(text[start : start + around])} {left_out} {visible_html(text[end - around : end])}"


def _title(segment: SegmentName, role: str) -> str:
    return {"history": f"Earlier turn ({role})", "prompt": "Prompt", "response": "Response"}[segment]


@dataclass(slots=True)
class _Room:
    """What there is room for on the page, of all texts together."""

    html: int
    pieces: int


@dataclass(slots=True)
class _Writer:
    """Writes one text from its first character on, until it is all there or the room is used up."""

    text: str
    room: _Room
    start_tag: Callable[[Piece], str]
    sentences: Mapping[int, Sentence]
    """By their numbers in the explanation."""
    pieces: list[Piece] = field(default_factory=list)
    _parts: list[str] = field(default_factory=list)
    _done: int = 0
    _sentence: int | None = None
    _begun: set[int] = field(default_factory=set)
    _full: bool = False
    _numbers: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._numbers = sorted(self.sentences, key=lambda number: self.sentences[number].start)

    def piece(self, piece: Piece) -> bool:
        """Writes what stands before a piece, and the piece; tells whether there was room for it."""
        self._unread(piece.start)
        if self._full or not self.room.pieces:
            self._full = True
            return False
        letters = self.text[max(piece.start, self._done) : piece.end]
        word = letters.lstrip(" \n\t")
        sentence = self._sentence_at(piece.end - len(word) if word else piece.start)
        if sentence != self._sentence:
            self._enter(None)
        self._write(letters[: len(letters) - len(word)])
        self._enter(sentence)
        self._write(f"{self.start_tag(piece)}{visible_html(word)}</span>")
        self.pieces.append(piece)
        self.room.pieces -= 1
        self._done = max(self._done, piece.end)
        return True

    def close(self) -> str:
        """The HTML, its end included."""
        if not self._full:
            self._unread(len(self.text))
        self._enter(None)
        if self._done < len(self.text):
            self._parts.append(
                f' <span class="cut">the other {len(self.text) - self._done:,} characters are not shown</span>'
            )
        return "".join(self._parts)

    def _unread(self, until: int) -> None:
        """Writes what was not read, which is white space, or more than was wanted of a long text."""
        if until <= self._done or self._full:
            return
        between = self.text[self._done : until]
        if between.isspace() and len(between) <= _LONGEST_UNREAD:
            self._write(visible_html(between))
        elif between:
            self._enter(None)
            shown, left_out = visible_html(between[:_LONGEST_UNREAD]), len(between) - _LONGEST_UNREAD
            more = f" … and {left_out:,} more characters" if left_out > 0 else ""
            self._write(f'<span class="unread" title="not read">{shown}<span class="cut">not read{more}</span></span>')
        self._done = until

    def _sentence_at(self, place: int) -> int | None:
        """The number of the sentence at a place."""
        at = bisect_right(self._numbers, place, key=lambda number: self.sentences[number].start) - 1
        if at < 0 or self.sentences[self._numbers[at]].end <= place:
            return None
        return self._numbers[at]

    def _enter(self, sentence: int | None) -> None:
        """Closes the sentence that is written, and opens another."""
        if sentence == self._sentence:
            return
        if self._sentence is not None:
            self._parts.append("</span>")
        if sentence is not None:
            first = " first" if self.sentences[sentence].quadrant == "check_first" else ""
            number = sentence + 1
            anchor = f'<sup><a href="#q{number}" aria-label="sentence {number}">{number}</a></sup>'
            begins = sentence not in self._begun
            self._begun.add(sentence)
            self._parts.append(
                f'<span class="s{first}" id="s{number}">{anchor}' if begins else f'<span class="s{first}">'
            )
        self._sentence = sentence

    def _write(self, part: str) -> None:
        self._parts.append(part)
        self.room.html -= len(part.encode())
        self._full = self._full or self.room.html <= 0
